"""Brings what this peer holds back to all of its replicas, on demand.

Walks everything stored here and offers it to those that should hold it. Costs a message per batch of records and a
question per chunk, whatever is missing; upkeep does the same in the background at the cost of what differs.
"""

from __future__ import annotations

from p2pkv.core.records import Flag, Version, encoded_bytes
from p2pkv.core.replication import position
from p2pkv.errors import P2pkvError
from p2pkv.ids import ChunkID, Place, is_shard
from p2pkv.limits import RECORDS_STORE_BYTES_MAX
from p2pkv.storage.interface import Cursor, PageInfo, RangeQuery, Store
from p2pkv.swarm.chunks import ChunkSwarm
from p2pkv.swarm.writing import Writer


class Repair:
    """One walk over the store."""

    def __init__(self, store: Store, writer: Writer, chunks: ChunkSwarm) -> None:
        self._store = store
        self._writer = writer
        self._chunks = chunks
        self._records = self._records_short = self._count = self._short = self._sent = 0

    async def run(self) -> dict[str, object]:
        """Offer every record and chunk to its replicas; how many there were, and how many stayed below full count."""
        place: Place | None = None
        while pages := await self._store.pages(place):
            for page in pages:
                await self._page(page)
            place = pages[-1].place
        chunk_id: ChunkID | None = None
        while chunk_ids := await self._store.chunk_ids(chunk_id):
            for chunk_id in chunk_ids:
                if not is_shard(chunk_id):  # those are tended (p2pkv/swarm/tending.py)
                    await self._chunk(chunk_id)
        return {
            "records": self._records,
            "records_short": self._records_short,
            "chunks": self._count,
            "chunks_short": self._short,
            "chunks_sent": self._sent,
        }

    async def _page(self, page: PageInfo) -> None:
        if page.key:  # else a stock peer's digest: its peers republish it
            for pending in (False, True):
                await self._kind(page, pending=pending)

    async def _kind(self, page: PageInfo, *, pending: bool) -> None:
        """What stands in a page, or what waits there in batches."""
        after: Cursor | None = None
        while True:
            query = RangeQuery(page.place, after=after, bytes_max=RECORDS_STORE_BYTES_MAX, dead=True, pending=pending)
            result = await self._store.read(query)
            if result.versions:
                await self._records_of(page.key, result.versions)
                after = position(result.versions[-1], "time")
            if not result.more:
                return

    async def _records_of(self, key: bytes, versions: list[Version]) -> None:
        assert sum(map(encoded_bytes, versions)) <= RECORDS_STORE_BYTES_MAX or len(versions) == 1
        for marker in (version for version in versions if version.flags & Flag.SPLIT):
            await self._writer.tell_split(key, marker.meta)
        versions = [version for version in versions if not version.flags & Flag.SPLIT]
        self._records += len(versions)
        tallies = await self._writer.store(key, versions, "all")
        self._records_short += sum(tally.stored < tally.asked for tally in tallies)

    async def _chunk(self, chunk_id: ChunkID) -> None:
        self._count += 1
        data = await self._store.get_chunk(chunk_id)
        if data is None:
            return
        try:
            put = await self._chunks.restore(chunk_id, data)
        except P2pkvError:
            self._short += 1
            return
        self._sent += put.sent
        self._short += put.stored < put.asked
