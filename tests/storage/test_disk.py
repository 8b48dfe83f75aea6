"""The disk engine: conformance with and without its cache, damage, full disks, locks, formats, rewriting of packs."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2pkv.errors import P2pkvError
from p2pkv.ids import chunk_id_of, place_of_key
from p2pkv.limits import STORE_CACHED_READS_MIN, STORE_CACHED_UNREAD_WRITES_MAX
from p2pkv.storage import disk_blocks, disk_cache, disk_firsts, disk_reads
from p2pkv.storage.disk import DiskStore
from p2pkv.storage.disk_batch import Committed
from p2pkv.storage.disk_firsts import FirstRecords
from p2pkv.storage.disk_writer import IndexChunk, RetirePack, Work
from p2pkv.storage.interface import (
    PutRegister,
    RangeQuery,
    RangeResult,
    Store,
    StoreFailedError,
    Write,
)
from p2pkv.storage.page import STORED
from tests.storage.conformance import StoreConformance
from tests.storage.disks import make, packs, put_chunk
from tests.storage.samples import PLACE, Clock, put, series, version


class TestDiskStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def folder(self) -> Iterator[None]:
        with tempfile.TemporaryDirectory() as folder:
            self.root, self.made = Path(folder), 0
            yield

    def make_store(self, clock: Clock, quota_bytes: int | None = None) -> Store:
        self.made += 1
        return DiskStore(self.root / str(self.made), clock, quota_bytes)


class _NoPages:
    """No page is kept in memory."""

    @pytest.fixture(autouse=True)
    def uncached(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(disk_cache, "STORE_CACHED_PAGE_BYTES_MAX", -1)
        monkeypatch.setattr(disk_cache, "STORE_CACHED_SOON_BYTES_MAX", -1)
        monkeypatch.setattr(disk_cache, "STORE_CACHE_PAGES_MAX", 0)


class TestDiskStoreOfFirstRecords(_NoPages, TestDiskStore):
    """Nothing but first records is kept in memory."""

    async def test_first_records_are_read_from_the_disk_no_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        store = self.make_store(Clock())
        await store.open()
        first, *others = series(20)
        await store.commit([put(first), *map(put, others)])
        monkeypatch.setattr(disk_reads, "read_ranges", None)
        (result,) = await store.read_many([RangeQuery(PLACE, limit=1, dead=True)], 10, 1 << 20)
        assert (result.versions, result.more) == ([first], True)
        await store.close()


class TestDiskStoreWithoutCache(_NoPages, TestDiskStore):
    """Every read goes to SQLite."""

    @pytest.fixture(autouse=True)
    def no_firsts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(disk_firsts, "STORE_FIRST_RECORDS_KEPT_MAX", 0)


class TestDiskStoreInBlocks(TestDiskStoreWithoutCache):
    """Whatever comes in order goes into small blocks."""

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(disk_blocks, "STORE_BLOCK_RECORDS_MIN", 1)
        monkeypatch.setattr(disk_blocks, "STORE_BLOCK_RECORDS_MAX", 2)


# --- reopening ---
async def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    store = make(tmp_path)
    await store.open()
    versions = series(50)
    await store.commit([*(put(v) for v in versions), PutRegister(PLACE, b"r", b"state")])
    ids = [await put_chunk(store, b"chunk %d" % i) for i in range(20)]
    usage = store.usage()
    await store.close()
    await store.open()
    assert store.usage() == usage
    assert (await store.read(RangeQuery(PLACE))).versions == versions
    assert await store.read_register(PLACE, b"r") == b"state"
    assert [await store.get_chunk(i) for i in ids] == [b"chunk %d" % i for i in range(20)]
    await put_chunk(store, b"one more")
    assert len(packs(tmp_path)) == 1
    await store.close()


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = make(tmp_path)
    await store.open()
    await store.close()
    with pytest.raises(StoreFailedError):
        await store.commit([put(version())])
    with pytest.raises(StoreFailedError):
        await store.get_chunk(chunk_id_of(b""))


# --- older homes ---
async def test_a_home_of_before_records_lay_in_blocks_is_opened(tmp_path: Path) -> None:
    store, versions = make(tmp_path), series(10)
    await store.open()
    await store.commit([put(v) for v in versions[:3]])  # too few for a block
    await store.close()
    (tmp_path / "format").write_text("p2pkv store 1\n")
    with sqlite3.connect(tmp_path / "store.db") as database:
        database.execute("DROP TABLE blocks")
    database.close()
    await store.open()
    await store.commit([put(v) for v in versions[3:]])
    await store.close()
    assert (tmp_path / "format").read_text() == "p2pkv store 2\n"  # which the older program refuses
    await store.open()
    assert (await store.read(RangeQuery(PLACE))).versions == versions
    await store.close()


async def test_a_home_of_before_chunks_had_days_is_opened(tmp_path: Path) -> None:
    store = make(tmp_path)
    await store.open()
    chunk_id = await put_chunk(store, b"old")
    await store.close()
    with sqlite3.connect(tmp_path / "store.db") as database:
        database.execute("DROP TABLE chunk_days")
    database.close()
    await store.open()
    assert await store.chunk_days([chunk_id]) == [None]
    await store.vouch_chunks([chunk_id], 7)
    await store.close()
    await store.open()
    assert await store.chunk_days([chunk_id]) == [7]
    assert await store.get_chunk(chunk_id) == b"old"
    await store.close()


# --- one store a folder ---
async def test_a_second_store_on_the_folder_is_refused(tmp_path: Path, disk_store: DiskStore) -> None:
    with pytest.raises(P2pkvError, match="in use by process") as caught:
        await make(tmp_path).open()
    assert caught.value.mend
    await disk_store.commit([put(version())])


async def test_another_process_is_named(tmp_path: Path) -> None:
    code = f"""
import asyncio, pathlib, sys
from p2pkv.storage.disk import DiskStore
from p2pkv.storage.disk_batch import Committed
from p2pkv.storage.disk_firsts import FirstRecords
async def main():
    await DiskStore(pathlib.Path({str(tmp_path)!r}), float).open()
    print("open", flush=True)
    sys.stdin.read()
asyncio.run(main())"""
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdin is not None
    assert await asyncio.to_thread(child.stdout.readline) == b"open\n"
    with pytest.raises(P2pkvError, match=f"in use by process {child.pid}"):
        await make(tmp_path).open()
    child.kill()
    child.communicate()
    store = make(tmp_path)
    await store.open()
    await store.close()


# --- format ---
@pytest.mark.parametrize("text", ["p2pkv store 99\n", "something else\n", "\xff"])
async def test_a_folder_of_another_format_is_left_untouched(tmp_path: Path, text: str) -> None:
    (tmp_path / "format").write_text(text, "latin-1")
    (tmp_path / "store.db").write_bytes(b"of the future")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*")}
    with pytest.raises(P2pkvError) as caught:
        await make(tmp_path).open()
    assert caught.value.mend and "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*")} == before


async def test_a_broken_database_is_an_error_with_a_mend(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"garbage " * 1000)
    with pytest.raises(P2pkvError, match="cannot be opened") as caught:
        await make(tmp_path).open()
    assert caught.value.mend


async def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(P2pkvError, match="cannot use"):
        await make(tmp_path / "file").open()


# --- concurrency ---
async def test_a_cancelled_commit_is_whole_or_not_at_all(disk_store: DiskStore) -> None:
    batches: list[list[Write]] = [[put(version(b"a%d" % i)), put(version(b"b%d" % i))] for i in range(100)]
    tasks = [asyncio.create_task(disk_store.commit(batch)) for batch in batches]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    names = {v.name for v in (await disk_store.read(RangeQuery(PLACE))).versions}
    for i, result in enumerate(results):
        pair = {b"a%d" % i, b"b%d" % i}
        assert pair <= names if isinstance(result, list) else pair <= names or not pair & names


async def test_a_read_sees_every_commit_that_was_acknowledged(
    disk_store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_cache, "STORE_CACHE_PAGES_MAX", 3)  # so pages come and go all the time
    places = [place_of_key(b"%d" % i) for i in range(6)]
    newest = dict.fromkeys(places, 0)
    rng = random.Random(3)

    async def worker() -> None:
        for _ in range(150):
            place = rng.choice(places)
            if rng.random() < 0.5:
                clock = newest[place] + rng.randrange(1, 3)
                await disk_store.commit([put(version(b"n", clock), place)])
                newest[place] = max(newest[place], clock)
            else:
                known = newest[place]
                read = (await disk_store.read(RangeQuery(place))).versions
                assert max((v.clock for v in read), default=0) >= known

    await asyncio.gather(*(worker() for _ in range(12)))
    for place in places:
        (info,) = [info for info in await disk_store.pages() if info.place == place]
        assert (await disk_store.page(place)) == info


# --- rewriting of packs ---
async def test_space_of_deleted_chunks_is_given_back(tmp_path: Path) -> None:
    store = make(tmp_path, pack_bytes_max=20_000)
    await store.open()
    data = [random.Random(i).randbytes(1000) for i in range(200)]
    ids = [chunk_id_of(d) for d in data]
    await asyncio.gather(*(store.put_chunk(i, d) for i, d in zip(ids, data, strict=True)))
    full = sum(path.stat().st_size for path in packs(tmp_path))
    for i in range(200):
        if i % 5:
            await store.delete_chunk(ids[i])
    kept = asyncio.gather(*(store.get_chunk(ids[i]) for i in range(0, 200, 5)))
    await store.compact()
    assert await kept == data[::5]
    assert sum(path.stat().st_size for path in packs(tmp_path)) < full / 2
    assert [await store.get_chunk(ids[i]) for i in range(0, 200, 5)] == data[::5]
    assert (await store.verify()).chunks_damaged == []
    await store.close()
    await store.open()
    assert [await store.get_chunk(ids[i]) for i in range(0, 200, 5)] == data[::5]
    assert store.usage().chunks == 40
    await store.close()


async def test_deletes_alone_get_packs_rewritten(tmp_path: Path) -> None:
    store = make(tmp_path, pack_bytes_max=20_000)
    await store.open()
    ids = [await put_chunk(store, random.Random(i).randbytes(5000)) for i in range(20)]
    before = len(packs(tmp_path))
    for chunk_id in ids[:-1]:
        await store.delete_chunk(chunk_id)
    async with asyncio.timeout(20):
        while len(packs(tmp_path)) > 2:
            await asyncio.sleep(0.01)
    assert before >= 4
    assert await store.get_chunk(ids[-1]) is not None
    await store.close()


async def test_chunks_deleted_during_a_rewriting_get_their_packs_rewritten_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make(tmp_path, pack_bytes_max=20_000)
    await store.open()
    ids = [await put_chunk(store, random.Random(i).randbytes(5000)) for i in range(20)]
    write, rewriting, late = store.write, asyncio.Event(), asyncio.Event()

    async def write_when_told(work: Work, weight: int = 1) -> object:
        if isinstance(work, RetirePack) and not late.is_set():
            rewriting.set()  # it has looked which packs are worth it
            await late.wait()
        return await write(work, weight)

    monkeypatch.setattr(store, "write", write_when_told)
    for chunk_id in ids[:4]:
        await store.delete_chunk(chunk_id)
    async with asyncio.timeout(20):
        await rewriting.wait()
        for chunk_id in ids[4:-1]:
            await store.delete_chunk(chunk_id)
        late.set()
        while len(packs(tmp_path)) > 2:
            await asyncio.sleep(0.01)
    assert await store.get_chunk(ids[-1]) is not None
    await store.close()


async def test_a_chunk_on_its_way_survives_the_rewriting_of_its_pack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make(tmp_path, pack_bytes_max=1)
    await store.open()
    write, gone, slow = store.write, chunk_id_of(b"gone"), chunk_id_of(b"slow")
    held: list[bool] = []

    async def write_slowly(work: Work, weight: int = 1) -> object:
        if isinstance(work, IndexChunk) and work.chunk_id == slow and not held:
            held.append(True)  # appended beside `gone`, and before it is indexed the pack is rewritten
            await put_chunk(store, b"the next pack")
            await store.delete_chunk(gone)
            assert await store.compact() > 0
        return await write(work, weight)

    monkeypatch.setattr(store, "write", write_slowly)
    await asyncio.gather(store.put_chunk(gone, b"gone"), store.put_chunk(slow, b"slow"))
    assert held
    assert await store.get_chunk(slow) == b"slow"
    await store.close()
    await store.open()
    assert await store.get_chunk(slow) == b"slow"
    await store.close()


def test_a_first_record_that_was_read_while_its_page_was_written_to_is_not_kept() -> None:
    firsts, query = FirstRecords(), RangeQuery(PLACE, limit=1, dead=True)
    earlier, later = series(2)
    for written in (False, True):
        token = firsts.begin_load(query)
        if written:
            firsts.apply(Committed([put(earlier)], [STORED], set(), [100]))
        firsts.end_load(query, token, RangeResult([later], False))
        assert firsts.has(query) is not written
        firsts.clear()


async def test_a_page_that_is_not_small_comes_into_memory_when_it_is_read_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make(tmp_path)
    await store.open()
    asked = list[object]()
    ask = store.ask

    async def noting(question: Callable[..., object], *args: object) -> object:
        asked.append(question)
        return await ask(question, *args)

    monkeypatch.setattr(store, "ask", noting)
    versions = series(2 * STORE_CACHED_UNREAD_WRITES_MAX + 20, body=b"x" * 200, size_bytes=200)
    middle = len(versions) // 2
    for some in (versions[:middle], versions[middle:]):  # what is written to much is read from disk again
        await store.commit([put(found) for found in some])
        asked.clear()
        for _ in range(3 * STORE_CACHED_READS_MIN):
            assert (await store.read(RangeQuery(PLACE, limit=1))).versions == versions[:1]
        assert len(asked) == STORE_CACHED_READS_MIN
    await store.close()
