"""Chunks by bulk transfer: a push is answered when the chunk is durable, a pull brings what its asker checks itself.

A push may name further replicas. Then the receiver passes the chunk on to the first of them that it knows, with the
names of the rest, while it writes its own copy; it answers when both are done. Whether the others really have the
chunk the uploader asks them itself, and brings it to those who have not: nothing depends on a peer that does not pass
on, or says that it did.

Peers say in the extension of their messages that they take bulk transfer (the flag BULK); others get pieces by RPC.

Owns the number of chunks that this peer passes on at once. Never trusts a hash that it did not compute.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from p2pkv.core.bulk.events import Accept, Reject
from p2pkv.errors import RemoteError, SilentError
from p2pkv.ids import CHUNK_ID_BYTES, ID_BYTES, Bytes, ChunkID
from p2pkv.limits import (
    BULK_CHUNK_DEADLINE_S,
    BULK_TOPIC_BYTES_MAX,
    RELAY_DEADLINE_S,
    RELAYS_MAX,
    STORED_CHUNK_BYTES_MAX,
)
from p2pkv.swarm.bulk import BulkService
from p2pkv.swarm.bulk_link import Wire
from p2pkv.swarm.chunks import ChunkKeeper
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.environment import Address, Environment
from p2pkv.swarm.pieces import PieceTransport
from p2pkv.swarm.protocol import PeerProtocol

_KEPT = b"kept"
_ONWARD_MAX = (BULK_TOPIC_BYTES_MAX - CHUNK_ID_BYTES) // ID_BYTES


class BulkTransport:
    """Brings and fetches chunks, and answers those who do: a `ChunkTransport`."""

    def __init__(self, protocol: PeerProtocol, wire: Wire, keeper: ChunkKeeper, env: Environment) -> None:
        self._protocol = protocol
        self._keeper = keeper
        self._pieces = PieceTransport(protocol)
        self._relays = 0
        self.relayed = 0  # chunks passed on since the start
        self.service = BulkService(
            wire, env, on_offer=self._on_offer, on_received=self._on_received, on_request=self._on_request
        )
        protocol.bulk_handler = self.service.datagram_received

    async def close(self) -> None:
        self._protocol.bulk_handler = None
        await self.service.close()

    # --- asking ---

    async def push(self, contact: Contact, chunk_id: ChunkID, stored: Bytes, onward: Sequence[bytes] = ()) -> None:
        """Bring a chunk to a contact; it is durable there when this returns. Raises RemoteError."""
        if not await self._takes_bulk(contact):
            await self._pieces.push(contact, chunk_id, stored)
            return
        topic = chunk_id + b"".join(onward[:_ONWARD_MAX])
        answer = await self.service.push(contact.address, topic, stored, deadline_s=BULK_CHUNK_DEADLINE_S)
        if answer != _KEPT:
            raise RemoteError("misbehaved", "an answer that means nothing")

    def connected(self, contact: Contact) -> bool:
        """Whether a request would be on its way at once, to a peer that was heard just now."""
        return contact.bulk and self.service.connected(contact.address)

    def quiet_s(self, contact: Contact) -> float:
        """How long a contact that bytes are awaited from was not heard."""
        return self.service.quiet_s(contact.address) if contact.bulk else 0.0

    async def pull(self, contact: Contact, chunk_id: ChunkID) -> Bytes:
        """A chunk from a contact, not checked yet. Raises RemoteError."""
        if not await self._takes_bulk(contact):
            return await self._pieces.pull(contact, chunk_id)
        size_max = STORED_CHUNK_BYTES_MAX
        return await self.service.pull(contact.address, chunk_id, size_max=size_max, deadline_s=BULK_CHUNK_DEADLINE_S)

    async def _takes_bulk(self, contact: Contact) -> bool:
        """Whoever was named to us by others says so when we meet. Raises RemoteError."""
        if contact.kind == "unknown":
            await self._protocol.meet(contact)
        return contact.bulk

    # --- answering ---

    def _on_offer(self, address: Address, topic: bytes, size: int) -> Accept | Reject:
        if not self._keeper.stores:
            return Reject("refused", "this peer stores nothing")
        names = len(topic) - CHUNK_ID_BYTES
        if names < 0 or names % ID_BYTES or not 0 < size <= STORED_CHUNK_BYTES_MAX:
            return Reject("malformed", "not a chunk")
        return Accept()

    async def _on_received(self, address: Address, topic: bytes, data: Bytes) -> bytes:
        chunk_id, names = ChunkID(topic[:CHUNK_ID_BYTES]), topic[CHUNK_ID_BYTES:]
        if not names:
            await self._keeper.receive(chunk_id, data)
            return _KEPT
        await self._keeper.check(chunk_id, data)
        onward = [names[at : at + ID_BYTES] for at in range(0, len(names), ID_BYTES)]
        kept, _ = await asyncio.gather(
            self._keeper.keep(chunk_id, data), self._pass_on(onward, chunk_id, data), return_exceptions=True
        )
        if isinstance(kept, BaseException):
            raise kept
        return _KEPT

    async def _pass_on(self, onward: list[bytes], chunk_id: ChunkID, data: Bytes) -> None:
        """To the first of these peers that takes it, with the names of those behind. Nobody relies on it."""
        if self._relays >= RELAYS_MAX:
            return
        self._relays += 1
        try:
            async with asyncio.timeout(RELAY_DEADLINE_S):
                while onward and not await self._passed(onward.pop(0), onward, chunk_id, data):
                    pass
        except TimeoutError:
            return
        finally:
            self._relays -= 1

    async def _passed(self, node_id: bytes, behind: list[bytes], chunk_id: ChunkID, data: Bytes) -> bool:
        """False where the next peer should be tried."""
        contact = self._protocol.router.get(node_id)
        if contact is None or not contact.bulk:
            return False
        try:
            await self.push(contact, chunk_id, data, behind)
        except RemoteError as error:
            return not isinstance(error, SilentError) and error.code != "refused"  # else it passed it on itself
        self.relayed += 1
        return True

    async def _on_request(self, address: Address, topic: bytes) -> bytes:
        if len(topic) != CHUNK_ID_BYTES:
            raise RemoteError("malformed", "not a chunk id")
        return await self._keeper.fetch(ChunkID(topic))
