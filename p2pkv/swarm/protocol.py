"""The protocol of one peer: kademlia's methods with its semantics, and who becomes and stays a contact.

Theory of operation. A contact enters the table only after it answered a call of ours at its address and, if it is a
p2pkv peer, proved its NodeID; a stock peer's ping must name the id it was asked for. It leaves after
CONTACT_FAILURES_MAX silences in a row; calls that were silent together count once. A known id at a new address counts
when the new address proved the id; a stock peer, which cannot, moves only when its old address is silent.

Owns the table's contents. Storing and finding values is for the hooks `stock_store` and `stock_find`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from kademlia.node import Node
from kademlia.protocol import KademliaProtocol

from p2pkv import wire
from p2pkv.errors import RemoteError, SilentError
from p2pkv.limits import BUCKET_HEAD_STALE_S, CONTACT_FAILURES_MAX, CONTACTS_FORMER_MAX
from p2pkv.swarm import nodes
from p2pkv.swarm.contact import NO_ID, Contact, Sender
from p2pkv.swarm.environment import Address, Environment
from p2pkv.swarm.identity import Identity
from p2pkv.swarm.introductions import Introductions
from p2pkv.swarm.routing import PeerTable
from p2pkv.swarm.rpc import RpcProtocol, decoder_of

__all__ = ["PeerProtocol", "Sender"]

StockStore = Callable[[bytes, Any], Awaitable[bool]]
StockFind = Callable[[bytes], Awaitable[Any]]
_NODES = list[wire.NodeTuple]
_NODES_OR_VALUE = list[wire.NodeTuple] | dict[str, msgspec.Raw]


class PeerProtocol(RpcProtocol, KademliaProtocol):  # type: ignore[misc]
    """One peer's RPC with its routing table."""

    def __init__(
        self,
        source_node: Node,
        storage: Any,
        ksize: int,
        env: Environment,
        identity: Identity,
        *,
        ephemeral: bool = False,
        bulk: bool = False,
    ) -> None:
        """`bulk`: tell others that we take bulk transfer."""
        flags = (wire.EPHEMERAL if ephemeral else 0) | (wire.BULK if bulk else 0)
        RpcProtocol.__init__(self, env, identity, flags=flags)
        self._ephemeral = ephemeral
        self._loop = asyncio.get_running_loop()
        self.source_node = source_node
        self.storage = storage
        self.router = PeerTable(self, ksize, source_node, self._loop.time)
        self.stock_store: StockStore = self._store_in_storage
        self.stock_find: StockFind = self._find_in_storage
        self.on_contact_added: list[Callable[[Contact], None]] = []
        self.on_contact_gone: list[Callable[[Contact], None]] = []
        self.former: deque[Contact] = deque(maxlen=CONTACTS_FORMER_MAX)  # evicted; they may come back
        self._introductions = Introductions(self)

    def get_refresh_ids(self) -> list[bytes]:
        """A random id within each bucket that nobody was heard from for long."""
        random = self.env.random
        return [
            random.randrange(bucket.range[0], bucket.range[1]).to_bytes(20, "big")
            for bucket in self.router.lonely_buckets()
        ]

    # --- contacts ---

    def contact_for(self, node_id: bytes, address: Address) -> Contact:
        """What is known of this peer at this address; a fresh contact where nothing is."""
        known = self.router.get(node_id)
        if known is not None and known.address == address:
            return known
        return self._introductions.remembered.get_or_make(node_id, address, self._now_s())

    def _now_s(self) -> float:
        return self._loop.time()

    def _as_contact(self, node: Node) -> Contact:
        return node if isinstance(node, Contact) else self.contact_for(node.id, (node.ip, node.port))

    def contact_of(self, node_id: bytes, address: Address) -> Contact | None:
        known = self.router.get(node_id)
        return known if known is not None and known.address == address else None

    def on_heard(self, sender: Sender, extension: wire.Extension | None, proven: bool) -> None:
        """Somebody asked us: a contact of the table lives, anyone else may become one."""
        contact, now_s = sender.contact, self._now_s()
        if contact is not None:
            if proven:
                contact.last_seen_s = now_s
                self.router.touch(contact, now_s)
            return
        if extension is not None and extension.flags & wire.EPHEMERAL:
            return
        self._greet(sender.node_id, sender.address, now_s, proven=proven)

    def welcome_if_new(self, node: Node) -> None:
        """The library's entrance for senders: here it leads to a verifying ping, not to the table."""
        if self.router.is_new_node(node):
            self._greet(node.id, (node.ip, node.port), self._now_s(), proven=False)

    def _greet(self, node_id: bytes, address: Address, now_s: float, *, proven: bool) -> None:
        known = self.router.get(node_id)
        if known is not None and known.advertised and not known.failures:
            return
        if node_id not in (NO_ID, self.source_node.id):
            contact = self._introductions.strangers.get_or_make(node_id, address, now_s)
            self._introductions.greet(contact, now_s, proven=proven)

    def _consider(self, named: list[wire.NodeTuple]) -> None:
        """Nodes that a peer named: greet those for whom the table has room, so that small swarms are known whole."""
        if self._ephemeral:
            return  # a guest does not stay long enough to use them
        now_s = self._now_s()
        for node in named:
            if node.node_id != self.source_node.id and self.router.has_room(node.node_id):
                contact = self.contact_for(node.node_id, (node.host, node.port))
                self._introductions.greet(contact, now_s, proven=False)

    def on_answered(self, contact: Contact, now_s: float) -> None:
        """It answered us. Admit it if it is proven and new."""
        if self.router.get(contact.id) is contact:
            self.router.touch(contact, now_s)
        elif contact.verified:
            self._admit(contact, now_s)
        elif contact.kind == "stock" and contact.id != NO_ID:
            self._greet(contact.id, contact.address, now_s, proven=True)

    def prefer(self, contact: Contact) -> None:
        """A proven contact at the address that it advertises."""
        self._admit(contact, self._now_s())

    def _admit(self, contact: Contact, now_s: float) -> None:
        if contact.ephemeral:
            return
        known = self.router.get(contact.id)
        if known is not None:
            if known.advertised and not known.failures and not contact.advertised:
                return
            moved = contact.kind == "p2pkv" or (known.kind == "stock" and known.failures)
            if known.address == contact.address or not moved:
                return
            self.counters["contacts_moved"] += 1
            self.router.remove_contact(known)
        if self.router.add_contact(contact):
            self._added(contact)
            return
        head = self.router.stale_head(contact, BUCKET_HEAD_STALE_S)
        if head is not None:
            self._introductions.check(head)

    def _added(self, contact: Contact) -> None:
        self.counters["contacts_added"] += 1
        for hook in self.on_contact_added:
            hook(contact)

    def on_silent(self, contact: Contact, since_s: float, now_s: float) -> None:
        """A call was not answered. It counts unless the contact was heard or counted silent since it was sent."""
        if contact.last_seen_s > since_s or contact.failed_s > since_s:
            return
        contact.failures += 1
        contact.failed_s = now_s
        if self.router.get(contact.id) is not contact:
            self.router.forget_replacement(contact)
        elif contact.failures < CONTACT_FAILURES_MAX:
            self._introductions.check(contact)
        else:
            self._evict(contact)

    def on_replaced(self, contact: Contact) -> None:
        """Another peer answers at its address: this one is gone from there."""
        contact.verified = False
        if self.router.get(contact.id) is contact:
            self._evict(contact)

    def on_left(self, contact: Contact, *, counts: bool) -> None:
        """It has told that it ends. `counts`: as a replica that is down, since it took something with it."""
        self._evict(contact)
        if not counts:
            self.former.remove(contact)

    def _evict(self, contact: Contact) -> None:
        self.counters["contacts_evicted"] += 1
        replacement = self.router.remove_contact(contact)
        for hook in self.on_contact_gone:
            hook(contact)
        self._introductions.remembered.keep(contact)
        self.former.append(contact)
        if replacement is not None:
            self._added(replacement)

    async def prove(self, sender: Sender) -> bool:
        """Make a stock sender answer a ping, so that it may be told more."""
        contact = self._introductions.strangers.get_or_make(sender.node_id, sender.address, self._now_s())
        if not contact.verified:
            try:
                await self.ping_contact(contact, resends_max=1, padded=False)
            except RemoteError:
                return False
        return contact.verified

    # --- calling, under the library's names ---

    async def ping_contact(self, contact: Contact, **options: Any) -> bytes:
        """A contact's id; where only its address was known, the contact gets it. Raises RemoteError."""
        node_id = await super().ping_contact(contact, **options)
        if contact.id == NO_ID:
            contact.identify(node_id)
        if node_id != contact.id:
            self.on_replaced(contact)
            raise SilentError("another peer answers at its address")
        if not contact.verified:
            contact.verified = True  # a stock peer: it cannot prove more
            self.on_answered(contact, self._now_s())
        return node_id

    async def greet_address(self, address: Address) -> Contact:
        """Who is at an address? Raises RemoteError."""
        contact = Contact(NO_ID, *address, now_s=self._now_s())
        await self.ping_contact(contact)
        return self.router.get(contact.id) or contact

    async def call_ping(self, node_to_ask: Node) -> tuple[bool, Any]:
        """(True, its id), or (False, None)."""
        try:
            return True, await self.ping_contact(self._as_contact(node_to_ask))
        except RemoteError:
            return False, None

    async def call_find_node(self, node_to_ask: Node, node_to_find: Node) -> tuple[bool, Any]:
        """(True, the nodes that it knows nearest), or (False, None) for silence. Raises RemoteError for a fault."""
        body = wire.request_body("find_node", (self.source_node.id, node_to_find.id))
        happened, found = await self._ask(node_to_ask, body, _NODES)
        if not happened:
            return False, None
        usable = nodes.checked(found)
        self._consider(usable)
        return True, usable

    async def call_find_value(self, node_to_ask: Node, node_to_find: Node) -> tuple[bool, Any]:
        """(True, {"value": value}) or (True, nodes), as the library has it."""
        body = wire.request_body("find_value", (self.source_node.id, node_to_find.id))
        happened, found = await self._ask(node_to_ask, body, _NODES_OR_VALUE)
        if isinstance(found, dict):
            if "value" not in found:
                raise RemoteError("misbehaved", "neither a value nor nodes")
            return happened, {"value": wire.decoded(wire.decode_scalar, found["value"], "misbehaved")}
        return happened, nodes.checked(found) if happened else None

    async def call_store(self, node_to_ask: Node, key: bytes, value: Any) -> tuple[bool, Any]:
        """(True, whether it says that it stored the value), or (False, None)."""
        body = wire.request_body("store", (self.source_node.id, key, value))
        return await self._ask(node_to_ask, body, bool)

    async def _ask(self, node: Node, body: bytes, type_: Any) -> tuple[bool, Any]:
        try:
            return True, await self._asker.ask(self._as_contact(node), body, decoder_of(type_))
        except SilentError:
            return False, None

    # --- answering, under the library's names ---

    def rpc_stun(self, sender: Address) -> Address:
        return sender

    def rpc_ping(self, sender: Address, nodeid: bytes) -> bytes:
        node_id: bytes = self.source_node.id
        return node_id

    def rpc_find_node(self, sender: Address, nodeid: bytes, key: bytes) -> list[tuple[bytes, str, int]]:
        """The k contacts nearest to the key, the asker left out."""
        router = self.router
        return [(c.id, c.ip, c.port) for c in router.nearest_but(key, router.ksize, nodeid, sender)]

    async def rpc_find_value(self, sender: Address, nodeid: bytes, key: bytes) -> Any:
        value = await self.stock_find(key)
        return self.rpc_find_node(sender, nodeid, key) if value is None else {"value": value}

    async def rpc_store(self, sender: Address, nodeid: bytes, key: bytes, value: Any) -> bool:
        if isinstance(value, msgspec.Raw):
            value = wire.decoded(wire.decode_scalar, value)
        return await self.stock_store(key, value)

    async def _store_in_storage(self, place: bytes, value: Any) -> bool:
        self.storage[place] = value
        return True

    async def _find_in_storage(self, place: bytes) -> Any:
        return self.storage.get(place)
