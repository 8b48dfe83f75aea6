"""Contacts that a peer has heard of, and the bounded pings that make them known or forgotten.

Theory of operation. Whoever asks us something may become a contact, but only after it answered a ping of ours at its
address. Its address may be forged, so such a ping is not padded, is resent once at most, and goes to one address at
most every GREETING_INTERVAL_S. A contact of the table that was silent is asked again, every few seconds, until it
answers or has been silent often enough to be evicted.

Owns contacts outside the table and these pings. The protocol decides who is admitted and who is evicted.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Protocol

from p2pkv.errors import RemoteError, SilentError
from p2pkv.limits import (
    CHECK_INTERVAL_S,
    CHECKS_MAX,
    CONTACT_FAILURES_MAX,
    CONTACTS_REMEMBERED_MAX,
    CONTACTS_UNVERIFIED_MAX,
    GREETING_INTERVAL_S,
    GREETINGS_MAX,
    GREETINGS_REMEMBERED_MAX,
    RPC_RESENDS_MAX,
    SILENT_S,
    SILENT_S_MAX,
)
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.environment import Address, Environment

Key = tuple[bytes, str, int]
_UNPROVEN_RESENDS_MAX = 1


class Remembered:
    """Contacts outside the table, by id and address, so that round-trip times and cookies survive between lookups."""

    def __init__(self, size_max: int = CONTACTS_REMEMBERED_MAX) -> None:
        self._size_max = size_max
        self._contacts: OrderedDict[Key, Contact] = OrderedDict()

    def __len__(self) -> int:
        return len(self._contacts)

    def get_or_make(self, node_id: bytes, address: Address, now_s: float) -> Contact:
        key = (node_id, *address)
        contact = self._contacts.get(key)
        if contact is None:
            contact = self._contacts[key] = Contact(node_id, *address, now_s=now_s)
            if len(self._contacts) > self._size_max:
                self._contacts.popitem(last=False)
        else:
            self._contacts.move_to_end(key)
        return contact

    def keep(self, contact: Contact) -> None:
        """A contact that left the table."""
        key = (contact.id, *contact.address)
        self._contacts[key] = contact
        self._contacts.move_to_end(key)
        if len(self._contacts) > self._size_max:
            self._contacts.popitem(last=False)


class Pinger(Protocol):
    """What introductions need of the protocol."""

    env: Environment

    async def ping_contact(
        self, contact: Contact, *, deadline_s: float | None = None, resends_max: int = ..., padded: bool = ...
    ) -> bytes: ...
    def spawn(self, work: object) -> asyncio.Task[object]: ...


class Introductions:
    """Verifying pings under way."""

    def __init__(self, protocol: Pinger) -> None:
        self.remembered = Remembered()
        self.strangers = Remembered(CONTACTS_UNVERIFIED_MAX)  # senders who asked us; apart, so they displace nobody
        self._protocol = protocol
        self._greeted: OrderedDict[Address, float] = OrderedDict()
        self._greeting: set[Contact] = set()
        self._checking: set[Contact] = set()

    @property
    def under_way(self) -> int:
        return len(self._greeting) + len(self._checking)

    def greet(self, contact: Contact, now_s: float, *, proven: bool) -> None:
        """Ask a sender whether it is there, unless it was asked just now. `proven`: its address is not forged."""
        if contact in self._greeting or len(self._greeting) >= GREETINGS_MAX:
            return
        if contact.failures and now_s < contact.failed_s + min(SILENT_S * 2 ** min(contact.failures, 8), SILENT_S_MAX):
            return
        if now_s - self._greeted.get(contact.address, -GREETING_INTERVAL_S) < GREETING_INTERVAL_S:
            return
        self._greeted.pop(contact.address, None)
        self._greeted[contact.address] = now_s
        if len(self._greeted) > GREETINGS_REMEMBERED_MAX:
            self._greeted.popitem(last=False)
        self._greeting.add(contact)
        self._protocol.spawn(self._greet(contact, proven))

    async def _greet(self, contact: Contact, proven: bool) -> None:
        resends_max = RPC_RESENDS_MAX if proven else _UNPROVEN_RESENDS_MAX
        try:
            await self._protocol.ping_contact(contact, resends_max=resends_max, padded=False)
        except RemoteError:
            pass  # whoever it was is no contact
        finally:
            self._greeting.discard(contact)

    def check(self, contact: Contact) -> None:
        """Find out whether a contact that was silent lives."""
        if contact not in self._checking and len(self._checking) < CHECKS_MAX:
            self._checking.add(contact)
            self._protocol.spawn(self._check(contact))

    async def _check(self, contact: Contact) -> None:
        try:
            while True:
                await asyncio.sleep(CHECK_INTERVAL_S * (0.5 + self._protocol.env.random.random()))
                if await self._is_clear(contact):
                    return
        finally:
            self._checking.discard(contact)

    async def _is_clear(self, contact: Contact) -> bool:
        """Has it answered, or been silent often enough? Silences are counted where they are noticed."""
        try:
            await self._protocol.ping_contact(contact)
        except SilentError:
            return not 0 < contact.failures < CONTACT_FAILURES_MAX
        except RemoteError:
            return True
        return True
