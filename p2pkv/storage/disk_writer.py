"""The one writer of a store's database: every change of a group in one transaction, durable when it is settled.

Owns the order of changes, the quota and the usage counters. Runs in a GroupThread; `usage` may be read from any thread.
Never touches pack files: it keeps where in them a chunk lies.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec

from p2pkv.ids import ChunkID
from p2pkv.storage import disk_blocks
from p2pkv.storage.disk_batch import Committed, Heads, Staging
from p2pkv.storage.disk_blocks import Damaged
from p2pkv.storage.disk_groups import Job, store_error
from p2pkv.storage.disk_schema import connect
from p2pkv.storage.interface import QuotaExceededError, Usage, Write


class Location(msgspec.Struct, frozen=True):
    """Where a chunk's bytes lie."""

    pack: int
    offset: int
    size_bytes: int


class CommitWrites(msgspec.Struct, frozen=True):
    """Result: Committed."""

    writes: Sequence[Write]


class IndexChunk(msgspec.Struct, frozen=True):
    """Result: True where the chunk was new, None where its pack has been retired and it must be appended again."""

    chunk_id: ChunkID
    location: Location


class MoveChunk(msgspec.Struct, frozen=True):
    """Result: True where the chunk still lay at `old`."""

    chunk_id: ChunkID
    old: Location
    new: Location


class DropChunk(msgspec.Struct, frozen=True):
    """Result: True where it was there (at `only_at`, if given)."""

    chunk_id: ChunkID
    only_at: Location | None = None


class VouchChunks(msgspec.Struct, frozen=True):
    """Note that chunks were wanted on a day; the latest counts. Result: how many of them are here."""

    chunk_ids: Sequence[ChunkID]
    day: int


class CollectChunk(msgspec.Struct, frozen=True):
    """Remove a chunk, if it was last wanted before a day. Result: whether it was removed."""

    chunk_id: ChunkID
    before_day: int


class DropDamaged(msgspec.Struct, frozen=True):
    """Remove damaged rows, by id and checksum, and blocks. Result: how many records."""

    rows: Sequence[tuple[int, int]]
    blocks: Sequence[Damaged]


class RetirePack(msgspec.Struct, frozen=True):
    """From now on nothing is indexed in this pack: it is about to be rewritten and deleted."""

    pack: int


class ForgetPack(msgspec.Struct, frozen=True):
    """A pack file is gone."""

    pack: int


Work = (
    CommitWrites
    | IndexChunk
    | MoveChunk
    | DropChunk
    | VouchChunks
    | CollectChunk
    | DropDamaged
    | RetirePack
    | ForgetPack
)


class Writer:
    """Handles the groups of the database thread."""

    def __init__(self, folder: Path, quota_bytes: int | None) -> None:
        self._database = connect(folder)
        self._quota_bytes = quota_bytes
        self._heads = Heads(self._database.execute("SELECT coalesce(max(id), 0) + 1 FROM pages").fetchone()[0])
        self.usage = Usage(*self._database.execute("SELECT keys, records, chunks, size_bytes FROM usage").fetchone())
        self._retired: set[int] = set()
        self._pending = self.usage  # as the running transaction leaves it, but for what is staged

    def close(self) -> None:
        """Fold the log into the database, so that the next opening is quick."""
        try:
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error:
            pass  # the log stays and is read at the next opening: nothing is lost
        finally:
            self._database.close()

    def handle(self, jobs: list[Job[Work]]) -> None:
        """One transaction for all; where one of them spoils it, one for each. A failing disk is everyone's error."""
        try:
            self._transact(jobs)
        except Exception as error:
            if len(jobs) == 1 or _disk_fails(error):
                raise
            for job in jobs:
                self._transact_alone(job)

    def _transact_alone(self, job: Job[Work]) -> None:
        job.error = None
        try:
            self._transact([job])
        except Exception as error:
            job.error = store_error(error)

    def _transact(self, jobs: list[Job[Work]]) -> None:
        self._pending = self.usage
        self._database.execute("BEGIN IMMEDIATE")
        try:
            self._do_all(jobs)
            self._save_usage()
            self._database.execute("COMMIT")
        except BaseException:
            self._heads.forget()
            self._roll_back()
            raise
        self._staging.remember()
        self.usage = self._pending

    def _roll_back(self) -> None:
        if self._database.in_transaction:
            self._database.execute("ROLLBACK")

    def _do_all(self, jobs: list[Job[Work]]) -> None:
        """All jobs. The records of all of them are read, and written, together, behind what changes rows directly."""
        self._staging = Staging(self._database, self._heads)
        commits: list[Job[Work]] = []
        writes: list[Write] = []
        for job in jobs:
            if isinstance(job.work, CommitWrites):
                commits.append(job)
                writes += job.work.writes
            else:
                self._attempt(job)
        self._staging.load(writes)
        for job in commits:
            self._attempt(job)
        self._staging.flush()
        self._pending = self._staging.usage_after(self._pending)

    def _attempt(self, job: Job[Work]) -> None:
        try:
            job.result = self._do(job.work)
        except QuotaExceededError as error:
            job.error = store_error(error)

    def _do(self, work: Work) -> object:
        match work:
            case CommitWrites(writes):
                return self._commit(writes)
            case IndexChunk(chunk_id, location):
                return self._index(chunk_id, location)
            case MoveChunk(chunk_id, old, new):
                return self._move(chunk_id, old, new)
            case DropChunk(chunk_id, only_at):
                return self._drop_chunk(chunk_id, only_at)
            case VouchChunks(chunk_ids, day):
                return sum(self._vouch(chunk_id, day) for chunk_id in chunk_ids)
            case CollectChunk(chunk_id, before_day):
                return self._collect(chunk_id, before_day)
            case DropDamaged(rows, blocks):
                dropped = sum(self._drop_row(row_id, crc) for row_id, crc in rows)
                return dropped + sum(self._drop_block(block) for block in blocks)
            case RetirePack(pack):
                self._retired.add(pack)
                return None
            case ForgetPack(pack):
                return self._database.execute("DELETE FROM packs WHERE id = ?", (pack,)).rowcount

    def _commit(self, writes: Sequence[Write]) -> Committed:
        outcomes = self._staging.stage(writes)
        try:
            self._admit(self._staging.grown_bytes, self._staging.size_bytes)  # what others staged counts too
        except QuotaExceededError:
            self._staging.undo()
            raise
        return self._staging.committed(writes, outcomes)

    def _admit(self, growth_bytes: int, coming_bytes: int) -> None:
        """Raise QuotaExceededError where a growth does not fit; `coming_bytes` are on their way with it."""
        full = self._quota_bytes is not None and self._pending.size_bytes + coming_bytes > self._quota_bytes
        if growth_bytes > 0 and full:
            raise QuotaExceededError(f"{growth_bytes} bytes more do not fit into {self._quota_bytes}")

    def _save_usage(self) -> None:
        if self._pending != self.usage:
            now = self._pending
            row = (now.keys, now.records, now.chunks, now.size_bytes)
            self._database.execute("UPDATE usage SET keys = ?, records = ?, chunks = ?, size_bytes = ?", row)

    def _index(self, chunk_id: ChunkID, location: Location) -> bool | None:
        if self._location(chunk_id) is not None:
            return False
        if location.pack in self._retired:
            return None
        self._admit(location.size_bytes, location.size_bytes)
        row = (chunk_id, location.pack, location.offset, location.size_bytes)
        self._database.execute("INSERT INTO chunks VALUES (?, ?, ?, ?)", row)
        self._fill(location)
        self._count_chunk(+1, location.size_bytes)
        return True

    def _move(self, chunk_id: ChunkID, old: Location, new: Location) -> bool:
        if self._location(chunk_id) != old or new.pack in self._retired:
            return False
        row = (new.pack, new.offset, chunk_id)
        self._database.execute("UPDATE chunks SET pack = ?, offset = ? WHERE id = ?", row)
        self._empty(old)
        self._fill(new)
        return True

    def _drop_chunk(self, chunk_id: ChunkID, only_at: Location | None) -> bool:
        location = self._location(chunk_id)
        if location is None or (only_at is not None and location != only_at):
            return False
        self._database.execute("DELETE FROM chunks WHERE id = ?", (chunk_id,))
        self._database.execute("DELETE FROM chunk_days WHERE id = ?", (chunk_id,))
        self._empty(location)
        self._count_chunk(-1, -location.size_bytes)
        return True

    def _vouch(self, chunk_id: ChunkID, day: int) -> bool:
        if self._location(chunk_id) is None:
            return False
        self._database.execute(
            "INSERT INTO chunk_days VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET day = max(day, excluded.day)",
            (chunk_id, day),
        )
        return True

    def _collect(self, chunk_id: ChunkID, before_day: int) -> bool:
        row = self._database.execute("SELECT day FROM chunk_days WHERE id = ?", (chunk_id,)).fetchone()
        return row is not None and row[0] < before_day and self._drop_chunk(chunk_id, None)

    def _location(self, chunk_id: ChunkID) -> Location | None:
        sql = "SELECT pack, offset, size_bytes FROM chunks WHERE id = ?"
        row = self._database.execute(sql, (chunk_id,)).fetchone()
        return Location(*row) if row else None

    def _fill(self, location: Location) -> None:
        end = location.offset + location.size_bytes
        self._database.execute(
            "INSERT INTO packs VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
            "live_bytes = live_bytes + excluded.live_bytes, end_bytes = max(end_bytes, excluded.end_bytes)",
            (location.pack, location.size_bytes, end),
        )

    def _empty(self, location: Location) -> None:
        row = (location.size_bytes, location.pack)
        self._database.execute("UPDATE packs SET live_bytes = live_bytes - ? WHERE id = ?", row)

    def _count_chunk(self, chunks: int, size_bytes: int) -> None:
        was = self._pending
        self._pending = Usage(was.keys, was.records, was.chunks + chunks, was.size_bytes + size_bytes)

    def _drop_row(self, row_id: int, crc: int) -> int:
        sql = "DELETE FROM versions WHERE id = ? AND crc = ? RETURNING page, dead, length(data)"
        row = self._database.execute(sql, (row_id, crc)).fetchone()
        if row is None:
            return 0
        page_id, dead, size_bytes = row
        self._lost(page_id, 1, int(dead == 1), size_bytes)
        return 1

    def _drop_block(self, block: Damaged) -> int:
        dropped = disk_blocks.drop(self._database, block.id, block.crc)
        if dropped is None:
            return 0
        page_id, total, size_bytes = dropped
        self._lost(page_id, total, 0, size_bytes)
        return total

    def _lost(self, page_id: int, total: int, dead: int, size_bytes: int) -> None:
        """Count records out that were damaged; a page that has no others ends."""
        self._heads.forget()
        self._database.execute(
            "UPDATE pages SET total = total - ?, dead = dead - ?, size_bytes = size_bytes - ? WHERE id = ?",
            (total, dead, size_bytes, page_id),
        )
        keys = self._database.execute("DELETE FROM pages WHERE id = ? AND total <= 0", (page_id,)).rowcount
        was = self._pending
        self._pending = Usage(was.keys - keys, was.records - total + dead, was.chunks, was.size_bytes - size_bytes)


def _disk_fails(error: Exception) -> bool:
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR
