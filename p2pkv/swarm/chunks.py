"""Chunks in the swarm: brings them to the k peers nearest to their hash, finds and fetches them.

Theory of operation. A chunk is immutable and called by its hash, so replicas cannot disagree: one good answer is the
answer, and any peer may give it. A put asks the k nearest who holds it already and sends it to the first of the
others, which passes it on to the next, so that it leaves the uploader once; then each is asked whether it has it
durably, and whoever has not gets it from the uploader. A get asks the nearest who hold it, takes the one with the
least under way, and another beside it where nothing is heard for a moment or it takes far longer than usual: the
first to bring the bytes is the answer. Bytes travel by bulk transfer and are checked against the hash on both sides.

Owns chunk placement and the choice of replicas. Never looks into a chunk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence

from p2pkv import messages
from p2pkv.core.carriers import carried
from p2pkv.core.drafts import ChunkPut
from p2pkv.core.replication import needed
from p2pkv.errors import IncompleteError, NotFoundError, RemoteError, UnreachableError
from p2pkv.ids import CHUNK_ID_BYTES, Bytes, ChunkID, NodeID, distance, is_shard, place_of_chunk
from p2pkv.limits import BULK_SHORT_BYTES, CHUNK_DOUBT_DAYS, CHUNK_GRACE_DAYS, CHUNKS_ASKED_MAX, DAY_S, RELAY_BYTES_MIN
from p2pkv.outcomes import Acks, ReplicaFailure, ReplicaInfo
from p2pkv.storage.interface import QuotaExceededError, Store, StoreFailedError
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.lookup import Lookups
from p2pkv.swarm.neighbourhood import Neighbourhood
from p2pkv.swarm.protocol import PeerProtocol, Sender
from p2pkv.swarm.pulling import ChunkHash, ChunkTransport, Pulls, Search


class ChunkKeeper:
    """This peer's share of the swarm's chunks: what it answers to others."""

    def __init__(self, store: Store, *, stores: bool, chunk_hash: ChunkHash, now_s: Callable[[], float]) -> None:
        self.store = store
        self._now_s = now_s
        self.chunk_hash = chunk_hash
        self.stores = stores

    async def on_has(self, sender: Sender, request: messages.HasChunks) -> messages.HasChunksReply:
        if len(request.chunk_ids) > CHUNKS_ASKED_MAX or any(len(i) != CHUNK_ID_BYTES for i in request.chunk_ids):
            raise RemoteError("malformed", "too many chunk ids, or of a wrong length")
        ids = [ChunkID(i) for i in request.chunk_ids]
        if request.vouch:
            await self.vouch(ids)
        return messages.HasChunksReply(await self.store.has_chunks(ids))

    def today(self) -> int:
        """Days since 1970."""
        return int(self._now_s() // DAY_S)

    async def vouch(self, chunk_ids: Sequence[ChunkID]) -> None:
        """Note that these are wanted. A day that is not known counts from when it is first looked at: later."""
        today = self.today()
        days = await self.store.chunk_days(chunk_ids)
        old = [chunk_id for chunk_id, day in zip(chunk_ids, days, strict=True) if day is not None and day < today]
        if old:
            await self.store.vouch_chunks(old, today)

    async def doubtful(self, chunk_id: ChunkID) -> bool:
        """Has nobody wanted a chunk for so long that it should not be brought to further peers?"""
        (day,) = await self.store.chunk_days([chunk_id])
        return day is not None and day < self.today() - CHUNK_DOUBT_DAYS

    async def receive(self, chunk_id: ChunkID, data: Bytes) -> None:
        """Check and keep a chunk that came from another peer; durable when it returns. Raises RemoteError."""
        await self.check(chunk_id, data)
        await self.keep(chunk_id, data)

    async def check(self, chunk_id: ChunkID, data: Bytes) -> None:
        """Raises RemoteError where we would not keep this for another peer."""
        if not self.stores:
            raise RemoteError("refused", "this peer stores nothing")
        if await self.chunk_hash(data) != chunk_id:
            raise RemoteError("damaged", "the bytes do not match the hash")

    async def keep(self, chunk_id: ChunkID, data: Bytes) -> None:
        """Raises RemoteError where the store cannot take it."""
        try:
            if not await self.store.put_chunk(chunk_id, data):
                await self.vouch([chunk_id])
        except QuotaExceededError as error:
            raise RemoteError("quota", str(error)) from error
        except StoreFailedError as error:
            raise RemoteError("failed", str(error)) from error

    async def fetch(self, chunk_id: ChunkID) -> bytes:
        """A chunk for another peer. Raises RemoteError."""
        data = await self.store.get_chunk(chunk_id)
        if data is None:
            raise RemoteError("refused", "no such chunk here")
        return data


class ChunkSwarm:
    """This peer's puts and gets of chunks (the `Chunks` port of `files/`)."""

    def __init__(
        self,
        protocol: PeerProtocol,
        transport: ChunkTransport,
        lookups: Lookups,
        keeper: ChunkKeeper,
        neighbourhood: Neighbourhood,
    ) -> None:
        self._protocol = protocol
        self._transport = transport
        self._lookups = lookups
        self._keeper = keeper
        self._neighbourhood = neighbourhood
        self._pulls = Pulls(protocol, transport, keeper.chunk_hash)

    # --- put ---

    async def put(
        self, chunk_id: ChunkID, stored: bytes, *, replicas: int | None = None, acks: Acks = "quorum"
    ) -> ChunkPut:
        """Bring a chunk that is wanted to its replicas; each is waited for, so that the count is the truth."""
        return await self._put(chunk_id, stored, replicas, acks, vouch=True)

    async def restore(self, chunk_id: ChunkID, stored: bytes) -> ChunkPut:
        """Bring a chunk that lies here to its replicas, whether anybody wants it or not."""
        return await self._put(chunk_id, stored, None, "all", vouch=False)

    async def _put(
        self, chunk_id: ChunkID, stored: bytes, replicas: int | None, acks: Acks, *, vouch: bool
    ) -> ChunkPut:
        if is_shard(chunk_id):
            return await self.put_shard(chunk_id, stored)
        contacts, here = await self._replicas(chunk_id, replicas or self._neighbourhood.k)
        asked = len(contacts) + here
        if not asked:
            raise _alone()
        worth_asking = len(stored) > BULK_SHORT_BYTES  # less is sent as quickly as asked about
        holding = await self._holding(chunk_id, contacts, vouch=vouch) if worth_asking else {}
        failures: list[ReplicaFailure] = []
        missing = [contact for contact in contacts if not holding.get(contact.id)]
        pushing = asyncio.gather(self._bring(missing, chunk_id, stored, failures))
        kept = await self._keep_here(chunk_id, stored, failures, here=here)
        await pushing
        held = asked - len(failures)
        failed = {failure.node for failure in failures}
        for contact in contacts:
            if contact.id.hex() not in failed:
                carried(contact.ip, contact.port, len(stored))
        return ChunkPut(asked, held, needed(acks, asked), sent=bool(missing) or kept, failures=failures)

    async def put_shard(self, shard_id: ChunkID, stored: bytes, avoid: Collection[bytes] = ()) -> ChunkPut:
        """Bring a shard to the nearest peer that takes it; to one of `avoid` (NodeIDs) only where no other does."""
        place = place_of_chunk(shard_id)
        contacts, here = await self._replicas(shard_id, self._neighbourhood.k)
        if not contacts and not here:
            raise _alone()
        keepers: list[Contact | None] = [*contacts, *([None] if here else [])]  # None: this peer

        def order(keeper: Contact | None) -> tuple[bool, int]:
            node_id = keeper.id if keeper else self._neighbourhood.node_id
            return node_id in avoid, distance(node_id, place)

        keepers.sort(key=order)
        failures: list[ReplicaFailure] = []
        for keeper in keepers:
            before = len(failures)
            if keeper is None:
                sent = await self._keep_here(shard_id, stored, failures, here=True)
            else:
                asks = len(stored) > BULK_SHORT_BYTES
                sent = not (asks and await self._pulls.holds(keeper, shard_id, vouch=True))
                if sent:
                    await self._push(keeper, shard_id, stored, failures)
            if len(failures) == before:
                if keeper:
                    carried(keeper.ip, keeper.port, len(stored))
                return ChunkPut(1, 1, 1, sent=sent, failures=failures)
        return ChunkPut(1, 0, 1, sent=True, failures=failures)

    async def _bring(
        self, contacts: list[Contact], chunk_id: ChunkID, stored: bytes, failures: list[ReplicaFailure]
    ) -> None:
        if len(contacts) > 1 and len(stored) >= RELAY_BYTES_MIN:
            contacts = await self._relay(contacts, chunk_id, stored)
        await asyncio.gather(*(self._push(contact, chunk_id, stored, failures) for contact in contacts))

    async def _relay(self, contacts: list[Contact], chunk_id: ChunkID, stored: bytes) -> list[Contact]:
        """Send a chunk to one contact, to be passed on to the others; those who do not have it then."""
        first, *others = contacts
        try:
            await self._transport.push(first, chunk_id, stored, [contact.id for contact in others])
        except RemoteError:
            return contacts
        holding = await self._holding(chunk_id, others)
        return [contact for contact in others if not holding[contact.id]]

    async def _replicas(self, chunk_id: ChunkID, replicas: int) -> tuple[list[Contact], bool]:
        self._lookups.require_swarm()
        place = place_of_chunk(chunk_id)
        here = self._neighbourhood.keeps(place)
        found = await self._lookups.find_nodes(place)
        contacts = [contact for contact in found.contacts if contact.kind != "stock"]
        return contacts[: replicas - here], here

    async def _keep_here(self, chunk_id: ChunkID, stored: bytes, failures: list[ReplicaFailure], *, here: bool) -> bool:
        if not here or (await self._keeper.store.has_chunks([chunk_id]))[0]:
            await self._keeper.vouch([chunk_id])
            return False
        try:
            await self._keeper.keep(chunk_id, stored)
        except RemoteError as error:
            failures.append(ReplicaFailure(self._neighbourhood.node_id.hex(), "here", str(error)))
        return True

    async def _push(self, contact: Contact, chunk_id: ChunkID, stored: bytes, failures: list[ReplicaFailure]) -> None:
        try:
            await self._transport.push(contact, chunk_id, stored)
        except RemoteError as error:
            failures.append(ReplicaFailure(contact.id.hex(), f"{contact.ip}:{contact.port}", str(error)))

    async def _holding(
        self, chunk_id: ChunkID, contacts: list[Contact], *, vouch: bool = False
    ) -> dict[bytes, bool | None]:
        """Which contacts hold a chunk; None for one that did not answer."""
        answers = await asyncio.gather(*(self._pulls.holds(contact, chunk_id, vouch=vouch) for contact in contacts))
        return {contact.id: answer for contact, answer in zip(contacts, answers, strict=True)}

    # --- get ---

    async def get(self, chunk_id: ChunkID, *, attempt: int = 0) -> Bytes:
        """A chunk's stored bytes, checked. Raises NotFoundError, IncompleteError."""
        own = await self._keeper.store.get_chunk(chunk_id)
        if own is not None:
            return own
        near = self._neighbourhood.nearest(place_of_chunk(chunk_id)) if attempt == 0 else []
        data, _ = await self._from(chunk_id, near)
        if data is not None:
            return data
        contacts, _ = await self._replicas(chunk_id, self._neighbourhood.k)
        data, failures = await self._from(chunk_id, contacts)
        if data is not None:
            return data
        if failures or not contacts:
            why = "; ".join(failures[:3]) or "no peer of the swarm answers"
            raise IncompleteError(f"chunk {chunk_id.hex()[:12]}: {why}", "try again when more peers are reachable")
        raise NotFoundError(f"no peer holds chunk {chunk_id.hex()[:12]}")

    async def _from(self, chunk_id: ChunkID, contacts: list[Contact]) -> tuple[Bytes | None, list[str]]:
        """Fetch a chunk from whichever of the contacts hold it; why it was not to be had from any."""
        search = Search(self._pulls, chunk_id, contacts)
        try:
            return await search.run(), search.failures
        finally:
            await search.close()

    async def fetch_here(self, contact: Contact, chunk_id: ChunkID, day: int) -> int:
        """Make this peer hold a chunk that a contact has; its size, 0 where it was here. Raises RemoteError.

        `day`: when it was wanted there.
        """
        if (await self._keeper.store.has_chunks([chunk_id]))[0]:
            return 0
        data = await self._pulls.pull(contact, chunk_id)
        await self._keeper.keep(chunk_id, data)
        if day < self._keeper.today():
            await self._keeper.store.vouch_chunks([chunk_id], day)
        return len(data)

    def unwanted(self, day: int) -> bool:
        """Would a chunk that was wanted last on that day be dropped here?"""
        return day < self._keeper.today() - CHUNK_GRACE_DAYS

    async def push_to(self, contact: Contact, chunk_id: ChunkID, stored: bytes) -> None:
        """Make a contact hold a chunk; it is durable there when this returns. Raises RemoteError."""
        await self._transport.push(contact, chunk_id, stored)

    # --- where ---

    def peers(self) -> Sequence[NodeID]:
        """The peers that may keep chunks, as many as are known."""
        known = self._protocol.router.contacts()
        contacts = [NodeID(contact.id) for contact in known if contact.kind != "stock" and not contact.ephemeral]
        return [*contacts, self._neighbourhood.node_id] if self._neighbourhood.stores else contacts

    async def holders(self, chunk_id: ChunkID) -> list[ReplicaInfo]:
        """Who should hold a chunk, and who does."""
        contacts, here = await self._replicas(chunk_id, self._neighbourhood.k)
        holding = await self._holding(chunk_id, contacts)
        own = (await self._keeper.store.has_chunks([chunk_id]))[0]
        infos = [ReplicaInfo(self._neighbourhood.node_id.hex(), "here", own)] if here or own else []
        for contact in contacts:
            held = holding[contact.id]
            reason = "" if held is not None else "does not answer"
            infos.append(ReplicaInfo(contact.id.hex(), f"{contact.ip}:{contact.port}", bool(held), reason))
        return infos


def _alone() -> UnreachableError:
    return UnreachableError("no peer of the swarm is known", "start with --bootstrap HOST:PORT of a running peer")
