"""Being reached at another address than the one that our datagrams come from: behind a forwarded port.

Theory of operation. Peers take a contact's address from its datagrams. Where a router or container maps ports, that
address holds only while we talk, and the one that `--advertise` names holds always. So each contact is told, when it
comes and from time to time; it pings the advertised address, and only where our identity is proven there does it move
us to it and name us to others so. While the advertised address answers, the other one is not taken again.

Owns what is told and how such word is taken. Peers that do not know the message keep the address that they see.
"""

from __future__ import annotations

import asyncio
import logging

from p2pkv import messages
from p2pkv.errors import RemoteError
from p2pkv.limits import ADVERTISE_S, ADVERTISED_AT_ONCE_MAX
from p2pkv.swarm.contact import NO_ID, Contact, Sender
from p2pkv.swarm.environment import Address
from p2pkv.swarm.protocol import PeerProtocol
from p2pkv.swarm.udp import is_usable_host

log = logging.getLogger(__name__)


class Advertising:
    """One peer's word of where it is reached, and its ear for that of others."""

    def __init__(self, protocol: PeerProtocol) -> None:
        self._protocol = protocol
        self._address: Address | None = None
        self._checking = 0
        protocol.register(messages.REACHABLE_AT, self.on_reachable_at)

    def start(self, address: Address) -> None:
        """Tell every contact, now and as they come. The host may be a name, and is looked up anew each time."""
        self._protocol.spawn(self._tell_regularly(address))
        self._protocol.on_contact_added.append(self._on_contact)

    async def _tell_regularly(self, address: Address) -> None:
        while True:
            try:
                self._address = (await self._protocol.env.resolve(*address))[0]
            except OSError as error:
                log.warning("cannot resolve the advertised host %s: %s", address[0], error)
            for contact in self._protocol.router.contacts():
                await self._tell(contact)
            await asyncio.sleep(ADVERTISE_S)

    def _on_contact(self, contact: Contact) -> None:
        self._protocol.spawn(self._tell(contact))

    async def _tell(self, contact: Contact) -> None:
        if self._address is None or contact.kind != "p2pkv":
            return
        try:
            reply = await self._protocol.call(contact, messages.REACHABLE_AT, messages.ReachableAt(*self._address))
        except RemoteError as error:
            log.info("telling %s:%d where we are reached: %s", *contact.address, error)
            return
        if not reply.taken:
            self._protocol.counters["advertised_unreachable"] += 1
            log.warning("%s:%d cannot reach us at the advertised %s:%d", *contact.address, *self._address)

    async def on_reachable_at(self, sender: Sender, request: messages.ReachableAt) -> messages.ReachableAtReply:
        """Somebody says where it is reached. Believed where its identity is proven there."""
        address = (request.host, request.port)
        if sender.node_id in (NO_ID, self._protocol.source_node.id) or not is_usable_host(request.host):
            raise RemoteError("malformed", "no address of a peer")
        if self._checking >= ADVERTISED_AT_ONCE_MAX:
            raise RemoteError("busy", "too many such checks under way")
        self._checking += 1
        try:
            contact = self._protocol.contact_for(sender.node_id, address)
            await self._protocol.ping_contact(contact, resends_max=1, padded=False)
        except RemoteError:
            return messages.ReachableAtReply(taken=False)
        finally:
            self._checking -= 1
        if contact.verified:
            contact.advertised = True
            self._protocol.prefer(contact)
        return messages.ReachableAtReply(taken=contact.verified)
