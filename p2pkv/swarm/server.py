"""One peer's server: sockets, protocol, lookups and joining, under kademlia's `Server` interface.

Owns their life. The stock `get` and `set` of single values work here too, and tell how many peers really did it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from kademlia.network import Server, check_dht_value_type
from kademlia.node import Node
from kademlia.utils import digest

from p2pkv.errors import P2pkvError, RemoteError, SilentError, UnreachableError
from p2pkv.ids import distance
from p2pkv.limits import ALPHA_DEFAULT, CONTACTS_FIRST_SAVED_S, K_DEFAULT, REFRESH_S, SOCKET_BUFFER_BYTES_SMALL
from p2pkv.outcomes import ContactInfo
from p2pkv.swarm import contacts_file
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.environment import Address, Environment
from p2pkv.swarm.identity import Identity
from p2pkv.swarm.joining import Joining
from p2pkv.swarm.lookup import Answer, Lookups
from p2pkv.swarm.protocol import PeerProtocol
from p2pkv.swarm.udp import Endpoint, uses_uvloop
from p2pkv.units import format_address

log = logging.getLogger(__name__)

_MEND_ALONE = "check that the bootstrap peers run and that UDP reaches them"
ID_SPACE = 1 << 160


class PeerServer(Server):  # type: ignore[misc]
    """One peer of the swarm."""

    protocol: PeerProtocol
    lookups: Lookups
    endpoint: Endpoint

    def __init__(
        self,
        env: Environment,
        identity: Identity,
        *,
        storage: Any = None,
        ksize: int = K_DEFAULT,
        alpha: int = ALPHA_DEFAULT,
        ephemeral: bool = False,
        bulk: bool = False,
    ) -> None:
        """`storage` serves stock store and find_value until `protocol.stock_store` and `stock_find` are set."""
        super().__init__(ksize, alpha, identity.node_id, None)
        if storage is not None:  # an empty store is falsy and would be replaced
            self.storage = storage
        self.env = env
        self.identity = identity
        self.ephemeral = ephemeral
        self.bulk = bulk
        self.loop_name = ""
        self._joining: Joining | None = None
        self._contacts_path: Path | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # --- life ---

    def _create_protocol(self) -> PeerProtocol:
        node, storage, env = self.node, self.storage, self.env
        return PeerProtocol(node, storage, self.ksize, env, self.identity, ephemeral=self.ephemeral, bulk=self.bulk)

    async def listen(self, port: int, interface: str = "0.0.0.0") -> None:  # noqa: S104 - the library's default
        """The library's way: one address, joining by what `bootstrap` is given."""
        await self.listen_on([(interface, port)])
        self.join([])

    async def listen_on(self, addresses: Iterable[Address]) -> None:
        """Bind and answer. Raises P2pkvError where an address cannot be had."""
        self.loop_name = "uvloop" if uses_uvloop() else "asyncio"
        self.protocol = self._create_protocol()
        self.endpoint = Endpoint(self.protocol.datagram_received)
        self.protocol.connection_made(self.endpoint)
        self.lookups = Lookups(self.protocol, self.env, self.ksize, self.alpha)
        await self.endpoint.open(self.env, list(addresses))
        self.transport = self.endpoint
        for warning in self.warnings():
            log.warning(warning)

    @property
    def bound(self) -> list[Address]:
        """The addresses that we listen on, with the ports that the system picked."""
        return list(self.endpoint.bound)

    def join(self, bootstrap: Iterable[Address], contacts: Path | None = None) -> None:
        """Join the swarm by these peers (hosts may be names) and stay in it; `contacts` is the file of the last run."""
        joining = self._joining = Joining(self.protocol, self.lookups, self.env)
        joining.addresses = list(bootstrap)
        self._contacts_path = contacts
        if contacts is not None:
            joining.saved = contacts_file.load(contacts)
        if joining.addresses or joining.saved:
            self.lookups.joined = joining.connected
        loop = asyncio.get_running_loop()
        self._tasks.append(loop.create_task(joining.run()))
        if contacts is not None:
            self._tasks.append(loop.create_task(self._save_regularly()))

    async def wait_connected(self, timeout_s: float = 10.0) -> None:
        """Until a peer of the swarm has answered and the table is filled. Raises UnreachableError."""
        assert self._joining is not None, "join first"
        try:
            async with asyncio.timeout(timeout_s):
                await self._joining.connected.wait()
        except TimeoutError:
            tried = ", ".join(format_address(*address) for address in self._joining.addresses)
            raise UnreachableError(
                f"no peer of the swarm answers ({tried or 'no bootstrap peer given'})", _MEND_ALONE
            ) from None

    async def wait_settled(self) -> None:
        """Until looking around in the swarm brings nobody new, or it was done often enough."""
        assert self._joining is not None, "join first"
        await self._joining.settled.wait()

    async def close(self) -> None:
        """End everything; safe where `listen_on` failed half way."""
        if hasattr(self, "protocol"):
            self._save_if_known()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._tasks = []
            await self.lookups.close()
            await self.protocol.close()
            await self.endpoint.close()

    async def stop(self) -> None:
        """The library's name, to be awaited here."""
        await self.close()

    async def stop_all(self) -> None:
        await self.close()

    # --- contacts ---

    def save_contacts(self, path: Path) -> None:
        """Write the contacts for the next start. Raises OSError."""
        contacts_file.save(path, self.contacts())

    def load_contacts(self, path: Path) -> list[Address]:
        """Addresses saved by an earlier run; none where there are none."""
        return contacts_file.load(path)

    def save_state(self, fname: str) -> None:
        self.save_contacts(Path(fname))

    @classmethod
    async def load_state(cls, fname: str, port: int, interface: str = "0.0.0.0") -> PeerServer:  # noqa: S104
        """The library's way to start from a file would unpickle it; a saved identity is `Identity.load_or_create`'s."""
        raise NotImplementedError("start with an Identity and join(bootstrap, contacts=path)")

    async def _save_regularly(self) -> None:
        await asyncio.sleep(CONTACTS_FIRST_SAVED_S)
        while True:
            self._save_if_known()
            await asyncio.sleep(REFRESH_S)

    def _save_if_known(self) -> None:
        """An empty table never replaces what an earlier run knew."""
        if self._contacts_path is not None and self.contacts():
            try:
                self.save_contacts(self._contacts_path)
            except OSError as error:
                log.warning("cannot save contacts: %s", error)

    def contacts(self) -> list[Contact]:
        return self.protocol.router.contacts()

    def contact_infos(self) -> list[ContactInfo]:
        """The table as users see it, nearest first."""
        now_s = asyncio.get_running_loop().time()
        nearest = self.protocol.router.nearest(self.node.id, len(self.protocol.router))
        return [_info(contact, now_s) for contact in nearest]

    def swarm_size_estimate(self) -> int:
        """Peers of the swarm with this one, from how densely our neighbours stand around us."""
        near = self.protocol.router.nearest(self.node.id, 2 * self.ksize)
        if len(near) < 2 * self.ksize or len(self.protocol.router) < 2 * self.ksize:
            return len(self.protocol.router) + 1
        sizes = [
            (rank + 1) * ID_SPACE / max(1, distance(contact.id, self.node.id)) for rank, contact in enumerate(near)
        ]
        return max(len(self.protocol.router) + 1, round(median(sizes)))

    def warnings(self) -> list[str]:
        """What the user could mend."""
        size = self.endpoint.buffer_bytes
        if 0 < size < SOCKET_BUFFER_BYTES_SMALL:
            return [
                f"the system gives UDP sockets a receive buffer of {size // 1024} KiB only, so bursts are lost; "
                f"raise net.core.rmem_max to 8388608"
            ]
        return []

    # --- bootstrap and refresh, the library's way ---

    async def bootstrap(self, addrs: Iterable[Address]) -> list[Contact]:
        """Ask these peers (names are resolved) and look ourselves up; the contacts found. Silence raises nothing."""
        if self._joining is None:
            self.join([])
        joining = self._joining
        assert joining is not None
        joining.addresses = list(dict.fromkeys([*joining.addresses, *addrs]))
        await joining.bootstrap(await joining.resolved(joining.addresses), saved=False)
        return (await self.lookups.find_nodes(self.node.id)).contacts

    async def bootstrap_node(self, addr: Address) -> Contact | None:
        assert self._joining is not None
        return await self._joining.greet(addr)

    def refresh_table(self, interval: float = REFRESH_S) -> None:
        """The library's timer; here `join` keeps the table fresh."""

    # --- single values, the library's way ---

    async def get(self, key: Any) -> Any:
        """A single value as stock peers put it; None where no peer that answers has one."""
        dkey = digest(key)
        own = await self.protocol.stock_find(dkey)
        if own is not None:
            return own

        async def question(contact: Contact) -> Answer:
            happened, found = await self.protocol.call_find_value(contact, Node(dkey))
            if not happened:
                raise SilentError
            return Answer((), found["value"]) if isinstance(found, dict) else Answer(found)

        found = await self.lookups.ask(dkey, question)
        values = Counter((type(value), value) for value in found.answers.values() if value is not None)
        return values.most_common(1)[0][0][1] if values else None

    async def set(self, key: Any, value: Any) -> bool:
        """True only where at least one other peer, or this one as one of the nearest, says that it stored the value."""
        if not check_dht_value_type(value):
            raise TypeError("Value must be of type int, float, bool, str, or bytes")
        return await self.set_digest(digest(key), value)

    async def set_digest(self, dkey: bytes, value: Any) -> bool:
        return await self.store_digest(dkey, value) > 0

    async def store_digest(self, dkey: bytes, value: Any) -> int:
        """How many of the k nearest peers say that they stored a value, this one counted where it is among them."""
        found = await self.lookups.find_nodes(dkey)
        stored = await asyncio.gather(*(self._store_at(contact, dkey, value) for contact in found.contacts))
        count = sum(stored)
        nearest = found.contacts[: self.ksize]
        ours = not self.ephemeral and (
            len(nearest) < self.ksize or distance(self.node.id, dkey) < distance(nearest[-1].id, dkey)
        )
        if ours and nearest:
            count += bool(await self.protocol.stock_store(dkey, value))
        return count

    async def _store_at(self, contact: Contact, dkey: bytes, value: Any) -> bool:
        try:
            return (await self.protocol.call_store(contact, dkey, value)) == (True, True)
        except (RemoteError, P2pkvError):
            return False


def _info(contact: Contact, now_s: float) -> ContactInfo:
    srtt_s = contact.rtt.srtt_s
    return ContactInfo(
        node=contact.id.hex(),
        address=format_address(contact.ip, contact.port),
        kind=contact.kind,
        rtt_ms=None if srtt_s is None else round(1000 * srtt_s, 3),
        age_s=now_s - contact.first_seen_s,
        idle_s=max(0.0, now_s - contact.last_seen_s),
        failures=contact.failures,
    )
