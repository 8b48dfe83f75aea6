"""Records in blocks: whatever comes in whatever order, is replaced or dropped, reads stay those of the model."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pkv.core.clock import clock_of
from p2pkv.core.records import Flag, Version
from p2pkv.limits import STORE_BLOCK_BYTES_MAX, STORE_BLOCK_RECORDS_MAX, STORE_BLOCK_RECORDS_MIN
from p2pkv.storage import disk_cache, disk_reads
from p2pkv.storage.interface import Cursor, DropVersion, RangeQuery, Write
from tests.storage.disks import make
from tests.storage.model import Model
from tests.storage.samples import NOW_S, PLACE, drop, put, series, version

NUMBERS = st.integers(0, 60)


@pytest.fixture(autouse=True)
def uncached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_cache, "STORE_CACHED_PAGE_BYTES_MAX", -1)
    monkeypatch.setattr(disk_cache, "STORE_CACHED_SOON_BYTES_MAX", -1)
    monkeypatch.setattr(disk_cache, "STORE_CACHE_PAGES_MAX", 0)


def numbered(number: int, later: int = 0, flags: int = 0) -> Version:
    return version(b"n%02d" % number, 1000 + number + later, flags=flags)


def in_order(first: int, count: int, step: int, later: int) -> list[Write]:
    """A run of records whose names and clocks rise; it may be earlier or later than others of such names."""
    return [put(numbered(number, later)) for number in range(first, first + count * step, step)]


def against_each_other(first: int, count: int) -> list[Write]:
    """A run whose clocks fall while the names rise."""
    return [put(version(b"n%02d" % number, 2000 - number)) for number in range(first, first + count)]


runs = st.one_of(
    st.builds(in_order, NUMBERS, st.integers(4, 12), st.integers(1, 3), st.just(0) | st.integers(-30, 30)),
    st.builds(against_each_other, NUMBERS, st.integers(4, 12)),
)
changes = st.lists(
    st.one_of(
        st.builds(lambda number, later: put(numbered(number, later)), NUMBERS, st.integers(0, 3)),
        st.builds(lambda number: put(numbered(number, 5, Flag.TOMBSTONE)), NUMBERS),
        st.builds(lambda number, later: drop(numbered(number, later)), NUMBERS, st.integers(0, 3)),
    ),
    max_size=8,
)
cursors = st.none() | st.builds(
    lambda number, clock: Cursor(1000 + clock, b"n%02d" % number, b""), NUMBERS, st.integers(-1, 70)
)
queries = st.builds(
    RangeQuery,
    place=st.just(PLACE),
    order=st.sampled_from(["time", "name"]),
    after=cursors,
    until=cursors,
    reverse=st.booleans(),
    prefix=st.sampled_from([b"", b"n1", b"n2"]),
    limit=st.integers(1, 90),
    dead=st.booleans(),
)


@settings(max_examples=60)
@given(st.lists(runs | changes, max_size=8), st.lists(queries, min_size=1, max_size=6))
def test_reads_are_those_of_the_model(batches: list[list[Write]], asked: list[RangeQuery]) -> None:
    asyncio.run(compare(batches, asked))


async def compare(batches: list[list[Write]], asked: list[RangeQuery]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, model = make(Path(folder)), Model()
        await store.open()
        for batch in batches:
            assert await store.commit(batch) == model.commit(batch)
            for query in asked:
                assert await store.read(query) == model.read(query, NOW_S)
        names = [b"n%02d" % number for number in range(100)]
        named = [[found for found in model.page(PLACE) if found.name == name] for name in names]
        assert await store.read_names([(PLACE, names), (PLACE, names[::7])]) == [named, named[::7]]
        assert await store.read_name(PLACE, names[7]) == named[7]
        assert (await store.verify()).records_checked == len(model.records)
        assert store.usage().records == sum(not found.dead for found in model.records.values())
        await store.close()


async def test_a_record_that_leaves_its_block_while_it_is_read_by_name_is_found(tmp_path: Path) -> None:
    store = make(tmp_path)
    await store.open()
    await store.commit([put(numbered(number)) for number in range(10, 20)])
    loop = asyncio.get_running_loop()
    damage = disk_reads.Damage()

    def read() -> list[Version]:
        changes = [[put(numbered(15, 5))]]
        with closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as database:

            def before(statement: str) -> None:
                if "FROM blocks WHERE id" in statement and changes:
                    asyncio.run_coroutine_threadsafe(store.commit(changes.pop()), loop).result()

            database.set_trace_callback(before)
            found = disk_reads.read_name(database, PLACE, b"n15", damage)
            assert not changes
        return found

    assert await asyncio.to_thread(read) == [numbered(15)]
    assert await store.read_name(PLACE, b"n15") == [numbered(15, 5)]
    await store.close()


def stored(folder: Path) -> tuple[int, int]:
    """How many records lie in rows of their own, and how many in blocks."""
    with sqlite3.connect(folder / "store.db") as database:
        (rows,), (blocks,) = (
            database.execute(f"SELECT {what}").fetchone()
            for what in ("count(*) FROM versions", "ifnull(sum(total), 0) FROM blocks")
        )
    database.close()
    return rows, blocks


async def test_what_comes_in_order_lies_in_blocks_wherever_it_fits(tmp_path: Path) -> None:
    store, versions = make(tmp_path), series(1000)
    await store.open()
    for start in (0, 500, 250, 750):  # some come late
        await store.commit([put(v) for v in versions[start : start + 250]])
    assert stored(tmp_path) == (0, 1000)
    await store.commit([put(v) for v in series(STORE_BLOCK_RECORDS_MIN - 1, author=b"c" * 32, flags=Flag.OWN)])
    assert stored(tmp_path) == (STORE_BLOCK_RECORDS_MIN - 1, 1000)
    await store.close()


async def test_a_page_whose_records_all_go_leaves_nothing(tmp_path: Path) -> None:
    store, versions = make(tmp_path), series(300)
    await store.open()
    await store.commit([put(v) for v in versions])
    drops: list[DropVersion] = [drop(v) for v in versions]
    for start in range(0, 300, 70):
        await store.commit(drops[start : start + 70])
    assert stored(tmp_path) == (0, 0)
    assert (store.usage().keys, store.usage().records, store.usage().size_bytes) == (0, 0, 0)
    await store.close()


async def test_a_block_has_a_bound_in_records_and_in_bytes(tmp_path: Path) -> None:
    store = make(tmp_path)
    await store.open()
    short = [put(version(b"s%04d" % n, clock_of(NOW_S + n), body=b"v")) for n in range(500)]
    long = [put(version(b"t%04d" % n, clock_of(NOW_S + 500 + n), body=bytes(1000))) for n in range(100)]
    await store.commit(short + long)
    with sqlite3.connect(tmp_path / "store.db") as database:
        most, longest = database.execute("SELECT max(total), max(length(data)) FROM blocks").fetchone()
    database.close()
    assert most == STORE_BLOCK_RECORDS_MAX
    assert longest <= STORE_BLOCK_BYTES_MAX + 8
    await store.close()


@pytest.mark.parametrize(("first", "then"), [((10, 0), (40, -25)), ((40, -25), (10, 0))])
async def test_runs_that_overlap_in_time_alone_are_read_in_order(
    tmp_path: Path, first: tuple[int, int], then: tuple[int, int]
) -> None:
    store, model = make(tmp_path), Model()
    await store.open()
    for number, later in (first, then):
        batch = in_order(number, 10, 1, later)
        assert await store.commit(batch) == model.commit(batch)
    query = RangeQuery(PLACE)
    assert (await store.read(query)).versions == model.read(query, NOW_S).versions
    await store.close()
