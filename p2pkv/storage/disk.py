"""The store on disk: SQLite for versions, registers and the chunk index, append-only pack files for chunks.

How a write becomes durable: everything that waits is taken together by one thread, changed in one transaction and
synced once (`disk_groups`, `disk_writer`); only then do the callers return. A chunk is appended to a pack and synced
first (`disk_packs`), then indexed in such a transaction. Reads of small pages come from memory (`disk_cache`), all
others from a few reader threads (`disk_reads`), so the event loop never waits for the disk.

Owns the life of these parts and the folder: `format`, `lock`, `store.db`, `packs/`. Never decides what to keep.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar, cast

from p2pkv.core.records import Version
from p2pkv.errors import P2pkvError
from p2pkv.ids import ChunkID, Place
from p2pkv.limits import (
    STORE_CHUNKS_QUEUED_MAX,
    STORE_COMMITS_QUEUED_MAX,
    STORE_GROUP_CHUNK_BYTES_MAX,
    STORE_GROUP_WRITES_MAX,
    STORE_PACK_BYTES_MAX,
)
from p2pkv.storage import disk_reads, disk_schema
from p2pkv.storage.disk_batch import Committed
from p2pkv.storage.disk_cache import PageCache
from p2pkv.storage.disk_firsts import FirstRecords
from p2pkv.storage.disk_groups import GroupThread, Job
from p2pkv.storage.disk_packs import AppendChunk, Packs
from p2pkv.storage.disk_readers import Readers
from p2pkv.storage.disk_reads import Damage
from p2pkv.storage.disk_upkeep import Upkeep
from p2pkv.storage.disk_writer import (
    CollectChunk,
    CommitWrites,
    DropChunk,
    DropDamaged,
    IndexChunk,
    Location,
    VouchChunks,
    Work,
    Writer,
)
from p2pkv.storage.files import Files, FolderLock
from p2pkv.storage.interface import (
    DamageReport,
    PageInfo,
    QuotaExceededError,
    RangeQuery,
    RangeResult,
    Register,
    Store,
    StoreFailedError,
    Stretch,
    Usage,
    Write,
    WriteOutcome,
)
from p2pkv.storage.page import Page
from p2pkv.storage.ranges import Budget

_log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


class DiskStore(Store):
    """One folder, one open store. `damaged_records` and `damaged_chunks` count what was found bad and dropped."""

    kind = "disk"

    def __init__(
        self,
        folder: Path,
        now_s: Callable[[], float],
        quota_bytes: int | None = None,
        *,
        files: Files | None = None,
        pack_bytes_max: int = STORE_PACK_BYTES_MAX,
    ) -> None:
        self.damaged_records = 0
        self.damaged_chunks = 0
        self._folder = folder
        self._now_s = now_s
        self._quota_bytes = quota_bytes
        self._files = files or Files()
        self._packs = Packs(folder / "packs", self._files, pack_bytes_max)
        self._lock = FolderLock(folder / "lock")
        self._cache = PageCache()
        self._firsts = FirstRecords()
        self._arriving_bytes = 0  # of chunks on their way, so that many at once do not pass the quota together
        self._opened = False
        self._upkeep = Upkeep(self, self._packs)

    # --- life ---
    async def open(self) -> None:
        """Raises P2pkvError where the folder is in use, damaged, of a future version or cannot be made."""
        self._cache.clear()
        self._firsts.clear()
        await asyncio.to_thread(self._open_files)
        self._readers = Readers(self._folder)
        self._database = GroupThread[Work](
            "p2pkv-write", self._writer.handle, self._written, STORE_GROUP_WRITES_MAX, STORE_COMMITS_QUEUED_MAX
        )
        self._appender = GroupThread[AppendChunk](
            "p2pkv-pack", self._append_new, _nothing, STORE_GROUP_CHUNK_BYTES_MAX, STORE_CHUNKS_QUEUED_MAX
        )
        self._opened = True

    def _open_files(self) -> None:
        try:
            disk_schema.check_format(self._folder)
            (self._folder / "packs").mkdir(parents=True, exist_ok=True)
            self._lock.take()
        except OSError as error:
            mend = "check the folder and its rights"
            raise P2pkvError(f"cannot use {self._folder}: {error.strerror}", mend) from error
        with ExitStack() as parts:
            parts.callback(self._lock.release)
            disk_schema.create(self._folder)
            disk_schema.write_format(self._folder, self._files)
            self._writer = Writer(self._folder, self._quota_bytes)
            parts.callback(self._writer.close)
            self._lookup = disk_schema.connect(self._folder, reader=True)
            parts.callback(self._lookup.close)
            self._packs.open({pack: end for pack, (_, end) in disk_reads.pack_totals(self._lookup).items()})
            parts.callback(self._packs.close)
            self._parts = parts.pop_all()

    async def close(self) -> None:
        if not self._opened:
            return
        self._opened = False
        await self._upkeep.stop()
        await self._appender.stop()
        await self._database.stop()
        await self._readers.stop()
        await asyncio.to_thread(self._parts.close)

    # --- records ---
    async def commit(self, writes: Sequence[Write]) -> list[WriteOutcome]:
        committed = cast(Committed, await self.write(CommitWrites(tuple(writes)), len(writes)))
        return committed.outcomes

    async def write(self, work: Work, weight: int = 1) -> object:
        """One change of the database, durable when this returns."""
        self._check_open()
        return await self._database.run(work, weight)

    def _written(self, jobs: list[Job[Work]]) -> None:
        for job in jobs:
            if isinstance(job.result, Committed) and job.error is None:
                self._cache.apply(job.result)
                self._firsts.apply(job.result)
                self.watcher.wrote(job.result.writes, job.result.outcomes, job.result.created)

    async def read(self, query: RangeQuery) -> RangeResult:
        found: Page | RangeResult | None = self._cache.get(query.place)
        if found is None:
            found = await self._load_or_read(query)
        return found.select(query, self._now_s()) if isinstance(found, Page) else found

    async def read_many(self, queries: Sequence[RangeQuery], records_max: int, bytes_max: int) -> list[RangeResult]:
        """What is in memory is read here, all else in one visit of a thread. No page is brought into memory by it."""
        budget, now_s = Budget(records_max, bytes_max), self._now_s()
        apart = [index for index, query in enumerate(queries) if not self._knows(query)]
        found = await self._read_apart([queries[index] for index in apart], budget, now_s) if apart else []
        read: dict[int, RangeResult] = dict(zip(apart, found, strict=False))
        results: list[RangeResult] = []
        for index, query in enumerate(queries):
            result = read.get(index)
            if result is None and not (results and budget.spent):
                result = self._recall(query, budget, now_s)
            if result is None:
                break
            results.append(result)
        return results or [await self.read(queries[0])]  # it was in memory when this began

    def _knows(self, query: RangeQuery) -> bool:
        return query.place in self._cache or self._firsts.has(query)

    def _recall(self, query: RangeQuery, budget: Budget, now_s: float) -> RangeResult | None:
        """What is asked for, from memory; None where it is not there."""
        page = self._cache.get(query.place)
        return page.select(query, now_s, budget) if page is not None else self._firsts.get(query, budget)

    async def _read_apart(self, queries: list[RangeQuery], budget: Budget, now_s: float) -> list[RangeResult]:
        tokens = [self._firsts.begin_load(query) for query in queries]
        found: list[RangeResult] = []
        try:
            found = await self._ask_noting_damage(disk_reads.read_ranges, queries, budget, now_s)
        finally:
            for query, token, result in zip_longest(queries, tokens, found):
                self._firsts.end_load(query, token, result)
        return found

    async def _load_or_read(self, query: RangeQuery) -> Page | RangeResult:
        place = query.place
        token, found = self._cache.begin_load(place), None
        bytes_max = self._cache.loaded_bytes_max(place)
        try:
            found = await self._ask_noting_damage(disk_reads.load_or_read, query, self._now_s(), bytes_max)
        finally:
            self._cache.end_load(place, token, found if isinstance(found, Page) else None)
        return found

    async def read_name(self, place: Place, name: bytes) -> list[Version]:
        page = self._cache.get(place)
        if page is not None:
            return page.named(name)
        return await self._ask_noting_damage(disk_reads.read_name, place, name)

    async def read_names(self, wanted: Sequence[tuple[Place, Sequence[bytes]]]) -> list[list[list[Version]]]:
        """No page is brought into memory by it."""
        recalled = [self._recall_names(place, names) for place, names in wanted]
        apart = [entry for entry, found in zip(wanted, recalled, strict=True) if found is None]
        if not apart:
            return [found for found in recalled if found is not None]
        read = iter(await self._ask_noting_damage(disk_reads.read_names, apart))
        return [next(read) if found is None else found for found in recalled]

    def _recall_names(self, place: Place, names: Sequence[bytes]) -> list[list[Version]] | None:
        page = self._cache.get(place)
        return [page.named(name) for name in names] if page is not None else None

    async def read_register(self, place: Place, name: bytes) -> bytes | None:
        return await self.ask(disk_reads.read_register, place, name)

    async def registers(self, low: bytes, high: bytes | None, limit: int) -> list[Register]:
        return await self.ask(disk_reads.registers, low, high, limit)

    async def page(self, place: Place) -> PageInfo | None:
        page = self._cache.get(place)
        if page is not None:
            return page.info(self._now_s()) if len(page) else None
        return await self.ask(disk_reads.page_info, place, self._now_s())

    async def pages(self, after: Place | None = None, limit: int = 1000) -> list[PageInfo]:
        return await self.ask(disk_reads.pages, after, limit, self._now_s())

    async def waiting(self, limit: int = 1000) -> list[PageInfo]:
        return await self.ask(disk_reads.waiting, limit, self._now_s())

    async def stretch(self, low: bytes, high: bytes | None, pages_max: int) -> Stretch:
        return cast(Stretch, await self._ask_noting_damage(disk_reads.stretch, low, high, pages_max))

    async def keys(self, prefix: bytes = b"", after: bytes = b"", limit: int = 1000) -> list[PageInfo]:
        return await self.ask(disk_reads.keys, prefix, after, limit, self._now_s())

    # --- chunks ---
    async def put_chunk(self, chunk_id: ChunkID, data: bytes | memoryview) -> bool:
        size_bytes = len(data)
        if not self._fits(size_bytes) and not (await self.has_chunks([chunk_id]))[0]:
            raise QuotaExceededError(f"a chunk of {size_bytes} bytes does not fit into {self._quota_bytes}")
        self._arriving_bytes += size_bytes
        try:
            # A copy where the buffer is the caller's: it may be reused while the chunk waits.
            chunk = AppendChunk(chunk_id, bytes(data))
            indexed = None
            while indexed is None:
                location = await self._append(chunk)
                indexed = location is not None and await self.write(IndexChunk(chunk_id, location))
            return bool(indexed)
        finally:
            self._arriving_bytes -= size_bytes
            self.watcher.moved_chunks([chunk_id])

    def _fits(self, size_bytes: int) -> bool:
        used_bytes = self._writer.usage.size_bytes + self._arriving_bytes
        return self._quota_bytes is None or used_bytes + size_bytes <= self._quota_bytes

    async def _append(self, chunk: AppendChunk) -> Location | None:
        self._check_open()
        return cast("Location | None", await self._appender.run(chunk, len(chunk.data)))

    def _append_new(self, jobs: list[Job[AppendChunk]]) -> None:
        """In the pack thread: append the chunks that are not there yet."""
        location = disk_reads.location
        self._packs.handle([j for j in jobs if j.work.again or location(self._lookup, j.work.chunk_id) is None])

    async def append_again(self, chunk_id: ChunkID, data: bytes) -> Location:
        """A chunk's bytes once more at the end of the current pack, durable and not yet indexed."""
        return cast(Location, await self._append(AppendChunk(chunk_id, data, again=True)))

    async def get_chunk(self, chunk_id: ChunkID) -> bytes | None:
        location, data = await self.ask(self._read_chunk, chunk_id)
        if location is not None and data is None:
            await self.drop_damaged_chunk(chunk_id, location)
        return data

    def _read_chunk(self, database: sqlite3.Connection, chunk_id: ChunkID) -> tuple[Location | None, bytes | None]:
        location, data = disk_reads.location(database, chunk_id), None
        while location is not None:
            data = self._packs.read(chunk_id, location)
            again = location if data is not None else disk_reads.location(database, chunk_id)
            if again == location:
                break
            location = again  # it was moved to another pack meanwhile
        return location, data

    async def drop_damaged_chunk(self, chunk_id: ChunkID, location: Location) -> None:
        if await self.write(DropChunk(chunk_id, location)):
            self.damaged_chunks += 1
            self.watcher.moved_chunks([chunk_id])
            _log.warning("chunk %s was damaged on disk and dropped", chunk_id.hex())

    async def has_chunks(self, chunk_ids: Sequence[ChunkID]) -> list[bool]:
        return await self.ask(disk_reads.has_chunks, list(chunk_ids))

    async def delete_chunk(self, chunk_id: ChunkID) -> bool:
        return self._dropped(chunk_id, bool(await self.write(DropChunk(chunk_id))))

    def _dropped(self, chunk_id: ChunkID, done: bool) -> bool:
        if done:
            self.watcher.moved_chunks([chunk_id])
            self._upkeep.nudge()
        return done

    async def vouch_chunks(self, chunk_ids: Sequence[ChunkID], day: int) -> None:
        await self.write(VouchChunks(list(chunk_ids), day))

    async def chunk_days(self, chunk_ids: Sequence[ChunkID]) -> list[int | None]:
        return await self.ask(disk_reads.chunk_days, list(chunk_ids))

    async def collect_chunk(self, chunk_id: ChunkID, before_day: int) -> bool:
        return self._dropped(chunk_id, bool(await self.write(CollectChunk(chunk_id, before_day))))

    async def chunk_ids(self, after: ChunkID | None = None, limit: int = 1000) -> list[ChunkID]:
        return await self.ask(disk_reads.chunk_ids, after, limit)

    # --- the whole ---
    def usage(self) -> Usage:
        return self._writer.usage

    async def verify(self) -> DamageReport:
        return await self._upkeep.verify()

    async def compact(self) -> int:
        """Rewrite the packs that are mostly dead and return the bytes given back to the disk."""
        return await self._upkeep.compact()

    # --- asking ---
    async def ask(
        self, question: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a question in a reader's thread, on its own connection."""
        self._check_open()
        return await self._readers.ask(lambda connection: question(connection, *args, **kwargs))

    async def _ask_noting_damage(self, question: Callable[..., T], *args: object) -> T:
        damage = Damage()
        answer = await self.ask(question, *args, damage)
        if damage:
            await self.drop_damaged(damage)
        return answer

    async def drop_damaged(self, damage: Damage) -> None:
        self.damaged_records += cast(int, await self.write(DropDamaged(tuple(damage.rows), tuple(damage.blocks))))
        self._cache.clear()
        self._firsts.clear()
        self.watcher.lost_records()
        for name in damage.names:
            _log.warning("record %r was damaged on disk and dropped", name)

    def _check_open(self) -> None:
        if not self._opened:
            raise StoreFailedError("the store is not open")


def _nothing(jobs: list[Job[AppendChunk]]) -> None:
    """Appending changes nothing that is kept in memory."""
