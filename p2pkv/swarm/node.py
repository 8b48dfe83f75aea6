"""One peer's part in the swarm, wired together: server, lookups, records, agreement, chunks.

Owns the order in which these start and stop. Decides nothing itself; a peer without a disk or a home can be made of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from p2pkv import messages
from p2pkv.core.pages import PageName, place_of_page
from p2pkv.errors import P2pkvError, RemoteError
from p2pkv.ids import Place
from p2pkv.limits import ALPHA_DEFAULT, CONTACTS_QUESTIONED_MAX, K_DEFAULT, PAGES_ASKED_AT_ONCE_MAX
from p2pkv.outcomes import ReplicaInfo
from p2pkv.storage.interface import RangeQuery, Store
from p2pkv.swarm.acceptor import Acceptor
from p2pkv.swarm.advertising import Advertising
from p2pkv.swarm.agreement import Agreement
from p2pkv.swarm.atomic_writing import AtomicWriter
from p2pkv.swarm.batch_writing import BatchWriter
from p2pkv.swarm.bulk_calls import BulkCalls
from p2pkv.swarm.bulk_chunks import BulkTransport
from p2pkv.swarm.catching_up import CatchingUp
from p2pkv.swarm.chunks import ChunkKeeper, ChunkSwarm
from p2pkv.swarm.collecting import Collecting
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.decisions import Decisions
from p2pkv.swarm.environment import Address, Environment
from p2pkv.swarm.handing import Handing
from p2pkv.swarm.handover import Handover
from p2pkv.swarm.hashing import ThreadHasher, hash_at_once
from p2pkv.swarm.holdings import Holdings, PageBound
from p2pkv.swarm.identity import Identity
from p2pkv.swarm.inventory import StoreInventory
from p2pkv.swarm.leases import Leases
from p2pkv.swarm.leaving import Leaving
from p2pkv.swarm.memory import collect_seldom, keep_freed_memory
from p2pkv.swarm.moving import Mover
from p2pkv.swarm.neighbourhood import Neighbourhood
from p2pkv.swarm.newer import Newer, NewerHere
from p2pkv.swarm.opening import Openings
from p2pkv.swarm.page_writing import PageWriter
from p2pkv.swarm.pieces import PieceReceiver
from p2pkv.swarm.presence import Presence
from p2pkv.swarm.reading import Reader
from p2pkv.swarm.records import RecordSwarm
from p2pkv.swarm.register_ledger import RegisterLedger
from p2pkv.swarm.register_upkeep import RegisterUpkeep
from p2pkv.swarm.registers import Registers
from p2pkv.swarm.repair import Repair
from p2pkv.swarm.replica import Replica
from p2pkv.swarm.resolving import Resolving
from p2pkv.swarm.runs import Runs
from p2pkv.swarm.server import PeerServer
from p2pkv.swarm.settling import Settling
from p2pkv.swarm.sites import Sites
from p2pkv.swarm.sources import Sources
from p2pkv.swarm.subscription import Network
from p2pkv.swarm.summaries import Summaries, Summing
from p2pkv.swarm.tending import Tending
from p2pkv.swarm.udp import is_usable_host
from p2pkv.swarm.upkeep import Upkeep
from p2pkv.swarm.watching import Watching
from p2pkv.swarm.writing import Writer


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
        page_bound: PageBound | None = None,
    ) -> None:
        """`stores` is False for a peer that keeps nothing and is nobody's replica; `page_bound` is for tests."""
        self.store = store
        self.identity = identity
        self.env = env
        self.k = k
        self._stores = stores
        self.page_bound = page_bound or PageBound()
        self.server = PeerServer(env, identity, ksize=k, alpha=alpha, ephemeral=not stores, bulk=True)

    async def start(
        self,
        listen: Sequence[Address],
        bootstrap: Sequence[Address],
        *,
        contacts: Path | None = None,
        advertise: Address | None = None,
    ) -> None:
        """Open the sockets, answer, and begin to join. Raises P2pkvError where a port cannot be had."""
        if not self.env.simulated:
            keep_freed_memory()
            collect_seldom()
        await self.server.listen_on(list(listen))
        self._wire()
        advertising = Advertising(self.server.protocol)
        if advertise is not None:
            advertising.start(advertise)
        self.server.join(list(bootstrap), contacts)

    def _wire(self) -> None:
        protocol, env, loop = self.server.protocol, self.env, asyncio.get_running_loop()
        self.lookups = self.server.lookups
        self.neighbourhood = Neighbourhood(protocol.router, self.identity.node_id, self.k, stores=self._stores)
        self.neighbourhood.doubtful = lambda contacts: self.lookups.silences.doubtful(contacts, loop.time())
        self.neighbourhood.knows_swarm = self.lookups.knows_swarm
        holdings = Holdings(self.store, self.page_bound)
        self.replica = Replica(self.store, env, self.neighbourhood, holdings)
        registers = Registers(self.replica)
        register_ledger = RegisterLedger(self.store)
        registers.on_wrote = register_ledger.wrote
        self.catching_up = CatchingUp(registers, protocol, self.lookups, self.neighbourhood)
        acceptor = Acceptor(registers, self.catching_up)
        chunk_hash = hash_at_once if env.simulated else ThreadHasher()
        keeper = ChunkKeeper(self.store, stores=self._stores, chunk_hash=chunk_hash, now_s=env.now_s)
        self.bulk = BulkTransport(protocol, self.server.endpoint, keeper, env)
        self.calls = BulkCalls(self.bulk.service)
        self.sites = Sites(self.lookups, self.neighbourhood)
        pages = PageWriter(protocol, self.lookups, self.replica, self.neighbourhood, self.identity.public_key)
        self.batches = BatchWriter(protocol, self.calls, self.lookups, self.sites, self.replica, self.neighbourhood)
        self.writer = Writer(pages, self.batches, self.replica, self.identity, env)
        runs = Runs(protocol, self.calls, self.lookups)
        self.sources = Sources(protocol, runs, self.lookups, self.replica, self.neighbourhood)
        openings = Openings(self.sources, runs, self.lookups, self.replica, self.neighbourhood)
        self.newer_here = NewerHere(holdings, self.neighbourhood)
        newer = Newer(self.calls, self.lookups, self.newer_here, self.neighbourhood)
        reader = Reader(self.sources, openings, newer, env, self.writer.tree)
        agreement = Agreement(
            protocol, self.lookups, acceptor, self.neighbourhood, self.writer, reader, self.identity, env
        )
        self.decisions = Decisions(reader, self.writer, agreement, env)
        settling = Settling(self.decisions, self.sources, self.writer)
        self.sources.settle = settling.settle
        self.replica.is_given_up = self.decisions.is_given_up
        atomic = AtomicWriter(self.writer, self.decisions, env)
        self.records = RecordSwarm(self.writer, reader, agreement, atomic, self.identity.public_key)
        self.chunks = ChunkSwarm(protocol, self.bulk, self.lookups, keeper, self.neighbourhood)
        inventory = StoreInventory(self.store)
        presence = Presence(protocol, self.calls, self.sites, inventory)
        self.mover = Mover(self.store, holdings, self.writer, presence, self.sources, self.neighbourhood, env)
        self.mover.start()
        summaries = Summaries(holdings, self.neighbourhood, env)
        inventory.on_changed = summaries.on_changed
        reader.summing = Summing(protocol, self.lookups, summaries, self.neighbourhood)
        protocol.register(messages.SUMMARIZE, summaries.on_summarize)
        self._wire_upkeep(inventory, registers, register_ledger, acceptor, keeper, settling)
        self._register(acceptor, keeper)
        self._wire_watching()

    def _wire_upkeep(
        self,
        inventory: StoreInventory,
        registers: Registers,
        register_ledger: RegisterLedger,
        acceptor: Acceptor,
        keeper: ChunkKeeper,
        settling: Settling,
    ) -> None:
        """Whatever keeps this peer's share complete, and hands on what is others'."""
        protocol, env = self.server.protocol, self.env
        self.handing = Handing(inventory, register_ledger, keeper)
        handover = Handover(
            self.store, protocol, self.lookups, inventory, self.writer, self.chunks, keeper, self.neighbourhood
        )
        register_upkeep = RegisterUpkeep(
            registers,
            register_ledger,
            self.catching_up,
            protocol,
            self.lookups,
            self.neighbourhood,
            handover.counters,
        )
        self.upkeep = Upkeep(
            protocol, inventory, self.replica, self.chunks, self.neighbourhood, handover, register_upkeep, env
        )
        self.tending = Tending(keeper, protocol, self.chunks, self.neighbourhood, env, self.upkeep.counters)
        self.leaving = Leaving(
            self.store, protocol, inventory, self.chunks, keeper, self.tending, acceptor, register_upkeep
        )
        self.collecting = Collecting(
            protocol, self.lookups, keeper, self.chunks, self.neighbourhood, env, self.upkeep.counters
        )
        self.resolving = Resolving(
            self.replica, self.decisions, settling, self.neighbourhood, env, self.upkeep.counters
        )
        self.upkeep.start()
        self.tending.start()
        self.collecting.start()
        self.resolving.start()

    def _wire_watching(self) -> None:
        protocol = self.server.protocol
        self.leases = Leases(protocol)
        self.replica.on_stored, self.replica.watched = self.leases.on_stored, self.leases.watched
        network = Network(
            protocol, self.lookups, self.neighbourhood, self.leases, self.identity.node_id, self.writer.tree
        )
        self.watching = Watching(network, self.records.reader, self.env)
        protocol.register(messages.WATCH, self.leases.on_watch)
        protocol.register(messages.PUSH, self.watching.on_push)

    def _register(self, acceptor: Acceptor, keeper: ChunkKeeper) -> None:
        protocol, pieces = self.server.protocol, PieceReceiver(keeper)
        protocol.register(messages.STORE_RECORDS, self.replica.on_store, prompt=True)
        self.calls.register(messages.STORE_RECORDS, self.replica.on_store_long)
        self.calls.register(messages.FIND_RUNS, self.replica.on_find_runs)
        self.calls.register(messages.FIND_NEWER, self.newer_here.on_find_newer)
        protocol.register(messages.FIND_RECORDS, self.replica.on_find, prompt=True)
        protocol.register(messages.FIND_NAMES, self.replica.on_find_names, prompt=True)
        protocol.register(messages.PREPARE, acceptor.on_prepare)
        protocol.register(messages.PROPOSE, acceptor.on_propose)
        protocol.register(messages.READ_REGISTER, acceptor.on_read)
        protocol.register(messages.MERGE_REGISTERS, acceptor.on_merge)
        protocol.register(messages.HAS_CHUNKS, keeper.on_has)
        protocol.register(messages.PUT_PIECE, pieces.on_put)
        protocol.register(messages.GET_PIECE, pieces.on_get)
        protocol.register(messages.COMPARE, self.handing.on_compare)
        protocol.register(messages.FETCH, self.handing.on_fetch)
        protocol.register(messages.LEAVE, self.leaving.on_leave)
        protocol.register(messages.HOLDS, self.handing.on_holds)
        self.calls.register(messages.STORE_RECORDS, self.replica.on_store_long)
        self.calls.register(messages.HOLDS, self.handing.on_holds_many)
        protocol.stock_store = self.replica.stock_store
        protocol.stock_find = self.replica.stock_find

    async def leave(self) -> None:
        """Give the neighbours what they lack, and tell all contacts that this peer ends. Takes LEAVE_S_MAX at most."""
        if hasattr(self, "records") and self._stores:
            await self.mover.close()
            await self.leaving.leave(await self.upkeep.end())

    async def stop(self) -> None:
        """End every task; safe where `start` failed half way."""
        if hasattr(self, "watching"):
            await self.watching.close()
        if hasattr(self, "records"):
            await self.resolving.close()
            await self.tending.close()
            await self.collecting.close()
            await self.upkeep.close()
            await self.catching_up.close()
            await self.mover.close()
            await self.batches.close()
            await self.sources.close()
            await self.records.reader.mender.close()
            await self.bulk.close()
        await self.server.close()
        if hasattr(self, "sites"):
            await self.sites.close()  # behind the lookups, which tell whoever waits that the peer stops
        if hasattr(self, "writer"):
            await self.writer.close()

    def counters(self) -> dict[str, int]:
        """What this peer did since it started, for status and metrics."""
        return {
            **self.server.protocol.counters,
            "records_mended": self.records.reader.mender.mended,
            "records_moved": self.mover.moved,
            "pages_split": self.mover.pages_split,
            **self.upkeep.counters,
            "upkeep_records_handed": self.handing.handed,
            "registers_read_from_others": self.catching_up.read_from_others,
        }

    async def where(self, key: bytes) -> list[ReplicaInfo]:
        """Who should hold a key, and who says that it does: the replicas of its page, or of all its pages by peer."""
        with suppress(P2pkvError):
            await self.records.exists(key)  # so this peer learns of the pages, as far as they answer
        pages = self.writer.tree(key).leaves()
        slots = asyncio.Semaphore(PAGES_ASKED_AT_ONCE_MAX)

        async def ask(page: PageName) -> list[ReplicaInfo]:
            async with slots:
                return await self._where(place_of_page(key, page))

        infos = await asyncio.gather(*(ask(page) for page in pages))
        return infos[0] if len(pages) == 1 else _by_peer(infos)

    async def _where(self, place: Place) -> list[ReplicaInfo]:
        """Who should hold one page."""
        found = await self.lookups.find_nodes(place)
        infos = []
        if self.neighbourhood.keeps(place):
            own = await self.store.read(RangeQuery(place, limit=1))
            infos.append(ReplicaInfo(self.identity.node_id.hex(), "here", bool(own.versions)))
        infos += await asyncio.gather(*(self._holds(contact, place) for contact in found.contacts))
        return infos[: self.k]

    async def _holds(self, contact: Contact, place: bytes) -> ReplicaInfo:
        address = f"{contact.ip}:{contact.port}"
        if contact.kind == "stock":
            return ReplicaInfo(contact.id.hex(), address, False, "a stock kademlia peer")
        request = messages.FindRecords(place, limit=1, digest_only=True)
        try:
            reply = await self.server.protocol.call(contact, messages.FIND_RECORDS, request)
        except RemoteError as error:
            return ReplicaInfo(contact.id.hex(), address, False, str(error))
        return ReplicaInfo(contact.id.hex(), address, bool(reply.live))

    async def seen_as(self) -> list[tuple[Contact, Address]]:
        """From which address our datagrams reach each of a few contacts, by their own word."""
        contacts = self.server.contacts()[:CONTACTS_QUESTIONED_MAX]
        answers = await asyncio.gather(*(self.server.protocol.stun(contact.address) for contact in contacts))
        found = []
        for contact, (happened, seen) in zip(contacts, answers, strict=True):
            match seen:
                case [str(host), int(port)] if happened and is_usable_host(host):
                    found.append((contact, (host, port)))
        return found

    async def repair(self) -> dict[str, object]:
        """Bring what this peer holds to all of its replicas now; what was done."""
        rebuilt = self.upkeep.counters["upkeep_shards_rebuilt"]
        await self.tending.round(at_once=True)
        rebuilt = self.upkeep.counters["upkeep_shards_rebuilt"] - rebuilt
        return await Repair(self.store, self.writer, self.chunks).run() | {"shards_rebuilt": rebuilt}


def _by_peer(pages: list[list[ReplicaInfo]]) -> list[ReplicaInfo]:
    """The replicas of many pages, one entry a peer; those that hold most come first."""
    held: dict[tuple[str, str], list[bool]] = {}
    for info in (info for page in pages for info in page):
        held.setdefault((info.node, info.address), []).append(info.holds)
    return [
        ReplicaInfo(node, address, any(holds), f"{sum(holds)} of the {len(holds)} pages that it should hold")
        for (node, address), holds in sorted(held.items(), key=lambda item: -sum(item[1]))
    ]
