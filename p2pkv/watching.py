"""Records as they arrive: looks at a key again and again, and tells each version once.

Theory of operation. Records are ordered by their writers' clocks, not by their arrival: one whose put took long, or
whose writer's clock is slow, appears behind others that were told already. So every look begins a while before the
newest version told, a longer while now and then, and what was told is remembered for as long as a look goes back. A
replica that is away or a key that cannot be read for a moment ends nothing; the next look sees what came meanwhile.

Owns what one watcher has seen. Never speaks to peers: `read` is the swarm's ordered reading of the key.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from p2pkv.core.clock import clock_of
from p2pkv.core.records import Cursor, Version, decode_cursor, encode_cursor
from p2pkv.errors import IncompleteError, P2pkvError, UnreachableError
from p2pkv.limits import (
    WATCH_OVERLAP_S,
    WATCH_PATIENCE_S,
    WATCH_S,
    WATCH_SEEN_MAX,
    WATCH_SWEEP_BACK_S,
    WATCH_SWEEP_S,
)

Read = Callable[[Cursor | None], AsyncIterator[Version]]
"""The live versions of the key behind a position (None: all), in the order of time."""


class Watch:
    """One watcher of one key. `cursor` is the newest position told: whoever resumes there doubles nothing."""

    def __init__(self, read: Read, now_s: Callable[[], float]) -> None:
        self.cursor = ""
        self._head: Cursor | None = None
        self._read = read
        self._now_s = now_s
        self._seen: set[Cursor] = set()
        self._floor = Cursor(0, b"")  # positions up to here are not looked at again
        self._swept_s = float("-inf")
        self._failing_since_s: float | None = None

    async def begin(self, cursor: str) -> None:
        """What stands up to there counts as told; with an empty cursor nothing does. Raises InvalidError."""
        if not cursor:
            return
        self.cursor = cursor
        head = self._head = decode_cursor(cursor)
        async for version in self._read(self._back(WATCH_SWEEP_BACK_S)):
            position = position_of(version)
            if position > head:
                return
            self._seen.add(position)

    async def arrivals(self) -> AsyncIterator[Version]:
        """For ever. Raises what keeps the key from being read for longer than WATCH_PATIENCE_S."""
        while True:
            try:
                async for version in self._look():
                    yield version
                self._failing_since_s = None
            except (IncompleteError, UnreachableError) as error:
                self._bear(error)
            await asyncio.sleep(WATCH_S)

    async def _look(self) -> AsyncIterator[Version]:
        """One look. What it yields is told, also where it fails behind that."""
        loop_s = asyncio.get_running_loop().time()
        sweeping = loop_s - self._swept_s >= WATCH_SWEEP_S
        async for version in self._read(self._back(WATCH_SWEEP_BACK_S if sweeping else WATCH_OVERLAP_S)):
            position = position_of(version)
            if position in self._seen:
                continue
            self._seen.add(position)
            if self._head is None or position > self._head:
                self._head, self.cursor = position, encode_cursor(version)
            yield version
        if sweeping:
            self._swept_s = loop_s
            self._forget()

    def _back(self, seconds: float) -> Cursor | None:
        """Where a look begins. A writer's clock that runs ahead must not hide what others put now."""
        if self._head is None:
            return None
        newest = min(self._head.clock, clock_of(self._now_s()))
        return max(self._floor, Cursor(max(0, newest - clock_of(seconds)), b""))

    def _forget(self) -> None:
        """What no look will see again; of too many, the oldest, and no look goes back there."""
        begin = self._back(WATCH_SWEEP_BACK_S)
        if begin is not None:
            self._seen = {position for position in self._seen if position > begin}
        if len(self._seen) > WATCH_SEEN_MAX:
            kept = sorted(self._seen)[-WATCH_SEEN_MAX:]
            self._floor, self._seen = kept[0], set(kept)

    def _bear(self, error: P2pkvError) -> None:
        now_s = asyncio.get_running_loop().time()
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        if now_s - self._failing_since_s >= WATCH_PATIENCE_S:
            raise error


def position_of(version: Version) -> Cursor:
    return Cursor(version.clock, *version.identity)
