"""Brings replicas that a read found lagging up to date, behind the read's back.

Owns what is to be done, bounded in number, and the task that does it. What is right was decided by the read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from p2pkv.core.pages import PageName, split_marker
from p2pkv.core.records import Version
from p2pkv.core.replication import Settlement
from p2pkv.errors import RemoteError
from p2pkv.limits import REPAIRS_AT_ONCE_MAX, REPAIRS_PAUSE_S, REPAIRS_PENDING_MAX
from p2pkv.storage.interface import StoreFailedError
from p2pkv.swarm.sources import Source


class _Repair(NamedTuple):
    source: Source
    key: bytes
    page: PageName
    version: Version


class Mender:
    """Plans repairs and never waits for them. They begin a moment later: what the read waits for comes first."""

    def __init__(self) -> None:
        self.mended = 0
        self._planned: deque[_Repair] = deque()
        self._work: asyncio.Task[None] | None = None

    def mend(self, key: bytes, page: PageName, sources: Sequence[Source], settlements: Sequence[Settlement]) -> None:
        """Bring the settled versions to the replicas that lack them, soon."""
        for index, source in enumerate(sources):
            for settled in settlements:
                if index in settled.stale:
                    self._plan(_Repair(source, key, page, settled.version))

    def tell_split(self, key: bytes, page: PageName, sources: Sequence[Source]) -> None:
        """Tell replicas that missed it that their page is split, soon."""
        for source in sources:
            self._plan(_Repair(source, key, page, split_marker(page)))

    def _plan(self, repair: _Repair) -> None:
        if len(self._planned) >= REPAIRS_PENDING_MAX:
            return
        self._planned.append(repair)
        if self._work is None:
            self._work = asyncio.create_task(self._carry_out())

    async def _carry_out(self) -> None:
        try:
            while self._planned:
                await asyncio.sleep(REPAIRS_PAUSE_S)
                some = [self._planned.popleft() for _ in range(min(len(self._planned), REPAIRS_AT_ONCE_MAX))]
                await asyncio.gather(*(self._store(repair) for repair in some))
        finally:
            self._work = None

    async def _store(self, repair: _Repair) -> None:
        try:
            await repair.source.mend(repair.key, repair.page, [repair.version])
            self.mended += 1
        except (RemoteError, StoreFailedError):
            return  # it lags on; background repair comes by

    async def close(self) -> None:
        self._planned.clear()
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
