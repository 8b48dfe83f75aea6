"""One peer's part in the swarm, wired together: server, lookups, records, agreement, chunks.

Owns the order in which these start and stop. Decides nothing itself; a peer without a disk or a home can be made of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from p2pkv import messages
from p2pkv.core.records import signed_bytes
from p2pkv.ids import place_of_key
from p2pkv.limits import ALPHA_DEFAULT, K_DEFAULT
from p2pkv.outcomes import ReplicaInfo
from p2pkv.storage.interface import RangeQuery, Store
from p2pkv.swarm.agreement import Acceptor, Agreement
from p2pkv.swarm.bulk import BulkService
from p2pkv.swarm.chunks import ChunkKeeper, ChunkSwarm
from p2pkv.swarm.environment import Address, Environment
from p2pkv.swarm.identity import Identity
from p2pkv.swarm.lookup import Lookups
from p2pkv.swarm.neighbourhood import Neighbourhood
from p2pkv.swarm.reading import Reader
from p2pkv.swarm.records import RecordSwarm
from p2pkv.swarm.replica import Replica
from p2pkv.swarm.server import PeerServer
from p2pkv.swarm.sources import Sources
from p2pkv.swarm.writing import Writer

__all__ = ["SwarmNode", "signed_bytes"]


class SwarmNode:
    """Everything of one peer that speaks to other peers."""

    def __init__(
        self,
        store: Store,
        identity: Identity,
        env: Environment,
        *,
        k: int = K_DEFAULT,
        alpha: int = ALPHA_DEFAULT,
        stores: bool = True,
    ) -> None:
        self.store = store
        self.identity = identity
        self.env = env
        self.k = k
        self._alpha = alpha
        self._stores = stores
        self.server = PeerServer(env, identity, ksize=k, alpha=alpha, ephemeral=not stores)

    async def start(self, listen: Sequence[Address], bootstrap: Sequence[Address]) -> None:
        """Open the sockets, answer, and begin to join. Raises P2pkvError where a port cannot be had."""
        await self.server.listen_on(list(listen))
        self._wire()
        self.server.join(list(bootstrap))

    def _wire(self) -> None:
        protocol = self.server.protocol
        self.lookups = self.server.lookups
        self.neighbourhood = Neighbourhood(protocol.router, self.identity.node_id, self.k, stores=self._stores)
        self.replica = Replica(self.store, self.env, self.neighbourhood)
        self.acceptor = Acceptor(self.replica)
        self.keeper = ChunkKeeper(self.store, stores=self._stores)
        writer = Writer(protocol, self.lookups, self.replica, self.neighbourhood, self.identity, self.env)
        sources = Sources(protocol, self.lookups, self.replica, self.neighbourhood)
        agreement = Agreement(
            protocol, self.lookups, self.acceptor, self.neighbourhood, writer, self.identity, self.env
        )
        self.bulk = BulkService(
            self.server.endpoint,
            self.env,
            on_offer=self.keeper.on_offer,
            on_received=self.keeper.on_received,
            on_request=self.keeper.on_request,
        )
        self.records = RecordSwarm(writer, Reader(sources, self.env), agreement, self.identity.public_key)
        self.chunks = ChunkSwarm(protocol, self.bulk, self.lookups, self.keeper, self.neighbourhood)
        self._register()

    def _register(self) -> None:
        protocol = self.server.protocol
        protocol.register(messages.STORE_RECORDS, self.replica.on_store)
        protocol.register(messages.FIND_RECORDS, self.replica.on_find)
        protocol.register(messages.FIND_NAMES, self.replica.on_find_names)
        protocol.register(messages.PREPARE, self.acceptor.on_prepare)
        protocol.register(messages.PROPOSE, self.acceptor.on_propose)
        protocol.register(messages.HAS_CHUNKS, self.keeper.on_has)
        protocol.stock_store = self.replica.stock_store
        protocol.stock_find = self.replica.stock_find
        self.server.endpoint.bulk = self.bulk.datagram_received

    async def stop(self) -> None:
        await self.records.reader.mender.close()
        await self.bulk.close()
        await self.server.stop_all()

    async def where(self, key: bytes) -> list[ReplicaInfo]:
        """Who should hold a key's page, and who says that it does."""
        place = place_of_key(key)
        request = messages.FindRecords(place, limit=1, digest_only=True)
        found = await self.lookups.find_nodes(place)
        infos = []
        if self.neighbourhood.keeps(place):
            own = await self.store.read(RangeQuery(place, limit=1))
            infos.append(ReplicaInfo(self.identity.node_id.hex(), "here", bool(own.versions)))
        for contact in found.contacts:
            infos.append(await self._asked(contact, request))
        return infos
