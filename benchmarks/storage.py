"""Measure the disk store, and the ways to keep chunks that were weighed for it.

    python -m benchmarks.storage [--records 1000000] [--folder DIR]

Prints Markdown tables. Every write counted is durable: its caller was told after an fsync that covers it. Contenders
get the same group commit thread, so that only the way of keeping bytes differs, and take turns; the median of the
rounds counts. `lmdb` is measured where it can be imported.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from p2pkv.core.records import Version
from p2pkv.ids import ChunkID, Place, chunk_id_of, place_of_key
from p2pkv.storage.disk import DiskStore
from p2pkv.storage.disk_groups import GroupThread, Job
from p2pkv.storage.interface import PutVersion, RangeQuery, Store
from p2pkv.storage.memory import MemoryStore

try:
    import lmdb  # type: ignore[import-not-found, import-untyped, unused-ignore]
except ImportError:
    lmdb = None

KIB, MIB = 1024, 1 << 20
Chunk = tuple[ChunkID, bytes]


class SqliteBlobs:
    """Chunks as blobs of one table: the simplest engine there could be."""

    name = "SQLite blobs"

    def __init__(self, folder: Path) -> None:
        self._path = folder / "blobs.db"

    async def open(self) -> None:
        self._database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 4096"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.execute("CREATE TABLE IF NOT EXISTS chunks (id BLOB PRIMARY KEY, data BLOB)")
        self._thread = GroupThread[Chunk]("blobs", self._handle, lambda jobs: None, 16 * MIB, 128)

    def _handle(self, jobs: list[Job[Chunk]]) -> None:
        self._database.execute("BEGIN IMMEDIATE")
        self._database.executemany("INSERT OR IGNORE INTO chunks VALUES (?, ?)", [job.work for job in jobs])
        self._database.execute("COMMIT")

    async def put_chunk(self, chunk_id: ChunkID, data: bytes) -> object:
        return await self._thread.run((chunk_id, data), len(data))

    async def get_chunk(self, chunk_id: ChunkID) -> bytes | None:
        return await asyncio.to_thread(self._get, chunk_id)

    def _get(self, chunk_id: ChunkID) -> bytes | None:
        row = self._database.execute("SELECT data FROM chunks WHERE id = ?", (chunk_id,)).fetchone()
        return row[0] if row and chunk_id_of(row[0]) == chunk_id else None

    async def close(self) -> None:
        await self._thread.stop()
        self._database.close()


class Lmdb:
    """Chunks as values of a memory-mapped B-tree."""

    name = "lmdb"

    def __init__(self, folder: Path) -> None:
        self._path = folder / "lmdb"

    async def open(self) -> None:
        self._environment = lmdb.open(str(self._path), map_size=8 << 30)
        self._thread = GroupThread[Chunk]("lmdb", self._handle, lambda jobs: None, 16 * MIB, 128)

    def _handle(self, jobs: list[Job[Chunk]]) -> None:
        with self._environment.begin(write=True) as transaction:
            for job in jobs:
                transaction.put(*job.work)

    async def put_chunk(self, chunk_id: ChunkID, data: bytes) -> object:
        return await self._thread.run((chunk_id, data), len(data))

    async def get_chunk(self, chunk_id: ChunkID) -> bytes | None:
        return await asyncio.to_thread(self._get, chunk_id)

    def _get(self, chunk_id: ChunkID) -> bytes | None:
        with self._environment.begin() as transaction:
            data = transaction.get(chunk_id)
        return data if data is not None and chunk_id_of(data) == chunk_id else None

    async def close(self) -> None:
        await self._thread.stop()
        self._environment.close()


class Ours(DiskStore):
    name = "packs + SQLite index (ours)"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "store", time.time)


def chunks(count: int, size_bytes: int) -> list[Chunk]:
    base = os.urandom(size_bytes - 8)
    stored = [i.to_bytes(8, "big") + base for i in range(count)]
    return [(chunk_id_of(data), data) for data in stored]


async def each(work: list[Chunk], width: int, act: Callable[[ChunkID, bytes], Awaitable[object]]) -> float:
    """Run over all with `width` at a time; seconds."""
    source: Iterator[Chunk] = iter(work)

    async def worker() -> None:
        for chunk_id, data in source:
            await act(chunk_id, data)

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(width)))
    return time.perf_counter() - began


async def measure_chunks(engine: Any, folder: Path, size_bytes: int, count: int) -> list[float]:
    """Durable writes a second alone and with 64 at once, and read megabytes a second."""
    store = engine(folder)
    await store.open()
    work = chunks(count, size_bytes)
    alone = await each(work[: count // 8], 1, store.put_chunk)
    grouped = await each(work[count // 8 :], 64, store.put_chunk)
    random.Random(1).shuffle(work)

    async def fetch(chunk_id: ChunkID, data: bytes) -> None:
        assert await store.get_chunk(chunk_id) == data

    reading = await each(work, 16, fetch)
    await store.close()
    return [count / 8 / alone, count * 7 / 8 / grouped, count * size_bytes / 1e6 / reading]


async def compare_chunks(engines: list[Any], parent: Path | None, rounds: int) -> list[list[str]]:
    rows = []
    for size_bytes, count in ((64 * KIB, 2048), (MIB, 256)):
        measured: dict[str, list[list[float]]] = {engine.name: [] for engine in engines}
        for _ in range(rounds):
            for engine in engines:
                with scratch(parent) as folder:
                    measured[engine.name].append(await measure_chunks(engine, folder, size_bytes, count))
        for name, results in measured.items():
            alone, grouped, reading = (median(column) for column in zip(*results, strict=True))
            megabytes = grouped * size_bytes / 1e6
            figures = [f"{figure:,.0f}" for figure in (alone, grouped, megabytes, reading)]
            rows.append([name, f"{size_bytes // KIB} KiB", *figures])
    return rows


def record(i: int, body: bytes = b"v" * 32) -> Version:
    return Version(b"%016x" % i, (1 << 50) + i, b"a" * 32, 0, 0, len(body), body, b"", b"s" * 64)


def page_of(i: int) -> Place:
    return place_of_key(b"key-%d" % i)


async def commits_per_s(store: Store, count: int, width: int, start: int) -> float:
    numbers = iter(range(start, start + count))

    async def worker() -> None:
        for i in numbers:
            await store.commit([PutVersion(page_of(i), b"key-%d" % i, record(i))])

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(width)))
    return count / (time.perf_counter() - began)


async def read_us(store: Store, numbers: list[int]) -> float:
    began = time.perf_counter()
    for i in numbers:
        assert (await store.read(RangeQuery(page_of(i)))).versions
    return (time.perf_counter() - began) / len(numbers) * 1e6


async def measure_records(folder: Path, records: int) -> list[list[str]]:
    store: Store = DiskStore(folder / "records", time.time)
    await store.open()
    rows = [["durable single-record commits/s, one after the other", f"{await commits_per_s(store, 1000, 1, 0):,.0f}"]]
    for width in (64, 512):
        rate = await commits_per_s(store, 8000, width, 10_000 * width)
        rows.append([f"durable single-record commits/s, {width} at once", f"{rate:,.0f}"])
    began = time.perf_counter()
    for first in range(10_000_000, 10_000_000 + records, 2000):
        writes = [PutVersion(page_of(i // 4), b"key-%d" % (i // 4), record(i)) for i in range(first, first + 2000)]
        await store.commit(writes)
    rows.append(["records/s in batches of 2,000", f"{records / (time.perf_counter() - began):,.0f}"])
    rows += await measure_reopened(store, folder, records)
    return rows


async def measure_reopened(store: Store, folder: Path, records: int) -> list[list[str]]:
    began = time.perf_counter()
    await store.close()
    closing = time.perf_counter() - began
    store = DiskStore(folder / "records", time.time)
    began = time.perf_counter()
    await store.open()
    opening = time.perf_counter() - began
    total = store.usage().records
    first = 10_000_000 // 4
    numbers = random.Random(2).sample(range(first, first + records // 4), min(2000, records // 4))
    cold, hot = await read_us(store, numbers), await read_us(store, numbers)
    size = sum(path.stat().st_size for path in (folder / "records").rglob("*") if path.is_file())
    await store.close()
    return [
        [f"closing with {total:,} records, s", f"{closing:.3f}"],
        [f"opening with {total:,} records, s", f"{opening:.3f}"],
        ["read of a small page from disk, us", f"{cold:,.0f}"],
        ["read of a small page from the cache, us", f"{hot:,.1f}"],
        ["bytes on disk per record", f"{size / total:,.0f}"],
    ]


async def measure_memory() -> list[list[str]]:
    store = MemoryStore(time.time)
    rate = await commits_per_s(store, 50_000, 1, 0)
    await read_us(store, list(range(10_000)))
    return [
        ["memory store: commit, us", f"{1e6 / rate:,.1f}"],
        ["memory store: read of a small page, us", f"{await read_us(store, list(range(10_000))):,.1f}"],
    ]


@contextmanager
def scratch(parent: Path | None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="p2pkv-bench-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def table(head: list[str], rows: list[list[str]]) -> None:
    for row in [head, ["---"] * len(head), *rows]:
        print("| " + " | ".join(row) + " |", flush=True)
    print()


async def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the disk store and its alternatives.")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where to write (default: the system's temporary folder)")
    parser.add_argument("--rounds", type=int, default=5, help="of the chunk engines, in turn")
    options = parser.parse_args()
    engines: list[Any] = [Ours, SqliteBlobs] + ([Lmdb] if lmdb is not None else [])
    if lmdb is None:
        print("lmdb is not installed: left out.\n")
    rows = await compare_chunks(engines, options.folder, options.rounds)
    table(["chunks kept in", "size", "durable/s alone", "durable/s, 64 at once", "that is MB/s", "read MB/s"], rows)
    with scratch(options.folder) as folder:
        table(["records", "measured"], await measure_memory() + await measure_records(folder, options.records))


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())
