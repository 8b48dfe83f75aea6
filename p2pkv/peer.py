"""The composition root: one running peer, and the Python interface of p2pkv.

Owns starting and stopping in the right order, and what a peer tells of itself; its operations on records and files are
in `peer_records` and `peer_files`. Every rule lives below: storage, swarm, files.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from p2pkv.errors import UnreachableError
from p2pkv.files.concurrency import at_once, in_thread
from p2pkv.files.service import Files
from p2pkv.home import Home
from p2pkv.ids import place_of_key
from p2pkv.limits import ALPHA_DEFAULT, K_DEFAULT
from p2pkv.outcomes import ContactInfo, LookupTrace, ReplicaInfo, Sighting, Status
from p2pkv.peer_events import Event, Events
from p2pkv.peer_files import PeerFiles
from p2pkv.peer_records import PeerRecords
from p2pkv.storage.disk import DiskStore
from p2pkv.storage.interface import Store
from p2pkv.storage.memory import MemoryStore
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.environment import Address, Environment
from p2pkv.swarm.identity import Identity
from p2pkv.swarm.node import SwarmNode
from p2pkv.translation import Key, Translator, checked_key
from p2pkv.units import format_address, parse_address
from p2pkv.version import VERSION

StoreKind = Literal["disk", "memory"]
DEFAULT_LISTEN = ("0.0.0.0:8468",)


class Peer(PeerRecords, PeerFiles):
    """One peer of the swarm. Use it as `async with Peer(home=..., bootstrap=[...]) as peer`."""

    def __init__(
        self,
        home: Path | str | None = None,
        *,
        listen: Sequence[str] = DEFAULT_LISTEN,
        bootstrap: Sequence[str] = (),
        advertise: str | None = None,
        k: int = K_DEFAULT,
        alpha: int = ALPHA_DEFAULT,
        quota: int | None = None,
        store: StoreKind = "disk",
        ephemeral: bool = False,
        env: Environment | None = None,
    ) -> None:
        """A peer with its home in a folder (default: the user's), its UDP addresses and the peers it joins by.

        `store="memory"` keeps records and chunks in memory; `ephemeral` keeps none and is nobody's replica. Neither
        needs a home.
        """
        self.env = env or Environment()
        self._events = Events()
        self.http_url = ""
        self._listen = [parse_address(text) for text in listen]
        self._bootstrap = [parse_address(text) for text in bootstrap]
        self._advertise = parse_address(advertise) if advertise else None
        self._k, self._alpha = k, alpha
        self._quota_bytes = quota
        self._store_kind: StoreKind = "memory" if ephemeral else store
        self._ephemeral = ephemeral
        self._home = Home(home) if home is not None or self._store_kind == "disk" else None
        self._exits = AsyncExitStack()

    # --- life ---

    async def __aenter__(self) -> Self:
        await self.start()
        if self._bootstrap:
            with suppress(UnreachableError):  # it goes on trying; what needs the swarm until then says so
                await self.wait_connected()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Open the home and the sockets and begin to join the swarm; when it returns, the peer serves."""
        try:
            await self._start()
        except BaseException:
            await self._exits.aclose()
            raise

    async def _start(self) -> None:
        identity = self._open_home()
        self._started_s = self.env.now_s()
        store = self._make_store()
        await store.open()
        self._exits.push_async_callback(store.close)
        self.node = SwarmNode(store, identity, self.env, k=self._k, alpha=self._alpha, stores=not self._ephemeral)
        self._exits.push_async_callback(self.node.stop)
        contacts = self._home.contacts if self._home and not self._ephemeral else None
        await self.node.start(self._listen, self._bootstrap, contacts=contacts, advertise=self._advertise)
        self.files = Files(
            self.node.records,
            self.node.chunks,
            now_s=self.env.now_s,
            random_bytes=self.env.random_bytes,
            threads=not self.env.simulated,
        )
        offload = at_once if self.env.simulated else in_thread
        self._translator = Translator(self.node.chunks, self.env.now_s, offload)
        self._tell_of_contacts()

    def _tell_of_contacts(self) -> None:
        protocol = self.node.server.protocol

        def teller(change: str) -> Callable[[Contact], None]:
            def tell(contact: Contact) -> None:
                address = format_address(contact.ip, contact.port)
                self._events.emit("contact", change=change, node=contact.id.hex(), address=address)

            return tell

        protocol.on_contact_added.append(teller("came"))
        protocol.on_contact_gone.append(teller("went"))

    def _open_home(self) -> Identity:
        if self._home is None:
            return Identity.generate(self.env.random_bytes)
        self._home.prepare()
        return Identity.load_or_create(self._home.identity)

    def _make_store(self) -> Store:
        if self._store_kind == "memory" or self._home is None:
            return MemoryStore(self.env.now_s, quota_bytes=self._quota_bytes)
        return DiskStore(self._home.store, self.env.now_s, quota_bytes=self._quota_bytes)

    async def stop(self, *, graceful: bool = True) -> None:
        """Leave the swarm; everything acknowledged is on disk. `graceful`: give the others first what they lack."""
        if graceful and hasattr(self, "node"):
            await self.node.leave()
        await self._exits.aclose()

    async def wait_connected(self, timeout_s: float = 10.0) -> None:
        """Wait until another peer of the swarm has answered. Raises UnreachableError."""
        await self.node.server.wait_connected(timeout_s)

    @property
    def addresses(self) -> list[Address]:
        """The UDP addresses that this peer listens on."""
        return self.node.server.bound

    @property
    def address(self) -> str:
        """The first of them as HOST:PORT, for another peer's bootstrap."""
        return format_address(*self.addresses[0])

    @property
    def home(self) -> Home | None:
        return self._home

    # --- the swarm ---

    async def status(self) -> Status:
        """This peer at a glance."""
        server, usage = self.node.server, self.node.store.usage()
        return Status(
            node=self.node.identity.node_id.hex(),
            author=self.node.identity.public_key.hex(),
            version=VERSION,
            home=str(self._home.folder) if self._home else "",
            udp=[format_address(*address) for address in self.addresses],
            http=self.http_url,
            uptime_s=self.env.now_s() - self._started_s,
            contacts=len(server.contacts()),
            swarm_size_estimate=server.swarm_size_estimate(),
            records=usage.records,
            keys=usage.keys,
            chunks=usage.chunks,
            stored_bytes=usage.size_bytes,
            quota_bytes=self._quota_bytes,
            connected=bool(server.contacts()),
            bootstrap=[format_address(*address) for address in self._bootstrap],
            loop=server.loop_name,
            socket_buffer_bytes=server.endpoint.buffer_bytes,
            warnings=server.warnings(),
            counters=self.node.counters(),
            advertised=format_address(*self._advertise) if self._advertise else "",
        )

    async def seen_as(self) -> list[Sighting]:
        """From which address our datagrams come, as a few contacts see it: what a router in between makes of them."""
        return [
            Sighting(contact.id.hex(), format_address(*contact.address), format_address(*seen))
            for contact, seen in await self.node.seen_as()
        ]

    async def peers(self) -> list[ContactInfo]:
        """The contacts of the routing table."""
        return self.node.server.contact_infos()

    async def where(self, key: Key) -> list[ReplicaInfo]:
        """Who should hold a key, and who does."""
        return await self.node.where(checked_key(key))

    async def trace(self, key: Key) -> LookupTrace:
        """Run a lookup of a key's place and tell it hop by hop."""
        found = await self.node.lookups.find_nodes(place_of_key(checked_key(key)))
        return found.trace

    def events(self) -> AsyncIterator[Event]:
        """What happens in this peer from now on: contacts, puts, deletions, transfers. docs/http.md lists them."""
        return self._events.listen()

    async def verify(self) -> dict[str, Any]:
        """Check everything stored here against its hashes; what is damaged is dropped and told."""
        report = await self.node.store.verify()
        return {
            "chunks_checked": report.chunks_checked,
            "records_checked": report.records_checked,
            "chunks_damaged": report.chunks_damaged,
            "records_damaged": report.records_damaged,
        }

    async def repair(self) -> dict[str, Any]:
        """Bring the replicas of everything stored here back to full count now."""
        return await self.node.repair()
