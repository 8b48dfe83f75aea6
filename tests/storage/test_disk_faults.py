"""The disk engine among damaged files, full disks and failing ones."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
from pathlib import Path

import pytest

from p2pkv.ids import chunk_id_of
from p2pkv.storage.disk import DiskStore
from p2pkv.storage.interface import PutRegister, QuotaExceededError, RangeQuery, Result, StoreFailedError
from tests.storage.disks import make, packs, put_chunk
from tests.storage.faulty import FaultyFiles
from tests.storage.samples import PLACE, put, series, version


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
    for damaged_alone in versions:
        await store.commit([put(damaged_alone)])
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


@pytest.mark.parametrize("change", ["data = x'00'", "crc = crc + 1", "page = page + 1", "data = data || x'00'"])
async def test_a_damaged_block_is_dropped_and_can_be_mended(tmp_path: Path, change: str) -> None:
    store, versions = make(tmp_path), series(80)
    await store.open()
    await store.commit([put(v) for v in versions])
    usage = store.usage()
    await store.close()
    alter(tmp_path, f"UPDATE blocks SET {change} WHERE low = ?", versions[0].name)
    await store.open()
    report = await store.verify()
    assert (report.records_checked, report.records_damaged) == (80, ["n00000 to n00063"])
    assert (await store.read(RangeQuery(PLACE))).versions == versions[64:]
    assert store.damaged_records == 64
    assert store.usage().records == 16
    await store.commit([put(v) for v in versions])
    assert (await store.read(RangeQuery(PLACE))).versions == versions
    assert store.usage() == usage
    await store.close()


async def test_a_record_of_a_damaged_block_can_be_put_again_before_anybody_has_seen_the_damage(tmp_path: Path) -> None:
    store, versions = make(tmp_path), series(10)
    await store.open()
    await store.commit([put(v) for v in versions])
    await store.close()
    alter(tmp_path, "UPDATE blocks SET data = substr(data, 2)")
    await store.open()
    assert (await store.commit([put(versions[4])]))[0].result is Result.STORED
    assert (await store.read(RangeQuery(PLACE))).versions == [versions[4]]
    assert store.usage().records == 1
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


async def test_a_damaged_chunk_is_dropped_and_can_be_stored_again(tmp_path: Path, disk_store: DiskStore) -> None:
    chunk_id = await put_chunk(disk_store, b"some bytes of a chunk")
    flip(packs(tmp_path)[0], b"some bytes")
    assert await disk_store.get_chunk(chunk_id) is None
    assert await disk_store.has_chunks([chunk_id]) == [False]
    assert (disk_store.damaged_chunks, disk_store.usage().chunks, disk_store.usage().size_bytes) == (1, 0, 0)
    await put_chunk(disk_store, b"some bytes of a chunk")
    assert await disk_store.get_chunk(chunk_id) == b"some bytes of a chunk"


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


async def test_a_full_database_refuses_records_and_leaves_the_store_usable(disk_store: DiskStore) -> None:
    await disk_store.commit([put(version(b"kept"))])
    database = disk_store._writer._database
    pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count = {pages}")
    usage = disk_store.usage()
    with pytest.raises(QuotaExceededError):
        await disk_store.commit([put(v) for v in series(500)])
    assert disk_store.usage() == usage
    assert [v.name for v in (await disk_store.read(RangeQuery(PLACE))).versions] == [b"kept"]
    database.execute("PRAGMA max_page_count = 1000000")
    await disk_store.commit([put(v) for v in series(500)])
    assert disk_store.usage().records == 501


async def test_a_batch_that_cannot_be_stored_spoils_no_other(disk_store: DiskStore) -> None:
    impossible = version(b"impossible", clock=1 << 70)
    batches = [[put(v)] for v in series(20)] + [[put(version(b"half")), put(impossible)]]
    results = await asyncio.gather(*(disk_store.commit(batch) for batch in batches), return_exceptions=True)
    assert [isinstance(result, StoreFailedError) for result in results] == [False] * 20 + [True]
    assert (await disk_store.read(RangeQuery(PLACE))).versions == series(20)
    assert disk_store.usage().records == 20


async def test_a_batch_too_large_for_the_disk_spoils_no_other(disk_store: DiskStore) -> None:
    await disk_store.commit([put(version(b"kept"))])
    database = disk_store._writer._database
    pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count = {pages + 4}")
    large, small = disk_store.commit([put(v) for v in series(500)]), disk_store.commit([put(version(b"small"))])
    results = await asyncio.gather(large, small, return_exceptions=True)
    assert isinstance(results[0], QuotaExceededError)
    assert isinstance(results[1], list)
    assert disk_store.usage().records == 2


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
