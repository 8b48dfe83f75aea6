"""The disk engine: conformance with and without its cache, damage, full disks, locks, formats, rewriting of packs."""

from __future__ import annotations

import asyncio
import errno
import random
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from p2pkv.errors import P2pkvError
from p2pkv.ids import ChunkID, chunk_id_of, place_of_key
from p2pkv.storage import disk_cache, disk_reads
from p2pkv.storage.disk import DiskStore
from p2pkv.storage.disk_writer import IndexChunk, Work
from p2pkv.storage.interface import (
    PutRegister,
    QuotaExceededError,
    RangeQuery,
    Result,
    Store,
    StoreFailedError,
    Write,
)
from tests.storage.conformance import NOW_S, PLACE, Clock, StoreConformance, put, series, version
from tests.storage.faulty import FaultyFiles


class TestDiskStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def folder(self) -> Iterator[None]:
        with tempfile.TemporaryDirectory() as folder:
            self.root, self.made = Path(folder), 0
            yield

    def make_store(self, clock: Clock, quota_bytes: int | None = None) -> Store:
        self.made += 1
        return DiskStore(self.root / str(self.made), clock, quota_bytes)


class TestDiskStoreWithoutCache(TestDiskStore):
    """Every read goes to SQLite."""

    @pytest.fixture(autouse=True)
    def uncached(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(disk_reads, "STORE_CACHED_PAGE_BYTES_MAX", -1)
        monkeypatch.setattr(disk_cache, "STORE_CACHE_PAGES_MAX", 0)


def make(folder: Path, **options: object) -> DiskStore:
    return DiskStore(folder, lambda: NOW_S, **options)  # type: ignore[arg-type]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[DiskStore]:
    store = make(tmp_path)
    await store.open()
    yield store
    await store.close()


async def put_chunk(store: Store, data: bytes) -> ChunkID:
    chunk_id = chunk_id_of(data)
    assert await store.put_chunk(chunk_id, data)
    return chunk_id


def packs(folder: Path) -> list[Path]:
    return sorted((folder / "packs").iterdir())


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


# --- one store a folder ---
async def test_a_second_store_on_the_folder_is_refused(tmp_path: Path, store: DiskStore) -> None:
    with pytest.raises(P2pkvError, match="in use by process") as caught:
        await make(tmp_path).open()
    assert caught.value.mend
    await store.commit([put(version())])


async def test_another_process_is_named(tmp_path: Path) -> None:
    code = f"""
import asyncio, pathlib, sys
from p2pkv.storage.disk import DiskStore
from p2pkv.storage.disk_writer import IndexChunk, Work
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


# --- damage ---
def alter(folder: Path, sql: str, *values: object) -> None:
    database = sqlite3.connect(folder / "store.db")
    assert database.execute(sql, values).rowcount == 1
    database.commit()
    database.close()


@pytest.mark.parametrize("change", ["data = x'00'", "clock = 7", "crc = crc + 1", "data = data || x'00'"])
async def test_a_damaged_record_is_dropped_and_reported(tmp_path: Path, change: str) -> None:
    store = make(tmp_path)
    await store.open()
    versions = series(3)
    await store.commit([put(v) for v in versions])
    await store.close()
    alter(tmp_path, f"UPDATE versions SET {change} WHERE name = ?", versions[1].name)
    await store.open()
    assert (await store.read(RangeQuery(PLACE))).versions == [versions[0], versions[2]]
    assert store.damaged_records == 1
    assert store.usage().records == 2
    assert (await store.commit([put(versions[1])]))[0].result is Result.STORED
    assert (await store.read(RangeQuery(PLACE))).versions == versions
    await store.close()


async def test_a_damaged_record_is_mended_by_a_replica_that_sends_it_again(tmp_path: Path) -> None:
    store = make(tmp_path)
    await store.open()
    await store.commit([put(version())])
    usage = store.usage()
    await store.close()
    alter(tmp_path, "UPDATE versions SET data = substr(data, 2)")
    await store.open()
    assert (await store.commit([put(version())]))[0].result is Result.STORED
    assert await store.read_name(PLACE, b"name") == [version()]
    assert store.usage().records == usage.records
    await store.close()


async def test_verify_finds_and_drops_what_is_damaged(tmp_path: Path) -> None:
    store = make(tmp_path)
    await store.open()
    versions = series(5)
    await store.commit([put(v) for v in versions])
    ids = [await put_chunk(store, b"chunk %d" % i) for i in range(5)]
    await store.close()
    alter(tmp_path, "UPDATE versions SET expires_ms = 1 WHERE name = ?", versions[2].name)
    flip(packs(tmp_path)[0], b"chunk 3")
    await store.open()
    report = await store.verify()
    assert (report.records_checked, report.records_damaged) == (5, ["n00002"])
    assert (report.chunks_checked, report.chunks_damaged) == (5, [ids[3].hex()])
    again = await store.verify()
    assert (again.records_checked, again.chunks_checked) == (4, 4)
    assert again.records_damaged == again.chunks_damaged == []
    await store.close()


async def test_a_damaged_register_is_an_error_and_not_forgotten(tmp_path: Path) -> None:
    store = make(tmp_path)
    await store.open()
    await store.commit([PutRegister(PLACE, b"r", b"promised 7")])
    await store.close()
    alter(tmp_path, "UPDATE registers SET state = x'00'")
    await store.open()
    with pytest.raises(StoreFailedError):
        await store.read_register(PLACE, b"r")
    await store.close()


def flip(path: Path, where: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(where)] ^= 1
    path.write_bytes(data)


async def test_a_damaged_chunk_is_dropped_and_can_be_stored_again(tmp_path: Path, store: DiskStore) -> None:
    chunk_id = await put_chunk(store, b"some bytes of a chunk")
    flip(packs(tmp_path)[0], b"some bytes")
    assert await store.get_chunk(chunk_id) is None
    assert await store.has_chunks([chunk_id]) == [False]
    assert (store.damaged_chunks, store.usage().chunks, store.usage().size_bytes) == (1, 0, 0)
    await put_chunk(store, b"some bytes of a chunk")
    assert await store.get_chunk(chunk_id) == b"some bytes of a chunk"


@pytest.mark.parametrize("fault", ["torn tail", "shorter", "missing"])
async def test_packs_that_are_not_as_indexed(tmp_path: Path, fault: str) -> None:
    store = make(tmp_path)
    await store.open()
    ids = [await put_chunk(store, bytes([i]) * 1000) for i in range(3)]
    await store.close()
    (pack,) = packs(tmp_path)
    whole = pack.read_bytes()
    if fault == "torn tail":
        pack.write_bytes(whole + b"CHNK half a chunk")
    elif fault == "shorter":
        pack.write_bytes(whole[:-500])
    else:
        pack.unlink()
    await store.open()
    more = await put_chunk(store, b"more")
    there = {"torn tail": 3, "shorter": 2, "missing": 0}[fault]
    assert [await store.get_chunk(i) is not None for i in ids] == [i < there for i in range(3)]
    assert await store.get_chunk(more) == b"more"
    assert store.usage().chunks == there + 1
    if fault == "torn tail":
        assert pack.read_bytes().startswith(whole) and b"half a chunk" not in pack.read_bytes()
    await store.close()


# --- full and failing disks ---
async def test_a_full_disk_refuses_chunks_and_leaves_the_store_usable(tmp_path: Path) -> None:
    files = FaultyFiles()
    store = make(tmp_path, files=files)
    await store.open()
    kept = await put_chunk(store, b"kept")
    files.room_bytes = 100
    results = await asyncio.gather(
        *(store.put_chunk(chunk_id_of(bytes([i]) * 90), bytes([i]) * 90) for i in range(5)), return_exceptions=True
    )
    assert any(isinstance(result, QuotaExceededError) for result in results)
    assert all(isinstance(result, QuotaExceededError) or result is True for result in results)
    files.room_bytes = None
    later = await put_chunk(store, b"later")
    assert await store.get_chunk(kept) == b"kept"
    assert await store.get_chunk(later) == b"later"
    assert (await store.verify()).chunks_damaged == []
    await store.close()


@pytest.mark.parametrize("kind", ["sync", "write", "open"])
async def test_a_failing_disk_acknowledges_nothing(tmp_path: Path, kind: str) -> None:
    files = FaultyFiles()
    store = make(tmp_path, files=files, pack_bytes_max=1)
    await store.open()
    kept = await put_chunk(store, b"kept")
    files.fault = (kind, errno.EIO)
    with pytest.raises(StoreFailedError):
        await store.put_chunk(chunk_id_of(b"lost"), b"lost")
    assert await store.has_chunks([chunk_id_of(b"lost")]) == [False]
    files.fault = None
    lost = await put_chunk(store, b"lost")
    assert [await store.get_chunk(kept), await store.get_chunk(lost)] == [b"kept", b"lost"]
    await store.close()


async def test_a_full_database_refuses_records_and_leaves_the_store_usable(store: DiskStore) -> None:
    await store.commit([put(version(b"kept"))])
    database = store._writer._database
    pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count = {pages}")
    usage = store.usage()
    with pytest.raises(QuotaExceededError):
        await store.commit([put(v) for v in series(500)])
    assert store.usage() == usage
    assert [v.name for v in (await store.read(RangeQuery(PLACE))).versions] == [b"kept"]
    database.execute("PRAGMA max_page_count = 1000000")
    await store.commit([put(v) for v in series(500)])
    assert store.usage().records == 501


async def test_a_batch_that_cannot_be_stored_spoils_no_other(store: DiskStore) -> None:
    impossible = version(b"impossible", clock=1 << 70)
    batches = [[put(v)] for v in series(20)] + [[put(version(b"half")), put(impossible)]]
    results = await asyncio.gather(*(store.commit(batch) for batch in batches), return_exceptions=True)
    assert [isinstance(result, StoreFailedError) for result in results] == [False] * 20 + [True]
    assert (await store.read(RangeQuery(PLACE))).versions == series(20)
    assert store.usage().records == 20


async def test_a_batch_too_large_for_the_disk_spoils_no_other(store: DiskStore) -> None:
    await store.commit([put(version(b"kept"))])
    database = store._writer._database
    pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count = {pages + 4}")
    large, small = store.commit([put(v) for v in series(500)]), store.commit([put(version(b"small"))])
    results = await asyncio.gather(large, small, return_exceptions=True)
    assert isinstance(results[0], QuotaExceededError)
    assert isinstance(results[1], list)
    assert store.usage().records == 2


async def test_a_chunk_that_cannot_be_read_is_as_good_as_damaged(tmp_path: Path) -> None:
    class Unreadable(FaultyFiles):
        def read_at(self, path: Path, offset: int, size_bytes: int) -> bytes:
            raise OSError(errno.EIO if self.fault is None else errno.EMFILE, "unreadable")

    files = Unreadable()
    store = make(tmp_path, files=files)
    await store.open()
    chunk_id = await put_chunk(store, b"some bytes")
    files.fault = ("read", errno.EMFILE)
    with pytest.raises(StoreFailedError):  # of us, not of the disk: the chunk stays
        await store.get_chunk(chunk_id)
    assert await store.has_chunks([chunk_id]) == [True]
    files.fault = None
    assert await store.get_chunk(chunk_id) is None
    assert await store.has_chunks([chunk_id]) == [False]
    await store.close()


async def test_chunks_arriving_at_once_do_not_pass_the_quota_together(tmp_path: Path) -> None:
    store = make(tmp_path, quota_bytes=10_000)
    await store.open()
    data = [bytes([i]) * 3000 for i in range(8)]
    results = await asyncio.gather(*(store.put_chunk(chunk_id_of(d), d) for d in data), return_exceptions=True)
    assert results.count(True) == 3
    assert store.usage().size_bytes == 9000
    await store.close()


# --- concurrency ---
async def test_a_cancelled_commit_is_whole_or_not_at_all(store: DiskStore) -> None:
    batches: list[list[Write]] = [[put(version(b"a%d" % i)), put(version(b"b%d" % i))] for i in range(100)]
    tasks = [asyncio.create_task(store.commit(batch)) for batch in batches]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    names = {v.name for v in (await store.read(RangeQuery(PLACE))).versions}
    for i, result in enumerate(results):
        pair = {b"a%d" % i, b"b%d" % i}
        assert pair <= names if isinstance(result, list) else pair <= names or not pair & names


async def test_a_read_sees_every_commit_that_was_acknowledged(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
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
                await store.commit([put(version(b"n", clock), place)])
                newest[place] = max(newest[place], clock)
            else:
                known = newest[place]
                read = (await store.read(RangeQuery(place))).versions
                assert max((v.clock for v in read), default=0) >= known

    await asyncio.gather(*(worker() for _ in range(12)))
    for place in places:
        (info,) = [info for info in await store.pages() if info.place == place]
        assert (await store.page(place)) == info


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
