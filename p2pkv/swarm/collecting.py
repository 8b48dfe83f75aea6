"""Gives back what nobody wants any more: chunks that no record refers to, and the traces of deletions of long ago.

Theory of operation. Who holds a chunk cannot see who refers to it, and who refers to it may be cut off: so nothing is
ever counted. Instead, the two nearest to a record (the second only now and then) say every day to those who hold its
chunks that they are wanted, and a holder notes the day. So does a put that finds its chunk there already. A chunk that
was not wanted for CHUNK_GRACE_DAYS is dropped, by a holder that was up, and heard most of the swarm, for long enough
to have been told. A chunk whose day is not known counts from the first look at it. Upkeep hands a chunk's day on with
it, so that moving chunks about does not keep them for ever.

A tombstone, or a record that expired, is dropped TOMBSTONE_S later: every replica that was away for less has it.

Owns the rounds and their pace. Never drops what somebody wanted within the grace time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from p2pkv import messages
from p2pkv.core.chunking import decode_list_chunk
from p2pkv.core.erasure import decode_stripe
from p2pkv.core.manifest import ChunkList, decode_body, decode_list
from p2pkv.core.records import DECISION_NAME, Flag, Version, content_hash
from p2pkv.core.replication import position
from p2pkv.errors import P2pkvError, RemoteError
from p2pkv.ids import ChunkID, Place, is_stripe, place_of_chunk
from p2pkv.limits import (
    CHUNK_GRACE_DAYS,
    CHUNKS_ASKED_MAX,
    COLLECT_MARGIN_S,
    RECORDS_STORE_BYTES_MAX,
    STORE_SCAN_STEP,
    SWARM_KNOWN_WHOLE,
    TOMBSTONE_S,
    VOUCH_FIRST_S,
    VOUCH_S,
    VOUCH_SECOND_ROUNDS,
    VOUCHED_AT_ONCE_MAX,
)
from p2pkv.storage.interface import Cursor, DropVersion, PageInfo, RangeQuery, Store, StoreFailedError
from p2pkv.swarm.chunks import ChunkKeeper, ChunkSwarm
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.environment import Environment
from p2pkv.swarm.inventory import rest
from p2pkv.swarm.lookup import Lookups
from p2pkv.swarm.neighbourhood import Neighbourhood
from p2pkv.swarm.protocol import PeerProtocol

log = logging.getLogger(__name__)
_TROUBLE = (P2pkvError, RemoteError, StoreFailedError)


class Collecting:
    """One peer's word for the chunks of its records, and what it drops."""

    def __init__(
        self,
        protocol: PeerProtocol,
        lookups: Lookups,
        keeper: ChunkKeeper,
        chunks: ChunkSwarm,
        neighbourhood: Neighbourhood,
        env: Environment,
        counters: Counter[str],
    ) -> None:
        self._store: Store = keeper.store
        self._protocol = protocol
        self._lookups = lookups
        self._keeper = keeper
        self._chunks = chunks
        self._neighbourhood = neighbourhood
        self._env = env
        self._counters = counters
        self._rounds = 0
        self._wanted: list[ChunkID] = []  # and not said yet
        self._task: asyncio.Task[None] | None = None

    # --- life ---

    def start(self) -> None:
        if self._neighbourhood.stores:
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        began_s, pause_s = loop.time(), VOUCH_FIRST_S
        while True:
            await asyncio.sleep(pause_s * self._env.random.uniform(0.7, 1.3))
            pause_s = VOUCH_S
            try:
                self._lookups.require_swarm()
                await self.vouch()
                if loop.time() - began_s > 2 * VOUCH_S:
                    self._lookups.require_swarm()
                    await self.collect()
            except _TROUBLE as error:
                log.info("what is wanted of the chunks could not be told: %s", error)

    # --- what is wanted ---

    async def vouch(self) -> None:
        """Say of every chunk of the records here that it is wanted; and forget old tombstones on the way."""
        second = self._rounds % VOUCH_SECOND_ROUNDS == VOUCH_SECOND_ROUNDS - 1
        self._rounds += 1
        self._wanted = []
        place: Place | None = None
        while pages := await self._store.pages(place):
            began_s = asyncio.get_running_loop().time()
            for page in pages:
                if page.key:
                    await self._page(page, wanted=self._neighbourhood.rank(page.place) <= second)
            place = pages[-1].place
            await rest(began_s)
        await self._say()

    async def _page(self, page: PageInfo, *, wanted: bool) -> None:
        after: Cursor | None = None
        old_s = self._env.now_s() - TOMBSTONE_S - COLLECT_MARGIN_S
        while True:
            query = RangeQuery(page.place, after=after, bytes_max=RECORDS_STORE_BYTES_MAX, dead=True)
            result = await self._store.read(query)
            await self._forget(page.place, [version for version in result.versions if ended_before(version, old_s)])
            for version in result.versions:
                live = not version.dead and not version.expired(self._env.now_s())
                if wanted and live and version.flags & Flag.CHUNKED:
                    await self._version(version)
            if not result.more:
                return
            after = position(result.versions[-1], "time")

    async def _forget(self, place: Place, versions: Sequence[Version]) -> None:
        if versions:
            drops = [DropVersion(place, *version.identity, content_hash(version)) for version in versions]
            await self._store.commit(drops)
            self._counters["records_forgotten"] += len(drops)

    async def _version(self, version: Version) -> None:
        """A record whose lists cannot be read now is passed over: there are many days."""
        try:
            async with aclosing(self._chunks_of(decode_body(version.body, version.size_bytes))) as ids:
                async for chunk_id in ids:
                    self._wanted.append(chunk_id)
                    if len(self._wanted) >= VOUCHED_AT_ONCE_MAX:
                        await self._say()
        except (P2pkvError, RemoteError) as error:
            log.debug("the chunks of %r could not be told: %s", version.name, error)

    async def _chunks_of(self, root: ChunkList) -> AsyncGenerator[ChunkID, None]:
        """Every chunk of a value: lists, stripes and shards, too."""
        lists = [root]
        while lists:
            chunk_list = lists.pop()
            for ref in chunk_list.entries:
                yield ref.id
                if chunk_list.level:
                    encoded = decode_list_chunk(await self._chunks.get(ref.id))
                    lists.append(decode_list(encoded, level=chunk_list.level - 1, size_bytes=ref.size_bytes))
                elif is_stripe(ref.id):
                    for shard in decode_stripe(await self._chunks.get(ref.id)).shards:
                        yield shard

    async def _say(self) -> None:
        """Tell the holders of what was gathered."""
        began_s = asyncio.get_running_loop().time()
        wanted, self._wanted = self._wanted, []
        await self._keeper.vouch(wanted)
        by_contact: dict[Contact, list[ChunkID]] = defaultdict(list)
        for chunk_id in wanted:
            for contact in await self._holders(chunk_id):
                by_contact[contact].append(chunk_id)
        for contact, ids in by_contact.items():
            for start in range(0, len(ids), CHUNKS_ASKED_MAX):
                request = messages.HasChunks(list(ids[start : start + CHUNKS_ASKED_MAX]), vouch=True)
                try:
                    await self._protocol.call(contact, messages.HAS_CHUNKS, request)
                except RemoteError:
                    break  # it hears it another day
        await rest(began_s)

    async def _holders(self, chunk_id: ChunkID) -> list[Contact]:
        place = place_of_chunk(chunk_id)
        if len(self._protocol.router.contacts()) <= SWARM_KNOWN_WHOLE:
            return self._neighbourhood.nearest(place)
        found = await self._lookups.find_nodes(place)
        return [contact for contact in found.contacts if contact.kind != "stock"]

    # --- what is not ---

    async def collect(self) -> None:
        """Drop the chunks here that nobody wanted for the grace time."""
        today = self._keeper.today()
        after: ChunkID | None = None
        while ids := await self._store.chunk_ids(after, STORE_SCAN_STEP):
            began_s = asyncio.get_running_loop().time()
            after = ids[-1]
            days = await self._store.chunk_days(ids)
            unknown = [chunk_id for chunk_id, day in zip(ids, days, strict=True) if day is None]
            if unknown:
                await self._store.vouch_chunks(unknown, today)
            for chunk_id, day in zip(ids, days, strict=True):
                if day is not None and day < today - CHUNK_GRACE_DAYS:
                    collected = await self._store.collect_chunk(chunk_id, today - CHUNK_GRACE_DAYS)
                    self._counters["chunks_collected"] += collected
            await rest(began_s)


def ended_before(version: Version, time_s: float) -> bool:
    """Is this a tombstone, or an expired record, of before that time? A page's mark of its split never is, and of
    what is write-once the decisions of batches alone."""
    if version.flags & (Flag.SPLIT | Flag.ONCE):
        return version.name == DECISION_NAME and version.expired(time_s)
    return (version.dead and version.time_s < time_s) or version.expired(time_s)
