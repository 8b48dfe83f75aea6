"""Keeps erasure-coded chunks whole: lost shards are made anew, and each shard is where readers look for it.

Theory of operation. A stripe chunk lies on k peers like any chunk; the two nearest to it tend its shards, the second
only now and then, in case the first cannot. In each round they ask who should have the shards whether he does, many
at once, and look for those that he does not have among all who might. A shard that is nowhere to be found in two rounds
in a row (its holder may just start anew) is computed from K others and put to a peer that has none of the stripe. A
shard is looked for at the k peers nearest to it: a holder that is none of them any more gives it to one that is, and
drops it once it is durable there.

Owns the rounds and their pace. Looks into stripes alone, never into what they stand for.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import TypeVar

from p2pkv import messages
from p2pkv.core.erasure import Stripe, decode_stripe, has_library, rebuild
from p2pkv.errors import P2pkvError, RemoteError
from p2pkv.ids import Bytes, ChunkID, distance, is_shard, is_stripe, place_of_chunk
from p2pkv.limits import (
    CHUNKS_ASKED_MAX,
    HANDOVER_GRACE_S,
    LEAVE_PUSHES_AT_ONCE_MAX,
    STORE_SCAN_STEP,
    TEND_FIRST_S,
    TEND_REMEMBERED_MAX,
    TEND_S,
    TEND_SECOND_ROUNDS,
    TEND_STRIPES_AT_ONCE_MAX,
)
from p2pkv.storage.interface import Store, StoreFailedError
from p2pkv.swarm.chunks import ChunkKeeper, ChunkSwarm
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.environment import Environment
from p2pkv.swarm.neighbourhood import Neighbourhood
from p2pkv.swarm.protocol import PeerProtocol

log = logging.getLogger(__name__)
_TROUBLE = (P2pkvError, RemoteError, StoreFailedError)
_T = TypeVar("_T")


class Tending:
    """One peer's care for stripes and shards."""

    def __init__(
        self,
        keeper: ChunkKeeper,
        protocol: PeerProtocol,
        chunks: ChunkSwarm,
        neighbourhood: Neighbourhood,
        env: Environment,
        counters: Counter[str],
    ) -> None:
        self._keeper = keeper
        self._store: Store = keeper.store
        self._protocol = protocol
        self._chunks = chunks
        self._neighbourhood = neighbourhood
        self._env = env
        self._counters = counters
        self._rounds = 0
        self._lost: dict[ChunkID, float] = {}  # shards that were nowhere to be found, since when
        self._others: dict[ChunkID, float] = {}  # shards here that a nearer peer should have, since when
        self._beyond: set[ChunkID] = set()  # chunks of which too few shards were found
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
        pause_s = TEND_FIRST_S
        while True:
            await asyncio.sleep(pause_s * self._env.random.uniform(0.7, 1.3))
            try:
                await self.round()
            except _TROUBLE as error:
                log.debug("shards could not be looked after: %s", error)
            pause_s = TEND_S

    # --- one round ---

    async def round(self, *, at_once: bool = False) -> None:
        """Look after everything here once; `at_once`: what is lost is made anew without waiting for a second look."""
        second = at_once or self._rounds % TEND_SECOND_ROUNDS == TEND_SECOND_ROUNDS - 1
        self._rounds += 1
        stripes: list[ChunkID] = []
        after: ChunkID | None = None
        while ids := await self._store.chunk_ids(after, STORE_SCAN_STEP):
            after = ids[-1]
            for chunk_id in ids:
                if is_shard(chunk_id):
                    await self._place(chunk_id)
                elif is_stripe(chunk_id) and self._neighbourhood.rank(place_of_chunk(chunk_id)) <= second:
                    stripes.append(chunk_id)
            while len(stripes) >= TEND_STRIPES_AT_ONCE_MAX:
                await self._tend(stripes[:TEND_STRIPES_AT_ONCE_MAX], at_once=at_once)
                del stripes[:TEND_STRIPES_AT_ONCE_MAX]
        await self._tend(stripes, at_once=at_once)

    # --- stripes ---

    async def _tend(self, ids: Sequence[ChunkID], *, at_once: bool) -> None:
        stripes: list[Stripe] = []
        for chunk_id in ids:
            stored = await self._store.get_chunk(chunk_id)
            if stored is not None and not await self._keeper.doubtful(chunk_id):
                try:
                    stripes.append(decode_stripe(stored))
                except P2pkvError as error:
                    log.debug("stripe %s: %s", chunk_id.hex(), error)
        shards = [shard for stripe in stripes for shard in stripe.shards]
        holders = await self._find(shards)
        for stripe in stripes:
            lost = [index for index, shard in enumerate(stripe.shards) if shard not in holders]
            if stripe.chunk_id in self._beyond and len(stripe.shards) - len(lost) < stripe.needed:
                continue  # looked for everywhere before, and too few have come back
            lost = [index for index in lost if not await self._is_anywhere(stripe.shards[index])]
            for shard in (shard for index, shard in enumerate(stripe.shards) if index not in lost):
                self._lost.pop(shard, None)
            due = [index for index in lost if at_once or self._due(self._lost, stripe.shards[index], TEND_S / 2)]
            if due:
                taken = {holders[shard] for shard in stripe.shards if shard in holders}
                await self._mend(stripe, lost, due, taken)
            elif not lost:
                self._beyond.discard(stripe.chunk_id)

    async def _find(self, shards: Sequence[ChunkID]) -> dict[ChunkID, bytes]:
        """The NodeIDs of peers that have shards. The nearest to each are asked first, then the next, and so on."""
        holders: dict[ChunkID, bytes] = {}
        for rank in range(self._neighbourhood.k):
            by_keeper: dict[Contact | None, list[ChunkID]] = defaultdict(list)
            for shard in shards:
                keepers = self._keepers(shard) if shard not in holders else []
                if rank < len(keepers):
                    by_keeper[keepers[rank]].append(shard)
            for keeper, asked in by_keeper.items():
                for start in range(0, len(asked), CHUNKS_ASKED_MAX):
                    batch = asked[start : start + CHUNKS_ASKED_MAX]
                    held = zip(batch, await self._held(keeper, batch), strict=True)
                    holders |= {shard: self._id_of(keeper) for shard, holds in held if holds}
        return holders

    def _keepers(self, shard: ChunkID) -> list[Contact | None]:
        """The peers that may keep a shard, nearest first; None: this peer."""
        place = place_of_chunk(shard)
        keepers: list[Contact | None] = [*self._neighbourhood.nearest(place)]
        if self._neighbourhood.keeps(place):
            keepers.append(None)
        return sorted(keepers, key=lambda keeper: distance(self._id_of(keeper), place))

    def _id_of(self, keeper: Contact | None) -> bytes:
        return keeper.id if keeper else self._neighbourhood.node_id

    async def _held(self, contact: Contact | None, shards: Sequence[ChunkID]) -> list[bool]:
        if contact is None:
            return await self._store.has_chunks(shards)
        try:
            reply = await self._protocol.call(contact, messages.HAS_CHUNKS, messages.HasChunks(list(shards)))
        except RemoteError:
            return [False] * len(shards)
        return reply.held if len(reply.held) == len(shards) else [False] * len(shards)

    async def _is_anywhere(self, shard: ChunkID) -> bool:
        """Does anybody have it who might? Peers that do not answer count as having nothing."""
        try:
            return any(info.holds for info in await self._chunks.holders(shard))
        except P2pkvError:
            return True  # who cannot ask knows nothing

    def _due(self, since_s: dict[ChunkID, float], chunk_id: ChunkID, grace_s: float) -> bool:
        """Has this been so for a while?"""
        if len(since_s) >= TEND_REMEMBERED_MAX:
            since_s.clear()
        now_s = asyncio.get_running_loop().time()
        return now_s - since_s.setdefault(chunk_id, now_s) >= grace_s

    async def _mend(self, stripe: Stripe, lost: Sequence[int], wanted: Sequence[int], taken: set[bytes]) -> None:
        """Make lost shards anew and put them to peers that have none of this stripe (`taken`: those that have)."""
        if not has_library():
            log.warning("an erasure-coded chunk has lost shards, and pyeclib, which could mend it, is not installed")
            return
        shards = await self._some(stripe, [index for index in range(len(stripe.shards)) if index not in lost])
        if len(shards) < stripe.needed:
            self._tell_beyond(stripe, len(shards))
            return
        try:
            rebuilt = await self._offload(lambda: rebuild(stripe, shards, wanted))
            for index, stored in rebuilt.items():
                put = await self._chunks.put_shard(stripe.shards[index], stored, taken)
                self._counters["upkeep_shards_rebuilt"] += put.stored > 0
                self._lost.pop(stripe.shards[index], None)
        except P2pkvError as error:
            log.warning("erasure-coded chunk %s: %s", stripe.chunk_id.hex(), error)

    def _tell_beyond(self, stripe: Stripe, found: int) -> None:
        """Say once that a chunk cannot be brought back from the shards that answer now."""
        if stripe.chunk_id not in self._beyond:
            told = "erasure-coded chunk %s: only %d of the shards are found, and %d are needed"
            log.warning(told, stripe.chunk_id.hex(), found, stripe.needed)
        if len(self._beyond) >= TEND_REMEMBERED_MAX:
            self._beyond.clear()
        self._beyond.add(stripe.chunk_id)

    async def _some(self, stripe: Stripe, indexes: Sequence[int]) -> dict[int, Bytes]:
        """As many shards as are needed, of these."""
        shards: dict[int, Bytes] = {}
        for index in indexes:
            if len(shards) == stripe.needed:
                break
            try:
                shards[index] = await self._chunks.get(stripe.shards[index])
                self._counters["upkeep_bytes_fetched"] += len(shards[index])
            except P2pkvError:
                continue
        return shards

    async def _offload(self, work: Callable[[], _T]) -> _T:
        """Some milliseconds of arithmetic, beside the event loop."""
        return work() if self._env.simulated else await asyncio.to_thread(work)

    # --- shards here ---

    async def _place(self, shard: ChunkID) -> None:
        """Give a shard to those who will be asked for it, and drop it when one of them has it."""
        if self._neighbourhood.keeps(place_of_chunk(shard)):
            self._others.pop(shard, None)
        elif self._due(self._others, shard, HANDOVER_GRACE_S) and await self._give_away(shard):
            del self._others[shard]
            self._counters["upkeep_shards_moved"] += await self._store.delete_chunk(shard)

    async def _give(self, contact: Contact, shard: ChunkID) -> bool:
        """True where a contact has a shard durably then."""
        if (await self._held(contact, [shard]))[0]:
            return True
        stored = await self._store.get_chunk(shard)
        if stored is None:
            return False
        try:
            await self._chunks.push_to(contact, shard, stored)
        except RemoteError as error:
            log.debug("%s:%d does not take a shard: %s", contact.ip, contact.port, error)
            return False
        return True

    async def hand_on(self) -> bool:
        """Give every shard here to the nearest other peer, because this one ends; True where all were taken."""
        after: ChunkID | None = None
        taken = True
        while ids := await self._store.chunk_ids(after, STORE_SCAN_STEP):
            after = ids[-1]
            shards = [chunk_id for chunk_id in ids if is_shard(chunk_id)]
            for start in range(0, len(shards), LEAVE_PUSHES_AT_ONCE_MAX):
                given = (self._give_away(shard) for shard in shards[start : start + LEAVE_PUSHES_AT_ONCE_MAX])
                taken = all(await asyncio.gather(*given)) and taken
        return taken

    async def _give_away(self, shard: ChunkID) -> bool:
        for contact in self._neighbourhood.nearest(place_of_chunk(shard)):
            if await self._give(contact, shard):
                return True
        return False
