"""Reading a store's database: each function is one question, asked in a reader's thread on its own connection.

Owns the SQL of questions. Never writes; a damaged row that it meets is left out and reported to the caller.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from heapq import merge
from typing import Any, NamedTuple, TypeVar
from zlib import crc32

import msgspec

from p2pkv.core.records import BATCH_ID_BYTES, Version
from p2pkv.ids import ChunkID, Place
from p2pkv.limits import STORE_ROWS_AT_ONCE_MAX
from p2pkv.outcomes import Order
from p2pkv.storage import disk_blocks
from p2pkv.storage.disk_batch import decode, runs, state_of
from p2pkv.storage.disk_blocks import Block, Damaged
from p2pkv.storage.disk_firsts import asks_for_head
from p2pkv.storage.disk_writer import Location
from p2pkv.storage.interface import Held, PageInfo, RangeQuery, RangeResult, Register, StoreFailedError, Stretch
from p2pkv.storage.page import Page
from p2pkv.storage.ranges import EVERYTHING, Budget, Span, behind_prefix, collect, order_key, span_of
from p2pkv.storage.stretches import itemize

T = TypeVar("T")
_COLUMNS = {"time": "clock, name, owner", "name": "name, owner"}
_INFO = (
    "SELECT place, key, total - dead - (SELECT count(*) FROM versions WHERE page = pages.id AND dead = 0 "
    "AND expires_ms > 0 AND expires_ms <= ?), total, size_bytes FROM pages "
)

_FIND_PAGES = (
    "SELECT place, id, total, "
    "EXISTS (SELECT 1 FROM versions INDEXED BY versions_pending WHERE page = pages.id AND dead = 2), "
    "EXISTS (SELECT 1 FROM blocks WHERE page = pages.id), EXISTS (SELECT 1 FROM versions WHERE page = pages.id) "
    "FROM pages"
)
_FIRST_ROWS = (
    "WITH wanted (wanted_page) AS (VALUES {}) SELECT page, name, clock, crc, data FROM wanted "
    "CROSS JOIN versions ON id = (SELECT id FROM versions WHERE page = wanted_page ORDER BY {} LIMIT 1)"
)
_ROWS_AT_NAMES = (
    "WITH wanted (wanted_page, wanted_name) AS (VALUES {}) SELECT page, id, name, clock, crc, data FROM wanted "
    "CROSS JOIN versions ON page = wanted_page AND name = wanted_name"
)


@dataclass(slots=True)
class Damage:
    """Rows whose bytes do not match, as (id, checksum), the names that they went by, and blocks of records."""

    rows: list[tuple[int, int]] = field(default_factory=list)
    row_names: list[bytes] = field(default_factory=list)
    blocks: list[Damaged] = field(default_factory=list)

    def add(self, row_id: int, crc: int, name: bytes) -> None:
        self.rows.append((row_id, crc))
        self.row_names.append(name)

    def __bool__(self) -> bool:
        return bool(self.rows or self.blocks)

    @property
    def names(self) -> list[str]:
        """What was lost, for people: of a block, between which names its records were."""
        lost = [(name,) for name in self.row_names] + [(block.low, block.high) for block in self.blocks]
        return [" to ".join(name.decode("utf-8", "backslashreplace") for name in names) for names in lost]


def load_or_read(
    database: sqlite3.Connection, query: RangeQuery, now_s: float, bytes_max: int, damage: Damage
) -> Page | RangeResult:
    """The whole page, for the cache; only what is asked for where it is too large for that."""
    page = _load_page(database, query.place, bytes_max, damage)
    return page if page is not None else read_range(database, query, now_s, damage)


def _load_page(database: sqlite3.Connection, place: Place, bytes_max: int, damage: Damage) -> Page | None:
    """None where it is too large. An absent page is an empty one."""
    row = database.execute("SELECT id, key, size_bytes FROM pages WHERE place = ?", (place,)).fetchone()
    if row is None:
        return Page(place)
    page_id, key, size_bytes = row
    if size_bytes > bytes_max:
        return None
    page = Page(place, key)
    for version, size in _whole_page(database, page_id, damage):
        page.replace(version.identity, version, size)
    return page


def read_ranges(
    database: sqlite3.Connection, queries: Sequence[RangeQuery], budget: Budget, now_s: float, damage: Damage
) -> list[RangeResult]:
    """Parts of several pages: of as many, from the first, as the budget lasts for, at least of one."""
    results: list[RangeResult] = []
    with _one_moment(database):  # what waited in a batch and does not any more must be in the run
        for start in range(0, len(queries), STORE_ROWS_AT_ONCE_MAX):
            part = queries[start : start + STORE_ROWS_AT_ONCE_MAX]
            pages = _find_pages(database, {query.place for query in part})
            heads = _heads(database, part, pages)
            for query in part:
                page, head = pages.get(query.place), heads.get((query.place, query.order, query.reverse))
                if page is not None and head is not None and asks_for_head(query):
                    found = collect([head], query, now_s, budget)
                    results.append(msgspec.structs.replace(found, more=page.total > 1))
                else:
                    results.append(_read_run(database, query, page, budget, now_s, damage))
                if budget.spent:
                    return results
        return results


@contextmanager
def _one_moment(database: sqlite3.Connection) -> Iterator[None]:
    """All that is read within is of one moment, whatever is written meanwhile."""
    database.execute("BEGIN")
    try:
        yield
    finally:
        if database.in_transaction:
            database.execute("COMMIT")


def read_range(database: sqlite3.Connection, query: RangeQuery, now_s: float, damage: Damage) -> RangeResult:
    """A part of a page that is too large for the cache."""
    return read_ranges(database, [query], Budget(query.limit, query.bytes_max), now_s, damage)[0]


class _PageRow(NamedTuple):
    id: int
    total: int
    waits: bool  # do versions wait in it?
    blocks: bool  # has it any?
    rows: bool  # has any record one of its own?


def _find_pages(database: sqlite3.Connection, places: Collection[Place]) -> dict[bytes, _PageRow]:
    sql = f"{_FIND_PAGES} WHERE place IN ({', '.join('?' * len(places))})"
    return {place: _PageRow(*row) for place, *row in database.execute(sql, tuple(places))}


_Head = tuple[Place, Order, bool]


def _heads(
    database: sqlite3.Connection, queries: Sequence[RangeQuery], pages: Mapping[bytes, _PageRow]
) -> dict[_Head, tuple[Version, int]]:
    """What is first in pages, of all that are asked for it: they are read together, as a read of a key of many pages
    begins so. Left out are those where something is damaged, and where versions wait in batches."""
    wanted = defaultdict[tuple[Order, bool], dict[int, Place]](dict)
    for query in queries:
        page = pages.get(query.place)
        if page is not None and not page.waits and asks_for_head(query):
            wanted[query.order, query.reverse][page.id] = query.place
    heads: dict[_Head, tuple[Version, int]] = {}
    for (order, reverse), places in wanted.items():
        found = disk_blocks.heads(database, list(places), order, reverse=reverse)
        for page_id, row in _first_rows(database, list(places), order, reverse=reverse):
            in_block = found.get(page_id, row)
            pair = None if row is None or in_block is None else (row, in_block)
            choose = max if reverse else min
            found[page_id] = choose(pair, key=lambda entry: order_key(entry[0], order)) if pair else None
        heads |= {(places[page_id], order, reverse): head for page_id, head in found.items() if head is not None}
    return heads


def _first_rows(
    database: sqlite3.Connection, page_ids: Sequence[int], order: Order, *, reverse: bool
) -> Iterator[tuple[int, tuple[Version, int] | None]]:
    """The first row of each page, with its size; None where it is damaged."""
    sql = _FIRST_ROWS.format(", ".join(["(?)"] * len(page_ids)), _ordering(order, reverse=reverse))
    for page_id, name, clock, crc, data in database.execute(sql, page_ids):
        version = decode(page_id, crc, data)
        sound = version is not None and version.name == name and version.clock == clock
        yield page_id, (version, len(data)) if version is not None and sound else None


def _ordering(order: Order, *, reverse: bool) -> str:
    columns = _COLUMNS[order]
    return columns.replace(",", " DESC,") + " DESC" if reverse else columns


def _read_run(
    database: sqlite3.Connection,
    query: RangeQuery,
    page: _PageRow | None,
    budget: Budget,
    now_s: float,
    damage: Damage,
) -> RangeResult:
    if page is None:
        return collect((), query, now_s, budget)
    span = span_of(query)
    found: list[Iterator[tuple[Version, int]]] = []
    if page.rows:
        found.append(_rows_of(database, page.id, query, span, now_s, damage))
    if page.blocks and not query.pending:
        order, reverse = query.order, query.reverse
        found.append(disk_blocks.versions_of(database, page.id, order, span, reverse=reverse, damaged=damage.blocks))
    result = collect(_merged(found, query), query, now_s, budget)
    return msgspec.structs.replace(result, batches=_batches(database, page.id)) if page.waits else result


def _rows_of(
    database: sqlite3.Connection, page_id: int, query: RangeQuery, span: Span, now_s: float, damage: Damage
) -> Iterator[tuple[Version, int]]:
    where, values = _conditions(query, span, now_s)
    ordered = _ordering(query.order, reverse=query.reverse)
    source = "versions INDEXED BY versions_pending" if query.pending else "versions"  # which are few
    sql = f"SELECT id, name, clock, crc, data FROM {source} WHERE page = ?{where} ORDER BY {ordered}"  # noqa: S608
    rows = database.execute(sql, (page_id, *values))
    try:
        yield from _sound(page_id, rows, damage)
    finally:
        rows.close()


def _merged(found: Sequence[Iterator[tuple[Version, int]]], query: RangeQuery) -> Iterator[tuple[Version, int]]:
    """Rows and blocks in the order of reading. Mostly there is only one of them."""
    if len(found) < 2:
        return found[0] if found else iter(())
    order = query.order
    return merge(*found, key=lambda entry: order_key(entry[0], order), reverse=query.reverse)


def _whole_page(database: sqlite3.Connection, page_id: int, damage: Damage) -> Iterator[tuple[Version, int]]:
    """Every version of a page, in no order."""
    rows = database.execute("SELECT id, name, clock, crc, data FROM versions WHERE page = ?", (page_id,))
    yield from _sound(page_id, rows, damage)
    yield from disk_blocks.versions_of(database, page_id, "name", EVERYTHING, reverse=False, damaged=damage.blocks)


def _batches(database: sqlite3.Connection, page_id: int) -> list[bytes]:
    """The batches that versions of a page wait in: an id is the end of their owner."""
    owners = database.execute("SELECT owner FROM versions WHERE page = ? AND dead = 2", (page_id,))
    return sorted({owner[-BATCH_ID_BYTES:] for (owner,) in owners})


def _conditions(query: RangeQuery, span: Span, now_s: float) -> tuple[str, list[object]]:
    columns, where, values = _COLUMNS[query.order], "", list[object]()
    for edge, sign in ((span.low, ">" if span.low_open else ">="), (span.high, "<" if span.high_open else "<=")):
        if edge is not None:
            where += f" AND ({columns}) {sign} ({', '.join('?' * len(edge))})"
            values += edge
    if query.prefix and query.order == "time":
        end = behind_prefix(query.prefix)
        where += " AND name >= ?" + (" AND name < ?" if end is not None else "")
        values += [query.prefix] if end is None else [query.prefix, end]
    if query.pending:
        where += " AND dead = 2"
    elif not query.dead:
        where += " AND dead = 0 AND (expires_ms = 0 OR expires_ms > ?)"
        values.append(int(now_s * 1000))
    return where, values


def _sound(page_id: int, rows: Iterable[Sequence[Any]], damage: Damage) -> Iterator[tuple[Version, int]]:
    for row_id, name, clock, crc, data in rows:
        version = decode(page_id, crc, data)
        if version is None or version.name != name or version.clock != clock:
            damage.add(row_id, crc, name)
        else:
            yield version, len(data)


def read_name(database: sqlite3.Connection, place: Place, name: bytes, damage: Damage) -> list[Version]:
    return read_names(database, [(place, [name])], damage)[0][0]


def read_names(
    database: sqlite3.Connection, wanted: Sequence[tuple[Place, Sequence[bytes]]], damage: Damage
) -> list[list[list[Version]]]:
    with _one_moment(database):  # a record that changes goes from a block to a row
        pages = _find_pages(database, {place for place, _ in wanted})
        found: dict[tuple[int, bytes], list[Version]] = {}
        for place, names in wanted:
            page = pages.get(place)
            if page is not None:
                found |= {(page.id, name): [] for name in names}
        _find_rows(database, _of_pages(found, {page.id for page in pages.values() if page.rows}), found, damage)
        _find_in_blocks(database, _of_pages(found, {page.id for page in pages.values() if page.blocks}), found)
    for held in found.values():
        held.sort(key=lambda version: version.owner)
    ids = {place: page.id for place, page in pages.items()}
    return [[found.get((ids.get(place, -1), name), []) for name in names] for place, names in wanted]


_At = tuple[int, bytes]
"""A page's number and a name."""


def _of_pages(wanted: Iterable[_At], pages: Collection[int]) -> list[_At]:
    return sorted(at for at in wanted if at[0] in pages)


def _find_rows(
    database: sqlite3.Connection, wanted: Sequence[_At], found: Mapping[_At, list[Version]], damage: Damage
) -> None:
    """Add what has rows of its own under some names."""
    for run in runs(wanted):
        sql = _ROWS_AT_NAMES.format(", ".join(["(?, ?)"] * len(run)))
        for page_id, *row in database.execute(sql, [value for at in run for value in at]).fetchall():
            for version, _ in _sound(page_id, [row], damage):
                found[page_id, version.name].append(version)


def _find_in_blocks(database: sqlite3.Connection, wanted: Sequence[_At], found: Mapping[_At, list[Version]]) -> None:
    """Add what lies in blocks under some names, which are in order."""
    blocks: dict[int, Block] = {}
    for run in runs(wanted):
        blocks |= disk_blocks.at_names(database, run)
    for block in blocks.values():
        for version, _ in block.records(wanted):
            found[block.page_id, version.name].append(version)


def read_register(database: sqlite3.Connection, place: Place, name: bytes) -> bytes | None:
    """Raises StoreFailedError where it is damaged: an acceptor must not forget what it promised and go on."""
    row = database.execute("SELECT crc, state FROM registers WHERE place = ? AND name = ?", (place, name)).fetchone()
    if row is None:
        return None
    if crc32(row[1]) != row[0]:
        raise StoreFailedError(f"the register of {name!r} is damaged")
    return bytes(row[1])


def registers(database: sqlite3.Connection, low: bytes, high: bytes | None, limit: int) -> list[Register]:
    bound, values = (" AND place < ?", (low, high)) if high is not None else ("", (low,))
    sql = f"SELECT place, name, crc, state FROM registers WHERE place >= ?{bound} ORDER BY place, name"  # noqa: S608
    found: list[Register] = []
    rows = database.execute(sql, values)
    try:
        for place, name, crc, state in rows:
            if len(found) >= limit and place != found[-1].place:
                break
            if crc32(state) == crc:
                found.append(Register(Place(place), name, state))
    finally:
        rows.close()
    return found


def page_info(database: sqlite3.Connection, place: Place, now_s: float) -> PageInfo | None:
    row = database.execute(_INFO + "WHERE place = ?", (int(now_s * 1000), place)).fetchone()
    return PageInfo(*row) if row else None


def pages(database: sqlite3.Connection, after: Place | None, limit: int, now_s: float) -> list[PageInfo]:
    sql = _INFO + "WHERE place > ? ORDER BY place LIMIT ?"
    return [PageInfo(*row) for row in database.execute(sql, (int(now_s * 1000), after or b"", limit))]


def waiting(database: sqlite3.Connection, limit: int, now_s: float) -> list[PageInfo]:
    sql = _INFO + "WHERE id IN (SELECT DISTINCT page FROM versions WHERE dead = 2 LIMIT ?) ORDER BY place"  # noqa: S608
    return [PageInfo(*row) for row in database.execute(sql, (int(now_s * 1000), limit))]


def stretch(database: sqlite3.Connection, low: bytes, high: bytes | None, limit: int, damage: Damage) -> Stretch:
    bound, values = (" AND place < ?", (low, high)) if high is not None else ("", (low,))
    sql = f"SELECT id, place, key FROM pages WHERE place >= ?{bound} ORDER BY place LIMIT ?"  # noqa: S608
    found = database.execute(sql, (*values, limit + 1)).fetchall()
    items: dict[bytes, Held] = {}
    for page_id, place, key in found[:limit]:
        items |= itemize(place, key, (version for version, _ in _whole_page(database, page_id, damage)))
    return Stretch(items, Place(found[limit - 1][1]) if len(found) > limit else None)


def keys(database: sqlite3.Connection, prefix: bytes, after: bytes, limit: int, now_s: float) -> list[PageInfo]:
    low, end = max(prefix, after + b"\0" if after else b""), behind_prefix(prefix)
    sql = _INFO + f"WHERE key != x'' AND key >= ?{' AND key < ?' if end else ''} ORDER BY key, place"
    found: list[PageInfo] = []
    for row in database.execute(sql, (int(now_s * 1000), low, *([end] if end else []))):
        if len(found) >= limit and (not found or row[1] != found[-1].key):
            break
        found.append(PageInfo(*row))
    return found


def location(database: sqlite3.Connection, chunk_id: ChunkID) -> Location | None:
    row = database.execute("SELECT pack, offset, size_bytes FROM chunks WHERE id = ?", (chunk_id,)).fetchone()
    return Location(*row) if row else None


def has_chunks(database: sqlite3.Connection, chunk_ids: Sequence[ChunkID]) -> list[bool]:
    return [location(database, chunk_id) is not None for chunk_id in chunk_ids]


def chunk_days(database: sqlite3.Connection, chunk_ids: Sequence[ChunkID]) -> list[int | None]:
    sql = "SELECT day FROM chunk_days WHERE id = ?"
    rows = [database.execute(sql, (chunk_id,)).fetchone() for chunk_id in chunk_ids]
    return [row[0] if row else None for row in rows]


def chunk_ids(database: sqlite3.Connection, after: ChunkID | None, limit: int) -> list[ChunkID]:
    sql = "SELECT id FROM chunks WHERE id > ? ORDER BY id LIMIT ?"
    return [ChunkID(row[0]) for row in database.execute(sql, (after or b"", limit))]


def chunks_of_pack(database: sqlite3.Connection, pack: int) -> list[tuple[ChunkID, Location]]:
    """Walks the whole index; packs are rewritten rarely, and a second index would cost every write."""
    sql = "SELECT id, pack, offset, size_bytes FROM chunks WHERE pack = ?"
    found = [(ChunkID(row[0]), Location(*row[1:])) for row in database.execute(sql, (pack,))]
    return sorted(found, key=lambda entry: entry[1].offset)


def pack_totals(database: sqlite3.Connection) -> dict[int, tuple[int, int]]:
    """Live bytes and indexed end of each pack."""
    return {row[0]: (row[1], row[2]) for row in database.execute("SELECT id, live_bytes, end_bytes FROM packs")}


def scan_versions(database: sqlite3.Connection, after_row: int, limit: int, damage: Damage) -> tuple[int, int]:
    """Check up to `limit` records behind a row; how many, and the last row (-1 at the end)."""
    columns = "page, id, name, owner, clock, dead, expires_ms, crc, data"
    sql = f"SELECT {columns} FROM versions WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608
    checked, last = 0, -1
    for page_id, row_id, name, owner, clock, dead, expires_ms, crc, data in database.execute(sql, (after_row, limit)):
        checked, last = checked + 1, row_id
        version = decode(page_id, crc, data)
        wanted = (name, owner, clock, dead, expires_ms)
        if version is None or (*version.identity, version.clock, state_of(version), version.expires_ms) != wanted:
            damage.add(row_id, crc, name)
    return checked, last if checked == limit else -1


def scan_blocks(database: sqlite3.Connection, after_id: int, limit: int, damage: Damage) -> tuple[int, int]:
    """As `scan_versions`, of blocks."""
    return disk_blocks.scan(database, after_id, limit, damage.blocks)
