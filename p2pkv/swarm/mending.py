"""Brings replicas that a read found lagging up to date, behind the read's back.

Owns the tasks that do it, bounded in number. What is right was decided by the read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from p2pkv.core.pages import PageName, split_marker
from p2pkv.core.records import Version
from p2pkv.core.replication import Settlement
from p2pkv.errors import RemoteError
from p2pkv.limits import REPAIRS_PENDING_MAX
from p2pkv.swarm.sources import Source


class Mender:
    """Starts repairs and never waits for them."""

    def __init__(self) -> None:
        self.mended = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def mend(self, key: bytes, page: PageName, sources: Sequence[Source], settlements: Sequence[Settlement]) -> None:
        """Start bringing the settled versions to the replicas that lack them."""
        for index, source in enumerate(sources):
            for settled in settlements:
                if index in settled.stale:
                    self._start(source, key, page, settled.version)

    def tell_split(self, key: bytes, page: PageName, sources: Sequence[Source]) -> None:
        """Start telling replicas that missed it that their page is split."""
        for source in sources:
            self._start(source, key, page, split_marker(page))

    def _start(self, source: Source, key: bytes, page: PageName, version: Version) -> None:
        if len(self._tasks) >= REPAIRS_PENDING_MAX:
            return
        task = asyncio.create_task(self._store(source, key, page, version))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _store(self, source: Source, key: bytes, page: PageName, version: Version) -> None:
        try:
            await source.mend(key, page, [version])
            self.mended += 1
        except RemoteError:
            return  # it lags on; background repair comes by

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
