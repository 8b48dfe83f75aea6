"""Chunks by bulk transfer: a push is answered when the chunk is durable, a pull brings what its asker checks itself.

Peers say in the extension of their messages that they take bulk transfer (the flag BULK); others get pieces by RPC.

Owns nothing but counters of chunks under way. Never trusts a hash that it did not compute.
"""

from __future__ import annotations

from p2pkv.core.bulk.events import Accept, Reject
from p2pkv.errors import RemoteError
from p2pkv.ids import CHUNK_ID_BYTES, ChunkID
from p2pkv.limits import BULK_CHUNK_DEADLINE_S, STORED_CHUNK_BYTES_MAX
from p2pkv.swarm.bulk import BulkService
from p2pkv.swarm.bulk_link import Wire
from p2pkv.swarm.chunks import ChunkKeeper
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.environment import Address, Environment
from p2pkv.swarm.pieces import PieceTransport
from p2pkv.swarm.protocol import PeerProtocol

_KEPT = b"kept"


class BulkTransport:
    """Brings and fetches chunks, and answers those who do: a `ChunkTransport`."""

    def __init__(self, protocol: PeerProtocol, wire: Wire, keeper: ChunkKeeper, env: Environment) -> None:
        self._protocol = protocol
        self._keeper = keeper
        self._pieces = PieceTransport(protocol)
        self.service = BulkService(
            wire, env, on_offer=self._on_offer, on_received=self._on_received, on_request=self._on_request
        )
        protocol.bulk_handler = self.service.datagram_received

    async def close(self) -> None:
        self._protocol.bulk_handler = None
        await self.service.close()

    # --- asking ---

    async def push(self, contact: Contact, chunk_id: ChunkID, stored: bytes) -> None:
        """Bring a chunk to a contact; it is durable there when this returns. Raises RemoteError."""
        if not await self._takes_bulk(contact):
            await self._pieces.push(contact, chunk_id, stored)
            return
        answer = await self.service.push(contact.address, chunk_id, stored, deadline_s=BULK_CHUNK_DEADLINE_S)
        if answer != _KEPT:
            raise RemoteError("misbehaved", "an answer that means nothing")

    async def pull(self, contact: Contact, chunk_id: ChunkID) -> bytes:
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
        if len(topic) != CHUNK_ID_BYTES or not 0 < size <= STORED_CHUNK_BYTES_MAX:
            return Reject("malformed", "not a chunk")
        return Accept()

    async def _on_received(self, address: Address, topic: bytes, data: bytes) -> bytes:
        await self._keeper.receive(ChunkID(topic), data)
        return _KEPT

    async def _on_request(self, address: Address, topic: bytes) -> bytes:
        if len(topic) != CHUNK_ID_BYTES:
            raise RemoteError("malformed", "not a chunk id")
        return await self._keeper.fetch(ChunkID(topic))
