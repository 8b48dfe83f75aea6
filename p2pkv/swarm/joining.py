"""Joining a swarm and staying in it: bootstrap, retried for ever, and the refreshing of the table.

Theory of operation. While no contact is left, every known address is asked: those that the user gave (their names
resolved anew each time), those saved at the last run, and contacts that were evicted. When somebody answers, a lookup
of our own id fills the table. Attempts come at doubling, jittered intervals and never end. With contacts, the swarm
is refreshed every REFRESH_S: lookups in lonely buckets and of our own id; and bootstrap and former peers that are not
contacts are asked again, which brings the parts of a divided swarm together.

Owns the one task that does this. Sends nothing itself but by the protocol and the lookups.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from p2pkv.errors import RemoteError
from p2pkv.limits import (
    BOOTSTRAP_ADDRESSES_MAX,
    BOOTSTRAP_BACKOFF_MAX_S,
    BOOTSTRAP_BACKOFF_MIN_S,
    REFRESH_S,
)
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.environment import Address, Environment
from p2pkv.swarm.lookup import Lookups
from p2pkv.swarm.protocol import PeerProtocol

log = logging.getLogger(__name__)

FIRST_LOOKUP_S = 1.0  # what `connected` waits for the first lookup of our own id, having a contact
ALONE_CHECK_S = 5.0  # how often a peer with contacts looks whether it still has any


class Joining:
    """Keeps one peer in its swarm."""

    def __init__(self, protocol: PeerProtocol, lookups: Lookups, env: Environment) -> None:
        self.connected = asyncio.Event()  # a contact was found once, and the table filled by the first lookup
        self.addresses: list[Address] = []  # given by the user; hosts may be names
        self.saved: list[Address] = []  # of the last run
        self._protocol = protocol
        self._lookups = lookups
        self._env = env
        self._arrived = asyncio.Event()  # a contact, maybe one that came to us
        protocol.on_contact_added.append(self._on_contact)

    def _on_contact(self, contact: Contact) -> None:
        self._arrived.set()
        if not self.addresses and not self.saved:
            self.connected.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                await self._join()
                self.connected.set()
                await self._stay()
            except Exception:  # nothing may end a peer's place in its swarm
                log.exception("joining failed and begins anew")
                await asyncio.sleep(BOOTSTRAP_BACKOFF_MAX_S)

    # --- no contact ---

    async def _join(self) -> None:
        """Until somebody answers."""
        backoff_s = BOOTSTRAP_BACKOFF_MIN_S
        while not len(self._protocol.router):
            await self.bootstrap(await self.resolved(self.addresses))
            if len(self._protocol.router):
                break
            await self._pause(backoff_s * (0.5 + self._env.random.random()))
            backoff_s = min(2 * backoff_s, BOOTSTRAP_BACKOFF_MAX_S)
        try:
            async with asyncio.timeout(FIRST_LOOKUP_S):
                await self._lookups.find_nodes(self._protocol.source_node.id)
        except TimeoutError:
            pass  # somebody near is slow; `_stay` looks again

    async def _pause(self, pause_s: float) -> None:
        """Wait, but no longer than until a contact comes to us."""
        self._arrived.clear()
        try:
            async with asyncio.timeout(pause_s):
                await self._arrived.wait()
        except TimeoutError:
            pass

    async def resolved(self, addresses: Iterable[Address]) -> list[Address]:
        """Numeric addresses; a name that has none now is left out, and tried again next time."""
        found: list[Address] = []
        for host, port in addresses:
            try:
                found += await self._env.resolve(host, port)
            except OSError as error:
                log.warning("cannot resolve bootstrap host %s: %s", host, error)
        return list(dict.fromkeys(found))

    async def bootstrap(self, addresses: Sequence[Address], *, saved: bool = True) -> list[Contact]:
        """Ask these addresses, and those of before where `saved`, who is there; returns as soon as one answers."""
        former = [contact.address for contact in self._protocol.former] if saved else []
        candidates = list(dict.fromkeys([*addresses, *(self.saved if saved else []), *former]))
        tasks = [self._protocol.spawn(self.greet(address)) for address in candidates[:BOOTSTRAP_ADDRESSES_MAX]]
        found: list[Contact] = []
        pending = set(tasks)
        try:
            while pending and not found:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                found += [contact for task in tasks if task in done and (contact := task.result()) is not None]
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            raise
        return found

    async def greet(self, address: Address) -> Contact | None:
        """The peer at an address; None for silence, and for ourselves."""
        try:
            contact = await self._protocol.greet_address(address)
        except RemoteError as error:
            log.info("bootstrap peer %s:%d: %s", *address, error)
            return None
        return contact if contact.id != self._protocol.source_node.id else None

    # --- with contacts ---

    async def _stay(self) -> None:
        """Until no contact is left."""
        loop = asyncio.get_running_loop()
        # The lookup that joined may have been cut short, and others joined at the same time.
        refresh_s = loop.time() + ALONE_CHECK_S
        while len(self._protocol.router):
            await asyncio.sleep(ALONE_CHECK_S)
            if loop.time() >= refresh_s:
                await self.refresh()
                refresh_s = loop.time() + REFRESH_S * (0.9 + 0.2 * self._env.random.random())

    async def refresh(self) -> None:
        """Look into lonely buckets and around ourselves, and call on those who were once known."""
        router = self._protocol.router
        known = {contact.address for contact in router.contacts()}
        absent = [a for a in await self.resolved(self.addresses) if a not in known]
        absent += [c.address for c in self._protocol.former if c.address not in known]
        for address in absent[:BOOTSTRAP_ADDRESSES_MAX]:
            await self.greet(address)
        for target in (self._protocol.source_node.id, *self._protocol.get_refresh_ids()):
            await self._lookups.find_nodes(target)
