"""Hears a quorum of a page's replicas on one stretch: the data of one, and digests of the others.

Theory of operation. The first source gives the data, the next ones digests of the same stretch, all at once. Where one
fails, or keeps the others waiting beyond a patience, a spare source takes its place; whichever comes first counts. A
source counts once, for its data or for its digest.

Owns the questions under way. Judges nothing that they bring.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from p2pkv.core.replication import Run
from p2pkv.errors import RemoteError
from p2pkv.limits import RUN_PATIENCE_S
from p2pkv.messages import FindRecordsReply
from p2pkv.swarm.sources import Source

Stretch = Callable[[Source], Coroutine[Any, Any, Run]]
Check = Callable[[Source], Coroutine[Any, Any, FindRecordsReply]]


class Hearing:
    """One stretch, heard of a quorum of some sources."""

    def __init__(self, sources: list[Source], quorum: int, stretch: Stretch, check: Check) -> None:
        self._spares = list(sources)
        self._quorum = quorum
        self._stretch = stretch
        self._check = check
        self._tasks: dict[asyncio.Task[Any], Source] = {}
        self._stretches: set[asyncio.Task[Run]] = set()
        self.run: Run | None = None
        self.giver: Source | None = None
        self.checks: dict[Source, FindRecordsReply] = {}
        self._error = RemoteError("failed", "too few replicas")

    async def hear(self) -> Run:
        """The data; `checks` has the digests of enough others then. Raises RemoteError where too few answer."""
        try:
            self._ask()
            patience_s: float | None = RUN_PATIENCE_S
            while not self._enough():
                done, _ = await asyncio.wait(self._tasks, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    self._take(task)
                if not done:  # once: what is waited for then is slow, and so may be whoever takes its place
                    patience_s = None
                self._ask(late=not done)
                if not self._tasks and not self._enough():
                    raise self._error
            assert self.run is not None
            return self.run
        finally:
            await self._end()

    def _enough(self) -> bool:
        return self.run is not None and len(self.checks) >= self._quorum - 1

    def _ask(self, *, late: bool = False) -> None:
        """As many as are lacking; beside those that are late, too."""
        under_way = 0 if late else len(self._tasks)
        if self.run is None and (late or not self._stretches):
            self._begin(self._stretch)
        lacking = self._quorum - 1 - len(self.checks) - (0 if late else under_way - len(self._stretches))
        for _ in range(lacking):
            self._begin(self._check)

    def _begin(self, question: Callable[[Source], Coroutine[Any, Any, Any]]) -> None:
        if not self._spares:
            return
        source = self._spares.pop(0)
        task = asyncio.create_task(question(source))
        self._tasks[task] = source
        if question is self._stretch:
            self._stretches.add(task)

    def _take(self, task: asyncio.Task[Any]) -> None:
        source = self._tasks.pop(task)
        gives = task in self._stretches
        self._stretches.discard(task)
        try:
            answer = task.result()
        except RemoteError as error:
            self._error = error
            return
        if not gives:
            self.checks[source] = answer
        elif self.run is None:
            self.run, self.giver = answer, source

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
