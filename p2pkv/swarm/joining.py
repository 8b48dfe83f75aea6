"""Joining a swarm and staying in it: bootstrap, retried for ever, and the refreshing of the table.

Theory of operation. While no contact is left, every known address is asked: those that the user gave (their names
resolved anew each time), those saved at the last run, and contacts that were evicted. Attempts come at doubling,
jittered intervals and never end. An ephemeral peer that answers becomes no contact, so those whom it knows are greeted
in its stead. When somebody answers, lookups of our own id and of far places fill the table, and are repeated until they
bring nobody new: of peers that join at the same time, none can tell the others whom it does not know yet. A lookup asks
the nearest alone, and where all of these lack the same part of the swarm it ends among them; so a few others are asked
for far places too, who stand elsewhere and know that part. With contacts, all this is done again every REFRESH_S; and
bootstrap and former peers that are not contacts are asked again, which brings the parts of a divided swarm together.

Owns the one task that does this. Sends nothing itself but by the protocol and the lookups.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress

from p2pkv.errors import RemoteError, SilentError
from p2pkv.ids import ID_BITS, ID_BYTES, distance
from p2pkv.limits import (
    BOOTSTRAP_ADDRESSES_MAX,
    BOOTSTRAP_BACKOFF_MAX_S,
    BOOTSTRAP_BACKOFF_MIN_S,
    ELSEWHERE_ASKED,
    FAR_TARGETS_MAX,
    NODES_IN_ANSWER_MAX,
    REFRESH_S,
    SETTLE_PAUSE_S,
    SETTLE_ROUNDS_MAX,
)
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.environment import Address, Environment
from p2pkv.swarm.lookup import Lookups
from p2pkv.swarm.protocol import PeerProtocol

log = logging.getLogger(__name__)

FIRST_LOOKUP_S = 1.0  # what `connected` waits for the first lookup of our own id, having a contact
HEAR_THE_REST_S = 0.3  # what it waits for other bootstrap peers, knowing few; a dead one costs so much at every start
ALONE_CHECK_S = 5.0  # how often a peer with contacts looks whether it still has any


class Joining:
    """Keeps one peer in its swarm."""

    def __init__(self, protocol: PeerProtocol, lookups: Lookups, env: Environment) -> None:
        self.connected = asyncio.Event()  # a contact was found once, and the table filled by the first lookup
        self.settled = asyncio.Event()  # looking around again brought nobody new
        self.addresses: list[Address] = []  # given by the user; hosts may be names
        self.saved: list[Address] = []  # of the last run
        self._protocol = protocol
        self._lookups = lookups
        self._env = env
        self._arrived = asyncio.Event()  # a contact, maybe one that came to us
        self._arrivals = 0
        self._greetings: set[asyncio.Task[Contact | None]] = set()  # of the last attempt to find somebody
        protocol.on_contact_added.append(self._on_contact)

    def _on_contact(self, contact: Contact) -> None:
        self._arrived.set()
        self._arrivals += 1
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
        with suppress(TimeoutError):  # somebody near is slow; `_settle` looks again
            async with asyncio.timeout(FIRST_LOOKUP_S):
                await self._look_around()
        with suppress(TimeoutError):
            async with asyncio.timeout(HEAR_THE_REST_S):
                await self._hear_the_rest()

    async def _hear_the_rest(self) -> None:
        """Who answered first may know hardly anybody, as it has only just started; then the others are waited for."""
        while len(self._protocol.router) < self._lookups.k and self._greetings:
            before = self._arrivals
            await asyncio.wait(self._greetings, return_when=asyncio.FIRST_COMPLETED)
            if self._arrivals > before:
                await self._look_around()

    async def _look_around(self) -> None:
        """Look up our own id, then places all over the id space."""
        await self._lookups.find_nodes(self._protocol.source_node.id)
        targets = self._far_targets()
        await asyncio.gather(*map(self._lookups.find_nodes, targets), *map(self._ask_elsewhere, targets))

    async def _ask_elsewhere(self, target: bytes) -> None:
        """Ask some of all contacts, wherever they stand, who is near a target; who is named becomes known."""
        contacts = self._protocol.router.contacts()
        for contact in self._env.random.sample(contacts, min(len(contacts), ELSEWHERE_ASKED)):
            try:
                await self._lookups.nodes_of(contact, target)
            except SilentError:
                continue

    async def _settle(self) -> None:
        """Look around again, less and less often, until that brings nobody new."""
        pause_s = SETTLE_PAUSE_S
        for _ in range(SETTLE_ROUNDS_MAX):
            await asyncio.sleep(pause_s * (0.5 + self._env.random.random()))
            before = self._arrivals
            await self._look_around()
            if self._arrivals == before:
                break
            pause_s *= 2
        self.settled.set()

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
        greetings = [self._protocol.spawn(self.greet(address)) for address in candidates[:BOOTSTRAP_ADDRESSES_MAX]]
        for greeting in greetings:
            self._greetings.add(greeting)
            greeting.add_done_callback(self._greetings.discard)
        return await self._first(greetings)

    async def _first(self, tasks: Sequence[asyncio.Task[Contact | None]]) -> list[Contact]:
        """Who answered first; the others go on."""
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
        contact = await self._greet(address)
        if contact is not None and contact.ephemeral:
            await self._meet_those_of(contact)
        return contact

    async def _meet_those_of(self, guest: Contact) -> None:
        """Greet whom a peer knows that is nobody's contact itself; returns as soon as one of them answers."""
        try:
            _, named = await self._protocol.call_find_node(guest, self._protocol.source_node)
        except RemoteError as error:
            log.info("%s:%d named nobody: %s", guest.ip, guest.port, error)
            return
        addresses = list(dict.fromkeys((node.host, node.port) for node in named or ()))
        await self._first([self._protocol.spawn(self._greet(address)) for address in addresses[:NODES_IN_ANSWER_MAX]])

    async def _greet(self, address: Address) -> Contact | None:
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
        await self._settle()
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
        await self._look_around()
        for target in self._protocol.get_refresh_ids():
            await self._lookups.find_nodes(target)

    def _far_targets(self) -> list[bytes]:
        """A random id in each part of the id space that branches off the way to our nearest contacts.

        Whoever looks up its own id alone meets its own half of the swarm alone, and while its table is one wide bucket
        that half keeps it full of life: all of them together could come to know nobody of the other half.
        """
        own_id: bytes = self._protocol.source_node.id
        nearest = self._protocol.router.nearest(own_id, self._lookups.k)
        if not nearest:
            return []
        width = distance(own_id, nearest[-1].id).bit_length()
        own, random = int.from_bytes(own_id, "big"), self._env.random
        bits = range(ID_BITS - 1, max(width - 2, ID_BITS - 1 - FAR_TARGETS_MAX), -1)
        return [(own ^ (1 << bit) ^ random.getrandbits(bit)).to_bytes(ID_BYTES, "big") for bit in bits]
