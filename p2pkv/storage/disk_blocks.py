"""Records that came in order, many to a row.

Theory of operation. To insert a short record into its table and two indexes costs more than all else that is done with
it. But most names are made by the clock, so what comes to a page mostly stands behind all that is there, by name and by
time; or, where it comes late or from another page, between what is there. Such records are written as blocks: rows of
many records, which lie in them in order. The blocks of a page overlap neither in names nor in clocks, and the order of
both is the same, so either is read from the same blocks. A record that changes leaves its block,
which is written anew without it: each lies in one place, a block or a row of its own. What can expire, is dead or waits
in a batch always has a row, where the indexes of those find it.

Owns the table `blocks`. Knows nothing of pages' totals.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar
from zlib import crc32

import msgspec

from p2pkv.core.records import Version
from p2pkv.limits import STORE_BLOCK_BYTES_MAX, STORE_BLOCK_RECORDS_MAX, STORE_BLOCK_RECORDS_MIN
from p2pkv.outcomes import Order
from p2pkv.storage.ranges import Span, order_key
from p2pkv.storage.sorted_keys import Key
from p2pkv.wire import array_head

Identity = tuple[bytes, bytes]
T = TypeVar("T")

TABLE = """
CREATE TABLE IF NOT EXISTS blocks (
    id INTEGER PRIMARY KEY, page INTEGER NOT NULL, low BLOB NOT NULL, high BLOB NOT NULL, low_clock INTEGER NOT NULL,
    high_clock INTEGER NOT NULL, total INTEGER NOT NULL, size_bytes INTEGER NOT NULL, crc INTEGER NOT NULL,
    data BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS blocks_by_name ON blocks (page, low);
CREATE INDEX IF NOT EXISTS blocks_by_time ON blocks (page, low_clock);
"""
LAST = (
    "(SELECT high FROM blocks WHERE page = pages.id ORDER BY low DESC LIMIT 1), "
    "(SELECT high_clock FROM blocks WHERE page = pages.id ORDER BY low DESC LIMIT 1)"
)
"""Where the last block of a row of `pages` ends, by name and by time: no other goes further."""
_SAVE = (
    "INSERT INTO blocks (page, low, high, low_clock, high_clock, total, size_bytes, crc, data) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_BEFORE = "SELECT high, high_clock FROM blocks WHERE page = ? AND low <= ? ORDER BY low DESC LIMIT 1"
_BEHIND = "SELECT low_clock FROM blocks WHERE page = ? AND low > ? ORDER BY low LIMIT 1"
_CHANGE = "UPDATE blocks SET total = ?, size_bytes = ?, crc = ?, data = ? WHERE id = ?"
_LAST_BEFORE = "SELECT id, high FROM blocks WHERE page = wanted_page AND low <= wanted_name ORDER BY low DESC LIMIT 1"
_FIND = (
    "WITH wanted (wanted_page, wanted_name) AS (VALUES {}) "  # noqa: S608
    f"SELECT id, page, crc, data FROM blocks WHERE id IN "
    f"(SELECT (SELECT id FROM ({_LAST_BEFORE}) WHERE high >= wanted_name) FROM wanted)"
)
_FIRST = (
    "WITH wanted (wanted_page) AS (VALUES {}) SELECT page, crc, data FROM wanted "
    "CROSS JOIN blocks ON id = (SELECT id FROM blocks WHERE page = wanted_page ORDER BY {} LIMIT 1)"
)
_EDGES = {"time": ("low_clock", "high_clock"), "name": ("low", "high")}


class _Named(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A version, of which only the name is wanted."""

    name: bytes


_raws = msgspec.msgpack.Decoder(list[msgspec.Raw])
_nameds = msgspec.msgpack.Decoder(list[_Named])
_version = msgspec.msgpack.Decoder(Version)


Fresh = tuple[bytes, bytes, Version, bytes]
"""A record that was not there before: its name, its owner, the version and that encoded."""


class Damaged(NamedTuple):
    """A block whose bytes do not match, and between which names its records were."""

    id: int
    crc: int
    low: bytes
    high: bytes


@dataclass(slots=True)
class Block:
    """What a block holds, in order: each name once."""

    page_id: int
    names: list[bytes]
    entries: list[msgspec.Raw]

    def records(self, wanted: Sequence[tuple[int, bytes]]) -> Iterator[tuple[Version, msgspec.Raw]]:
        """Those of its records whose page and name are among these, which are in order. No other one is decoded."""
        first = bisect_left(wanted, (self.page_id, self.names[0]))
        behind = bisect_right(wanted, (self.page_id, self.names[-1]))
        for _, name in wanted[first:behind]:
            index = bisect_left(self.names, name)
            if self.names[index] == name:
                yield _version.decode(self.entries[index]), self.entries[index]


def choose(
    records: Sequence[Fresh], last_name: bytes = b"", last_clock: int = -1
) -> tuple[list[Sequence[Fresh]], list[Fresh]]:
    """Those of a page's new records that stand in order behind a name and a clock, as blocks, and the others.

    `records` are in order of their names.
    """
    runs: list[list[Fresh]] = [[]]
    others: list[Fresh] = []
    size_bytes = 0
    for record in records:
        name, _, version, data = record
        if name <= last_name or version.clock <= last_clock:
            others.append(record)
            continue
        last_name, last_clock = name, version.clock
        if len(runs[-1]) >= STORE_BLOCK_RECORDS_MAX or size_bytes + len(data) > STORE_BLOCK_BYTES_MAX:
            runs.append([])
            size_bytes = 0
        runs[-1].append(record)
        size_bytes += len(data)
    others += [record for run in runs if len(run) < STORE_BLOCK_RECORDS_MIN for record in run]
    return [run for run in runs if len(run) >= STORE_BLOCK_RECORDS_MIN], others


# --- writing ---


def save(database: sqlite3.Connection, page_id: int, blocks: Sequence[Sequence[Fresh]]) -> None:
    """New blocks of a page."""
    rows: list[tuple[object, ...]] = []
    for block in blocks:
        (low, _, first, _), (high, _, last, _) = block[0], block[-1]
        summary = _summary(page_id, [data for _, _, _, data in block])
        rows.append((page_id, low, high, first.clock, last.clock, *summary))
    database.executemany(_SAVE, rows)


def fits(database: sqlite3.Connection, page_id: int, block: Sequence[Fresh]) -> bool:
    """Is there room for a block between those of its page?"""
    (low, _, first, _), (high, _, last, _) = block[0], block[-1]
    before = database.execute(_BEFORE, (page_id, high)).fetchone()
    behind = database.execute(_BEHIND, (page_id, high)).fetchone()
    in_order = before is None or (before[0] < low and before[1] < first.clock)
    return in_order and (behind is None or last.clock < behind[0])


def take_out(database: sqlite3.Connection, block_id: int, block: Block, gone: Collection[Identity]) -> None:
    """Write a block anew without some of its records."""
    names = {name for name, _ in gone}  # of a name there is one record at the most
    left = [bytes(entry) for name, entry in zip(block.names, block.entries, strict=True) if name not in names]
    if left:
        database.execute(_CHANGE, (*_summary(block.page_id, left), block_id))
    else:
        database.execute("DELETE FROM blocks WHERE id = ?", (block_id,))


def _summary(page_id: int, entries: Sequence[bytes]) -> tuple[int, int, int, bytes]:
    """How many, their size, the checksum and the bytes."""
    head = array_head(len(entries))
    data = head + b"".join(entries)
    return len(entries), len(data) - len(head), checksum(page_id, data), data


def checksum(page_id: int, data: bytes) -> int:
    """Of a row, or a block. Bound to the page, so one under a wrong page is noticed too."""
    return crc32(data, page_id & 0xFFFFFFFF)


def drop(database: sqlite3.Connection, block_id: int, crc: int) -> tuple[int, int, int] | None:
    """Remove a block if it still has this checksum; its page, how many records went, and their size."""
    sql = "DELETE FROM blocks WHERE id = ? AND crc = ? RETURNING page, total, size_bytes"
    row: tuple[int, int, int] | None = database.execute(sql, (block_id, crc)).fetchone()
    return row


# --- reading ---


def at_names(database: sqlite3.Connection, wanted: Sequence[tuple[int, bytes]]) -> dict[int, Block]:
    """The blocks, by their ids, that may hold records of some pages and names. Damaged ones are left out."""
    sql = _FIND.format(", ".join(["(?, ?)"] * len(wanted)))
    found: dict[int, Block] = {}
    for block_id, page_id, crc, data in database.execute(sql, [value for pair in wanted for value in pair]):
        entries = _unpack(page_id, crc, data)
        if entries:
            found[block_id] = Block(page_id, [named.name for named in _nameds.decode(data)], entries)
    return found


def heads(
    database: sqlite3.Connection, page_ids: Sequence[int], order: Order, *, reverse: bool
) -> dict[int, tuple[Version, int] | None]:
    """The first record of the blocks of each page that has any, with its size; None where that is damaged."""
    first, direction = _EDGES[order][0], "DESC" if reverse else "ASC"
    sql = _FIRST.format(", ".join(["(?)"] * len(page_ids)), f"{first} {direction}")
    found: dict[int, tuple[Version, int] | None] = {}
    for page_id, crc, data in database.execute(sql, page_ids):
        entries = _unpack(page_id, crc, data)
        entry = entries[-1 if reverse else 0] if entries else None
        found[page_id] = (_version.decode(entry), len(entry)) if entry is not None else None
    return found


def scan(database: sqlite3.Connection, after_id: int, limit: int, damaged: list[Damaged]) -> tuple[int, int]:
    """Check up to `limit` blocks behind one; how many records they have, and the last one (-1 at the end)."""
    sql = "SELECT id, page, total, low, high, crc, data FROM blocks WHERE id > ? ORDER BY id LIMIT ?"
    rows = database.execute(sql, (after_id, limit)).fetchall()
    for block_id, page_id, total, low, high, crc, data in rows:
        entries = _unpack(page_id, crc, data)
        if entries is None or len(entries) != total:
            damaged.append(Damaged(block_id, crc, low, high))
    return sum(row[2] for row in rows), rows[-1][0] if len(rows) == limit else -1


def versions_of(
    database: sqlite3.Connection, page_id: int, order: Order, span: Span, *, reverse: bool, damaged: list[Damaged]
) -> Iterator[tuple[Version, int]]:
    """The records of a page's blocks within a span, with their sizes. Damaged blocks are noted."""
    first, last = _EDGES[order]
    where, values = "", list[object]([page_id])
    if span.low is not None:
        where = f"AND {first} >= ifnull((SELECT max({first}) FROM blocks WHERE page = ? AND {first} <= ?), ?)"  # noqa: S608
        values += [page_id, span.low[0], span.low[0]]
    if span.high is not None:
        where += f" AND {first} <= ?"
        values.append(span.high[0])
    columns, direction = f"id, low, high, {first}, {last}, crc, data", "DESC" if reverse else "ASC"
    sql = f"SELECT {columns} FROM blocks WHERE page = ? {where} ORDER BY {first} {direction}"  # noqa: S608
    rows = database.execute(sql, values)
    try:
        for block_id, low, high, begins, ends, crc, data in rows:
            entries = _unpack(page_id, crc, data)
            if entries is None:
                damaged.append(Damaged(block_id, crc, low, high))
                continue
            inside = (span.low is None or begins > span.low[0]) and (span.high is None or ends < span.high[0])
            for entry in reversed(entries) if reverse else entries:
                version = _version.decode(entry)
                if inside or _within(span, order_key(version, order)):
                    yield version, len(entry)
    finally:
        rows.close()


def _within(span: Span, key: Key) -> bool:
    behind = span.low is None or key > span.low or (key == span.low and not span.low_open)
    return behind and (span.high is None or key < span.high or (key == span.high and not span.high_open))


def _unpack(page_id: int, crc: int, data: bytes) -> list[msgspec.Raw] | None:
    """The records of a block; None where its bytes are damaged."""
    return sound(_raws, page_id, crc, data)


def sound(decoder: msgspec.msgpack.Decoder[T], page_id: int, crc: int, data: bytes) -> T | None:
    """What the bytes of a page stand for; None where they are damaged."""
    if checksum(page_id, data) != crc:
        return None
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, TypeError):
        return None
