"""What one watcher of a key is told: each version once, in whatever order it comes, and where to resume.

Theory of operation. Versions come to a watcher by two ways that know nothing of each other: pushed by several replicas,
each in its own order, lost or repeated; and read, in the order of the writers' clocks. Neither order is that of
arrival: a slow writer's version, or one from a healed partition, appears behind others that were told long ago. So
nothing is concluded from order. `Told` remembers, record by record, the version of the highest rank that was told; a
version is told where it outranks that one. What a watcher was told before it began is everything up to `floor`.

A cursor must say the same in few bytes: everything up to `floor` was told, and beyond it the versions whose marks it
lists, one by one; so what stands beyond `floor` and is not listed came late or after the cursor, and is told on
resumption. `Tail` keeps the list short: it begins WATCH_OVERLAP_S back, or WATCH_MARKS_MAX records. Where something is
known to be lacking, `floor` must not pass it; then resumption may tell some twice, where more are marked than fit.

Owns what was told. Never reads, pushes or asks for the time.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from bisect import insort
from collections import deque
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Final

import msgspec

from p2pkv.core.clock import CLOCK_MAX, clock_of, time_of
from p2pkv.core.records import Cursor, Flag, Version, content_hash
from p2pkv.errors import InvalidError
from p2pkv.limits import (
    WATCH_CURSOR_CHARS_MAX,
    WATCH_MARKS_MAX,
    WATCH_OVERLAP_S,
    WATCH_SWEEP_BACK_S,
    WATCH_SWEEP_RECORDS_MAX,
    WATCH_TOLD_MAX,
)

MARK_BYTES: Final = 5  # two of 512 marks and a late version agree once in 2 billion
START: Final = Cursor(0, b"")
Place = tuple[int, bytes, bytes]
"""A position in time order, as Cursor has it."""
Rank = tuple[bool, int, bytes]
"""What of `records.rank` can differ between two versions that their author signed."""


class WatchCursor(msgspec.Struct, array_like=True, frozen=True):
    """What was told. It begins with the newest position told, so `get` takes it as its own kind of cursor."""

    clock: int
    name: bytes
    owner: bytes
    floor: Cursor | None = None  # everything up to here was told; None: up to the newest position
    marks: bytes = b""  # of what was told beyond the floor


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(WatchCursor)


def decode_watch_cursor(text: str) -> WatchCursor:
    """Of a record that was watched, or that `get` returned. Raises InvalidError."""
    try:
        if len(text) > WATCH_CURSOR_CHARS_MAX:
            raise ValueError("too long")
        cursor = _decoder.decode(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        if not 0 <= cursor.clock <= CLOCK_MAX or len(cursor.marks) % MARK_BYTES:
            raise ValueError("out of bounds")
    except (ValueError, msgspec.MsgspecError) as error:
        raise InvalidError(
            f"not a cursor: {text[:100]!r}", "give `after` a cursor that an earlier answer returned"
        ) from error
    return cursor


def cursor_of(version: Version) -> WatchCursor:
    """Everything up to a version was told."""
    return WatchCursor(version.clock, *version.identity)


def mark_of(version: Version) -> bytes:
    return content_hash(version)[:MARK_BYTES]


def _place(version: Version) -> Place:
    return (version.clock, *version.identity)


def _rank(version: Version) -> Rank:
    return bool(version.flags & Flag.ONCE), version.clock, version.author


class Told:
    """The versions that were told, or need not be; of too many records those of the lowest clocks give way."""

    def __init__(self, floor: Cursor = START, size_max: int = WATCH_TOLD_MAX) -> None:
        self.floor = floor  # whatever stands up to here is not told any more
        self._ranks: dict[tuple[bytes, bytes], Rank] = {}
        self._heap: list[Place] = []  # one for each record, and some that were replaced since
        self._size_max = size_max

    def __len__(self) -> int:
        return len(self._ranks)

    def knows(self, version: Version) -> bool:
        """Was this version told, or one that outranks it?"""
        rank = self._ranks.get(version.identity)
        if rank is not None and rank >= _rank(version):
            return True
        return version.clock <= self.floor.clock and Cursor(*_place(version)) <= self.floor

    def learn(self, version: Version) -> None:
        self._ranks[version.identity] = _rank(version)
        heappush(self._heap, _place(version))
        while len(self._ranks) > self._size_max:
            self._forget_lowest()
        if len(self._heap) > 2 * len(self._ranks) + 64:
            self._heap = [(rank[1], *identity) for identity, rank in self._ranks.items()]
            heapify(self._heap)

    def _forget_lowest(self) -> None:
        clock, name, owner = heappop(self._heap)
        rank = self._ranks.get((name, owner))
        if rank is not None and rank[1] == clock:
            del self._ranks[name, owner]
            self.floor = max(self.floor, Cursor(clock, name, owner))


class Tail:
    """The newest of what was told, as a cursor lists it."""

    def __init__(self, floor: Cursor = START) -> None:
        self.floor = floor
        self.sure_to: Cursor | None = None  # beyond it something may be lacking; None: nowhere
        self._entries: list[tuple[Place, bytes]] = []

    def add(self, version: Version, now_s: float) -> None:
        place = _place(version)
        if Cursor(*place) <= self.floor:
            return
        insort(self._entries, (place, mark_of(version)))
        now, oldest = clock_of(now_s), clock_of(max(0.0, now_s - WATCH_OVERLAP_S))
        while self._entries:
            lowest = Cursor(*self._entries[0][0])
            sure = self.sure_to is None or lowest <= self.sure_to
            if len(self._entries) <= WATCH_MARKS_MAX and (lowest.clock >= oldest or not sure):
                return
            del self._entries[0]
            if sure and lowest.clock <= now:  # a floor ahead of our clock would hide what others put next
                self.floor = lowest

    @property
    def marks(self) -> bytes:
        return b"".join([mark for _, mark in self._entries])


class Frontier:
    """Decides of every version that comes whether the watcher is told."""

    def __init__(self, resumed: WatchCursor | None, now_s: float) -> None:
        """`resumed`: what was told before; None: nothing, ever."""
        self._head: Place = (resumed.clock, resumed.name, resumed.owner) if resumed else (0, b"", b"")
        begin = START
        if resumed:
            newest_s = min(time_of(resumed.clock), now_s)
            begin = Cursor(clock_of(max(0.0, newest_s - WATCH_SWEEP_BACK_S)), b"")
        self._before_floor = (resumed.floor or Cursor(*self._head)) if resumed else START
        self._before = _split(resumed.marks) if resumed else {}
        self._told = Told(begin)
        self._tail = Tail(self._before_floor)
        self._clocks: deque[int] = deque(maxlen=WATCH_SWEEP_RECORDS_MAX)
        self.begun = False  # everything that stood when the watch began was looked at

    def settle(self, version: Version, now_s: float) -> None:
        """A version that stands when the watch begins: told before, if the cursor says so."""
        listed = self._before.pop(mark_of(version), False)
        if listed or Cursor(*_place(version)) <= self._before_floor:
            self._told.learn(version)
            self._tail.add(version, now_s)

    def knows(self, version: Version) -> bool:
        """Certainly nothing new. Cheap."""
        return self._told.knows(version)

    def take(self, version: Version, now_s: float) -> bool:
        """Is the watcher told this version? It counts as told then; one that is dead or expired just ends others."""
        if self._told.knows(version):
            return False
        self._told.learn(version)
        self._clocks.append(version.clock)
        if version.dead or version.expired(now_s):
            return False
        self._tail.add(version, now_s)
        self._head = max(self._head, _place(version))
        return True

    def doubt_beyond(self, position: Cursor | None) -> None:
        """Something may be lacking beyond a position, which a read will bring; None: nothing is."""
        self._tail.sure_to = position

    @property
    def floor(self) -> Cursor:
        """Nothing up to here is looked at any more."""
        return self._told.floor

    def read_from(self, since_s: float, *, far: bool) -> Cursor:
        """Where a read begins that must find whatever arrived since then; `far`: with a very slow clock, too."""
        back_s = WATCH_OVERLAP_S
        if far:
            full = len(self._clocks) == WATCH_SWEEP_RECORDS_MAX
            span_s = since_s - time_of(self._clocks[0]) if full else WATCH_SWEEP_BACK_S
            back_s = min(max(back_s, span_s), WATCH_SWEEP_BACK_S)
        return max(self.floor, Cursor(clock_of(max(0.0, since_s - back_s)), b""))

    @property
    def cursor(self) -> str:
        """Where to resume, as users keep it; empty where nothing was ever told."""
        if self._head == START_PLACE:
            return ""
        marks = self._tail.marks
        if not self.begun:  # what was told before and was not come by yet
            marks += b"".join(islice(self._before, WATCH_MARKS_MAX))
        cursor = WatchCursor(*self._head, self._tail.floor, marks)
        return urlsafe_b64encode(_encoder.encode(cursor)).decode().rstrip("=")


START_PLACE: Final[Place] = (0, b"", b"")


def _split(marks: bytes) -> dict[bytes, bool]:
    return {marks[at : at + MARK_BYTES]: True for at in range(0, len(marks), MARK_BYTES)}
