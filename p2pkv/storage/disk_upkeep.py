"""The housework of a disk store: checking everything it holds, and giving space of deleted chunks back.

Owns the background rewriting of packs. Works in small steps beside the normal traffic and through the same writer, so
it never holds anybody up for long. Never deletes a byte that the index still points to.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING

from p2pkv.ids import ChunkID
from p2pkv.limits import (
    STORE_BLOCK_RECORDS_MAX,
    STORE_COMPACTION_CHUNKS,
    STORE_PACK_LIVE_FRACTION_MIN,
    STORE_SCAN_STEP,
)
from p2pkv.storage import disk_reads
from p2pkv.storage.disk_packs import Packs
from p2pkv.storage.disk_reads import Damage
from p2pkv.storage.disk_writer import ForgetPack, Location, MoveChunk, RetirePack
from p2pkv.storage.interface import DamageReport, QuotaExceededError, StoreFailedError

if TYPE_CHECKING:
    from p2pkv.storage.disk import DiskStore

Scan = Callable[[sqlite3.Connection, int, int, Damage], tuple[int, int]]
_log = logging.getLogger(__name__)


class Upkeep:
    """Verification and compaction of one store."""

    def __init__(self, store: DiskStore, packs: Packs) -> None:
        self._store = store
        self._packs = packs
        self._busy = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._asked_again = False  # chunks were deleted since the running rewriting looked

    # --- compaction ---
    def nudge(self) -> None:
        """Chunks were deleted: look, some time soon, whether a pack is worth rewriting."""
        self._asked_again = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._compact_quietly())

    async def stop(self) -> None:
        """A rewriting that is cut off loses nothing: what was not moved stays where it was."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _compact_quietly(self) -> None:
        try:
            while self._asked_again:
                self._asked_again = False
                await self.compact()
        except (StoreFailedError, QuotaExceededError) as error:
            _log.warning("packs could not be rewritten: %s", error)

    async def compact(self) -> int:
        async with self._busy:
            freed_bytes = 0
            for pack in await self._store.ask(self._mostly_dead):
                freed_bytes += await self._rewrite(pack)
            return freed_bytes

    def _mostly_dead(self, database: sqlite3.Connection) -> list[int]:
        totals = disk_reads.pack_totals(database)
        return [
            pack
            for pack, (live_bytes, end_bytes) in totals.items()
            if pack != self._packs.current and live_bytes < STORE_PACK_LIVE_FRACTION_MIN * end_bytes
        ]

    async def _rewrite(self, pack: int) -> int:
        # A chunk may have been appended here and not be indexed yet: after this, it will not be.
        await self._store.write(RetirePack(pack))
        size_bytes = await self._store.ask(lambda _: self._packs.size_bytes(pack))
        entries = await self._store.ask(disk_reads.chunks_of_pack, pack)
        moved_bytes = 0
        for i in range(0, len(entries), STORE_COMPACTION_CHUNKS):
            step = entries[i : i + STORE_COMPACTION_CHUNKS]
            moved_bytes += sum(await asyncio.gather(*(self._move(*entry) for entry in step)))
        if await self._store.ask(disk_reads.chunks_of_pack, pack):
            return 0
        if not await self._store.ask(lambda _: self._packs.remove(pack)):
            return 0
        await self._store.write(ForgetPack(pack))
        return size_bytes - moved_bytes

    async def _move(self, chunk_id: ChunkID, old: Location) -> int:
        data = await self._store.ask(lambda _: self._packs.read(chunk_id, old))
        if data is None:
            await self._store.drop_damaged_chunk(chunk_id, old)
            return 0
        new = await self._store.append_again(chunk_id, data)
        return len(data) if await self._store.write(MoveChunk(chunk_id, old, new)) else 0

    # --- verification ---
    async def verify(self) -> DamageReport:
        """Read every chunk and record. Damaged ones are dropped, so that the other replicas mend them."""
        damaged_chunks: list[str] = []
        damage = Damage()
        chunks_checked = await self._verify_chunks(damaged_chunks)
        records_checked = await self._verify_records(damage)
        return DamageReport(chunks_checked, records_checked, damaged_chunks, damage.names)

    async def _verify_chunks(self, damaged: list[str]) -> int:
        checked, after = 0, None
        while ids := await self._store.chunk_ids(after, STORE_SCAN_STEP):
            for chunk_id in ids:
                before = self._store.damaged_chunks
                if await self._store.get_chunk(chunk_id) is None and self._store.damaged_chunks > before:
                    damaged.append(chunk_id.hex())
            checked, after = checked + len(ids), ids[-1]
        return checked

    async def _verify_records(self, damage: Damage) -> int:
        rows = await self._scan(disk_reads.scan_versions, STORE_SCAN_STEP, damage)
        return rows + await self._scan(disk_reads.scan_blocks, STORE_SCAN_STEP // STORE_BLOCK_RECORDS_MAX, damage)

    async def _scan(self, scan: Scan, step: int, damage: Damage) -> int:
        checked, last = 0, 0
        while last >= 0:
            found = Damage()
            count, last = await self._store.ask(scan, last, step, found)
            if found:
                await self._store.drop_damaged(found)
            damage.row_names += found.row_names
            damage.blocks += found.blocks
            checked += count
        return checked
