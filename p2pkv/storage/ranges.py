"""What a RangeQuery means: which part of an order it spans and which of the records there it returns.

Shared by every engine, so that they cannot differ in a cursor. Knows nothing of where records lie.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from p2pkv.core.records import Version
from p2pkv.outcomes import Order
from p2pkv.storage.interface import Cursor, RangeQuery, RangeResult
from p2pkv.storage.sorted_keys import Key

_encoder = msgspec.msgpack.Encoder()


class Span(msgspec.Struct, frozen=True):
    """A part of an order; None is the order's own end. An open end excludes its key."""

    low: Key | None
    low_open: bool
    high: Key | None
    high_open: bool


def encode(version: Version) -> bytes:
    """The bytes whose length is a version's size, in `bytes_max`, in page sizes and in the quota."""
    return _encoder.encode(version)


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


def collect(candidates: Iterable[tuple[Version, int]], query: RangeQuery, now_s: float) -> RangeResult:
    """Take versions (with their sizes, in the order of reading) until a limit is reached."""
    taken: list[Version] = []
    room_bytes = query.bytes_max
    for version, size_bytes in candidates:
        if version.pending is not query.pending:
            continue
        if not query.pending and not query.dead and (version.dead or version.expired(now_s)):
            continue
        if query.prefix and not version.name.startswith(query.prefix):
            continue
        room_bytes -= size_bytes
        if len(taken) >= query.limit or (taken and room_bytes < 0):
            return RangeResult(taken, True)
        taken.append(version)
    return RangeResult(taken, False)
