"""What a RangeQuery means: which part of an order it spans and which of the records there it returns.

Shared by every engine, so that they cannot differ in a cursor. Knows nothing of where records lie.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from p2pkv.core.records import Flag, Version
from p2pkv.outcomes import Order
from p2pkv.storage.interface import Cursor, RangeQuery, RangeResult
from p2pkv.storage.sorted_keys import Key

SCANNED_RECORDS = 256  # what a query counts that picks few out of a page: 4,096 records are passed by as quickly


class Span(msgspec.Struct, frozen=True):
    """A part of an order; None is the order's own end. An open end excludes its key."""

    low: Key | None
    low_open: bool
    high: Key | None
    high_open: bool


EVERYTHING = Span(None, False, None, False)


def order_key(version: Version, order: Order) -> Key:
    """Where a version stands in an order."""
    if order == "time":
        return version.clock, version.name, version.owner
    return version.name, version.owner


def span_of(query: RangeQuery) -> Span:
    """The part of the order that a query reads, its prefix included where the order is by name."""
    after, until = _position(query.after, query.order), _position(query.until, query.order)
    span = Span(until, False, after, True) if query.reverse else Span(after, True, until, False)
    return _narrowed(span, query.prefix) if query.prefix and query.order == "name" else span


def behind_prefix(prefix: bytes) -> bytes | None:
    """The first name after all names with this prefix; None where there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None


def _position(cursor: Cursor | None, order: Order) -> Key | None:
    if cursor is None:
        return None
    return (cursor.clock, cursor.name, cursor.owner) if order == "time" else (cursor.name, cursor.owner)


def _narrowed(span: Span, prefix: bytes) -> Span:
    low, low_open, high, high_open = span.low, span.low_open, span.high, span.high_open
    if low is None or low < (prefix, b""):
        low, low_open = (prefix, b""), False
    end = behind_prefix(prefix)
    if end is not None and (high is None or high >= (end, b"")):
        high, high_open = (end, b""), True
    return Span(low, low_open, high, high_open)


class Budget:
    """What several queries may read together, in records and in encoded bytes. The one that passes it is the last."""

    __slots__ = ("_bytes", "_records")

    def __init__(self, records: int, size_bytes: int) -> None:
        self._records = records
        self._bytes = size_bytes

    def spend(self, query: RangeQuery, records: int, size_bytes: int) -> None:
        """A query was answered. One that has to look at more than it returns costs as much as it may have looked at."""
        scans = query.pending or (query.prefix and query.order == "time")
        self._records -= SCANNED_RECORDS if scans else max(1, records)
        self._bytes -= size_bytes

    @property
    def spent(self) -> bool:
        return self._records <= 0 or self._bytes <= 0


def collect(
    candidates: Iterable[tuple[Version, int]], query: RangeQuery, now_s: float, budget: Budget | None = None
) -> RangeResult:
    """Take versions (with their sizes, in the order of reading) until a limit is reached."""
    taken, more, size_bytes = _taken(candidates, query, now_s)
    if budget is not None:
        budget.spend(query, len(taken), size_bytes)
    return RangeResult(taken, more)


def _taken(
    candidates: Iterable[tuple[Version, int]], query: RangeQuery, now_s: float
) -> tuple[list[Version], bool, int]:
    """The versions, whether there are more, and their size."""
    taken: list[Version] = []
    room_bytes, limit, prefix, pending = query.bytes_max, query.limit, query.prefix, query.pending
    shown = not pending and not query.dead
    for version, size_bytes in candidates:
        if bool(version.flags & Flag.PENDING) is not pending:
            continue
        if shown and (version.dead or version.expired(now_s)):
            continue
        if prefix and not version.name.startswith(prefix):
            continue
        if len(taken) >= limit or (taken and room_bytes < size_bytes):
            return taken, True, query.bytes_max - room_bytes
        room_bytes -= size_bytes
        taken.append(version)
    return taken, False, query.bytes_max - room_bytes
