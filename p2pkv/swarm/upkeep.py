"""Keeps this peer's share complete: it fetches what it should hold and lacks from those who should hold it too.

Theory of operation. Every peer is responsible for its own share alone. In each round it goes through its neighbours,
one after the other, compares what both should hold and fetches what it lacks; so nothing is sent twice to anybody, and
who receives sets the pace. All replicas do this, hence what one of them has all of them get: a newcomer its whole
share, a peer that was away what it missed, and a peer that moves up because another died what it has become
responsible for. What is fetched passes the same checks as any store request.

Rounds follow each other quickly while something was found or the neighbours change, and ever more slowly while all is
in order; while very much is put here, they wait for its end, for some minutes at most. Nothing is fetched in parallel
to speak of, so foreground traffic hardly notices.

Owns the rounds and their pace. Never decides which of two versions stands.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, defaultdict
from collections.abc import Sequence

from p2pkv import messages
from p2pkv.core.pages import page_of, place_of_page
from p2pkv.core.reconciliation import ITEM_BYTES, Walk, item_of
from p2pkv.core.reconciliation import Part as Answer
from p2pkv.core.records import check_key, content_hash
from p2pkv.errors import RemoteError
from p2pkv.ids import CHUNK_ID_BYTES, ChunkID, Place, place_of_chunk
from p2pkv.limits import (
    RECORDS_SETTLE_S,
    TOMBSTONE_S,
    UPKEEP_FETCH_ITEMS,
    UPKEEP_FETCHES_AT_ONCE_MAX,
    UPKEEP_FIRST_S,
    UPKEEP_JUDGED_AT_ONCE,
    UPKEEP_LULL_TURNS_FAILED_MAX,
    UPKEEP_LULL_TURNS_MAX,
    UPKEEP_NEIGHBOURS,
    UPKEEP_ROUND_S,
    UPKEEP_ROUND_S_MAX,
    UPKEEP_SOON_S,
    UPKEEP_SOON_TURNS_MAX,
    UPKEEP_UNWANTED_MAX,
    UPKEEP_UNWANTED_S,
)
from p2pkv.messages import CHUNKS, RECORDS, Handed
from p2pkv.storage.interface import StoreFailedError
from p2pkv.swarm.chunks import ChunkSwarm
from p2pkv.swarm.collecting import ended_before
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.duties import Duties, Part, Parts, duties_of
from p2pkv.swarm.environment import Environment
from p2pkv.swarm.handover import Handover
from p2pkv.swarm.inventory import StoreInventory
from p2pkv.swarm.neighbourhood import Neighbourhood
from p2pkv.swarm.protocol import PeerProtocol
from p2pkv.swarm.register_upkeep import RegisterUpkeep
from p2pkv.swarm.replica import Replica

log = logging.getLogger(__name__)
_HELD = {messages.STORED, messages.ALREADY}


class Upkeep:
    """The rounds of one peer."""

    def __init__(
        self,
        protocol: PeerProtocol,
        inventory: StoreInventory,
        replica: Replica,
        chunks: ChunkSwarm,
        neighbourhood: Neighbourhood,
        handover: Handover,
        registers: RegisterUpkeep,
        env: Environment,
    ) -> None:
        self.counters = handover.counters
        self._handover = handover
        self._registers = registers
        self._protocol = protocol
        self._inventory = inventory
        self._replica = replica
        self._chunks = chunks
        self._neighbourhood = neighbourhood
        self._env = env
        self._failures = 0  # rounds in a row in which a neighbour did not answer
        self._near: list[Contact] | None = None  # of which the duties were made
        self._former_duties = Duties()
        self._news = asyncio.Event()  # the neighbours have changed
        self._unwanted: OrderedDict[bytes, float] = OrderedDict()  # items that were of no use here, until when
        self._tasks: list[asyncio.Task[None]] = []

    # --- life ---

    def start(self) -> None:
        self._replica.store.watcher = self._inventory
        self._inventory.on_lost = self._news.set
        if self._neighbourhood.stores:
            self._protocol.on_contact_added.append(self._on_neighbour)
            self._protocol.on_contact_gone.append(self._on_neighbour)
            works = (self._inventory.run(), self._registers.run(), self._run())
            self._tasks = [asyncio.create_task(work) for work in works]

    async def end(self) -> Duties:
        """Begin no further round; what this peer is a replica of."""
        self._tasks[-1].cancel()
        return await self._duties()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _on_neighbour(self, contact: Contact) -> None:
        """A contact came or went: is it one of those that share places with this peer?"""
        near = self._protocol.router.nearest(self._neighbourhood.node_id, 2 * self._neighbourhood.k)
        if len(near) < 2 * self._neighbourhood.k or contact in near or self._nearer(contact, near[-1]):
            self._news.set()

    def _nearer(self, contact: Contact, other: Contact) -> bool:
        own = int.from_bytes(self._neighbourhood.node_id, "big")
        return int.from_bytes(contact.id, "big") ^ own < int.from_bytes(other.id, "big") ^ own

    async def _run(self) -> None:
        await asyncio.sleep(UPKEEP_FIRST_S * self._env.random.uniform(0.5, 1.5))
        pause_s = UPKEEP_ROUND_S
        while True:
            await self._lull()
            self._news.clear()
            try:
                quiet = await self.round()
            except StoreFailedError as error:
                log.error("what is here cannot be kept up: %s", error)
                quiet = True
            pause_s = self._pause_s(pause_s, quiet=quiet)
            if await self._wait(pause_s * self._env.random.uniform(0.7, 1.3)):
                pause_s = UPKEEP_ROUND_S
                await self._calm()

    def _pause_s(self, before_s: float, *, quiet: bool) -> float:
        """Until the next round: soon where somebody did not answer, later and later where all is in order."""
        if self._failures:
            return min(UPKEEP_SOON_S * (1 << min(self._failures, 8)), UPKEEP_ROUND_S)
        return min(max(2 * before_s, UPKEEP_ROUND_S), UPKEEP_ROUND_S_MAX) if quiet else UPKEEP_ROUND_S

    async def _lull(self) -> None:
        """While very much comes, replicas differ in what is on its way to them alone: wait until it counts everywhere,
        but not for ever, less where somebody did not answer, and not at all where the neighbours have changed."""
        for turn in range(UPKEEP_LULL_TURNS_FAILED_MAX if self._failures else UPKEEP_LULL_TURNS_MAX):
            if not self._inventory.busy:
                if turn:
                    await self._wait(RECORDS_SETTLE_S * self._env.random.uniform(1.0, 2.0))
                return
            if await self._wait(UPKEEP_SOON_S):
                return

    async def _calm(self) -> None:
        """Wait until the neighbours change no more, but not for ever."""
        for _ in range(UPKEEP_SOON_TURNS_MAX):
            self._news.clear()
            if not await self._wait(UPKEEP_SOON_S * self._env.random.uniform(0.5, 1.5)):
                return

    async def _wait(self, pause_s: float) -> bool:
        """Wait for the next round; True where the neighbours have changed meanwhile."""
        try:
            await asyncio.wait_for(self._news.wait(), pause_s)
        except TimeoutError:
            return False
        return True

    # --- one round ---

    async def round(self) -> bool:
        """Compare with every neighbour; True where nothing was lacking and all of them answered."""
        duties = await self._duties()
        contacts = list(duties.shared)
        self._env.random.shuffle(contacts)
        ours = [contact for contact in contacts if contact.kind != "stock"]
        quiet, answered = await self._registers.round(duties, ours, self._near or ())
        failed = not answered
        for contact in contacts:
            try:
                gained = [await self._compare(contact, kind, duties.shared[contact]) for kind in (RECORDS, CHUNKS)]
                quiet = quiet and not any(gained)
            except RemoteError as error:
                log.debug("%s:%d could not be compared with: %s", contact.ip, contact.port, error)
                failed = failed or contact.kind != "stock"
        self.counters["upkeep_rounds"] += 1
        self._failures = self._failures + 1 if failed else 0
        handed_on = await self._registers.hand_on(duties)
        return await self._handover.round(duties) and handed_on and quiet and not failed

    async def _duties(self) -> Duties:
        k = self._neighbourhood.k
        near = self._protocol.router.nearest(self._neighbourhood.node_id, UPKEEP_NEIGHBOURS * k)
        if near is self._near:
            return self._former_duties  # the table is the same
        parts: list[Part] = []
        for count, part in enumerate(Parts(self._neighbourhood.node_id, near, k).walk()):
            parts.append(part)
            if count % 16 == 15:
                await asyncio.sleep(0)
        self._near, self._former_duties = near, duties_of(parts)
        return self._former_duties

    async def _compare(self, contact: Contact, kind: int, prefixes: Sequence[bytes]) -> int:
        """Fetch what a neighbour has below some prefixes and this peer lacks; how much that was. Raises RemoteError."""
        walk = Walk(await self._inventory.fresh(kind, prefixes), prefixes)
        gained = 0
        while questions := walk.questions():
            reply = await self._protocol.call(contact, messages.COMPARE, messages.Compare(kind, questions))
            await self._inventory.fresh(kind, [prefix for prefix, _ in questions])
            lacking = walk.take(questions, [Answer(*part) for part in reply.parts])
            wanted = [item for item in lacking if not self._is_unwanted(item) and not self._inventory.came(kind, item)]
            gained += await self._fetch_all(contact, kind, wanted)
        return gained

    async def _fetch_all(self, contact: Contact, kind: int, items: Sequence[bytes]) -> int:
        """A few requests at a time, so that one is on its way while what another brought is written."""
        batches = iter(
            [items[start : start + UPKEEP_FETCH_ITEMS] for start in range(0, len(items), UPKEEP_FETCH_ITEMS)]
        )

        async def work() -> int:
            return sum([await self._fetch(contact, kind, list(batch)) for batch in batches])

        return sum(await asyncio.gather(*(work() for _ in range(UPKEEP_FETCHES_AT_ONCE_MAX))))

    async def _fetch(self, contact: Contact, kind: int, items: list[bytes]) -> int:
        gained = 0
        while items:
            reply = await self._protocol.call(contact, messages.FETCH, messages.Fetch(kind, b"".join(items)))
            if not 0 < reply.answered <= len(items):
                raise RemoteError("misbehaved", "a wrong number of items answered")
            asked, items = set(items[: reply.answered]), items[reply.answered :]
            if kind == CHUNKS:
                gained += await self._pull_chunks(contact, asked, reply)
            else:
                gained += await self._keep_records(asked, reply.records)
        return gained

    # --- records ---

    async def _keep_records(self, asked: set[bytes], records: list[Handed]) -> int:
        shares: dict[bytes, list[tuple[bytes, Place, Handed]]] = defaultdict(list)
        for handed in records:
            check_key(handed.key)
            place = place_of_page(handed.key, page_of(handed.version, handed.depth))
            item = item_of(place, content_hash(handed.version))
            if item not in asked:
                raise RemoteError("misbehaved", "a record that was not asked for")
            if self._neighbourhood.keeps(place) and not ended_before(handed.version, self._env.now_s() - TOMBSTONE_S):
                shares[handed.key].append((item, place, handed))
            else:
                self._reject(item)
        tasks: list[asyncio.Task[int]] = []
        try:
            for key, share in shares.items():
                tasks.append(asyncio.create_task(self._keep_share(key, share)))
                if len(tasks) % UPKEEP_JUDGED_AT_ONCE == 0:
                    await asyncio.sleep(0)  # checking signatures takes its time: others have their turn between
            return sum(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def _keep_share(self, key: bytes, share: list[tuple[bytes, Place, Handed]]) -> int:
        """Judge and keep records of one key."""
        versions = [handed.version for _, _, handed in share]
        results = await self._replica.store_versions(key, versions, [place for _, place, _ in share])
        gained = 0
        for (item, _, handed), result in zip(share, results, strict=True):
            if result.code == messages.STORED:
                gained += 1
                self.counters["upkeep_bytes_fetched"] += len(handed.version.body)
            elif result.code not in _HELD:
                self._reject(item)
        self.counters["upkeep_records_fetched"] += gained
        return gained

    # --- chunks ---

    async def _pull_chunks(self, contact: Contact, asked: set[bytes], named: messages.FetchReply) -> int:
        gained = 0
        if len(named.days) != len(named.chunk_ids):
            raise RemoteError("misbehaved", "a wrong number of days")
        for chunk_id, day in zip(map(ChunkID, named.chunk_ids), named.days, strict=True):
            if len(chunk_id) != CHUNK_ID_BYTES or not any(chunk_id.startswith(item) for item in asked):
                raise RemoteError("misbehaved", "a chunk that was not asked for")
            if self._chunks.unwanted(day):
                continue  # by this contact's word: another may know better
            if self._neighbourhood.keeps(place_of_chunk(chunk_id)):
                size_bytes = await self._chunks.fetch_here(contact, chunk_id, day)
                gained += size_bytes > 0
                self.counters["upkeep_bytes_fetched"] += size_bytes
            else:
                self._reject(chunk_id[:ITEM_BYTES])
        self.counters["upkeep_chunks_fetched"] += gained
        return gained

    # --- what is of no use here ---

    def _reject(self, item: bytes) -> None:
        self.counters["upkeep_rejected"] += 1
        self._unwanted[item] = self._env.now_s() + UPKEEP_UNWANTED_S
        self._unwanted.move_to_end(item)
        if len(self._unwanted) > UPKEEP_UNWANTED_MAX:
            self._unwanted.popitem(last=False)

    def _is_unwanted(self, item: bytes) -> bool:
        until_s = self._unwanted.get(item)
        return until_s is not None and self._env.now_s() < until_s
