"""Contacts that were silent lately, so that lookups need not find it out again and again.

Owns a bounded memory of silences. Whoever is in it is passed by until it is heard from; it says who is to
be probed, at growing intervals, and never sends anything itself. Those who are heard again are remembered for a while:
until they have compared with their neighbours, they may lack what others keep in their place.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from p2pkv.limits import (
    PROBE_INTERVAL_S,
    PROBES_AT_ONCE_MAX,
    RETURNED_S,
    SILENT_CONTACTS_MAX,
    SILENT_S,
    SILENT_S_MAX,
)
from p2pkv.swarm.contact import Contact

Key = tuple[bytes, str, int]


@dataclass(slots=True)
class _Silence:
    contact: Contact
    since_s: float
    probe_at_s: float
    interval_s: float


class Silences:
    """Who did not answer. A contact is known by its id and its address: at a new address it gets a new chance."""

    def __init__(self) -> None:
        self._by_contact: dict[Key, _Silence] = {}  # the oldest note first
        self._returned_s: dict[bytes, float] = {}  # by the ids of those who are back: since when, the oldest first
        self._look_at_s = 0.0

    def __len__(self) -> int:
        return len(self._by_contact)

    def note(self, contact: Contact, now_s: float) -> None:
        """It did not answer, resends included."""
        before = self._by_contact.pop(_key(contact), None)
        interval_s = min(2 * before.interval_s, SILENT_S_MAX) if before else SILENT_S
        while len(self._by_contact) >= SILENT_CONTACTS_MAX:
            del self._by_contact[next(iter(self._by_contact))]
        self._by_contact[_key(contact)] = _Silence(contact, now_s, now_s + interval_s, interval_s)

    def forget(self, contact: Contact) -> None:
        """It answered."""
        if self._by_contact.pop(_key(contact), None) is not None:
            self._returned_s.pop(contact.id, None)
            while len(self._returned_s) >= SILENT_CONTACTS_MAX:
                del self._returned_s[next(iter(self._returned_s))]
            self._returned_s[contact.id] = contact.last_seen_s

    def back(self, contact: Contact, now_s: float) -> None:
        """A probe was answered. The others may have been behind the same cut, so they are probed soon."""
        self.forget(contact)
        for silence in self._by_contact.values():
            silence.probe_at_s = min(silence.probe_at_s, now_s + SILENT_S)

    def is_silent(self, contact: Contact) -> bool:
        """Did it not answer lately, and was it not heard since?"""
        if not self._by_contact:
            return False
        silence = self._by_contact.get(_key(contact))
        if silence is None:
            return False
        if contact.last_seen_s > silence.since_s:
            self.forget(contact)
            return False
        return True

    def doubtful(self, contacts: Iterable[Contact], now_s: float) -> set[bytes]:
        """Who is silent, or was until a short while ago, by ids: others may have been given what it should hold."""
        if not self._by_contact and not self._returned_s:
            return set()
        return {contact.id for contact in contacts if self._is_doubtful(contact, now_s)}

    def _is_doubtful(self, contact: Contact, now_s: float) -> bool:
        returned_s = self._returned_s.get(contact.id)
        if returned_s is not None and now_s < returned_s + RETURNED_S:
            return True
        self._returned_s.pop(contact.id, None)
        return self.is_silent(contact)

    def due(self, now_s: float) -> list[Contact]:
        """Whom it is time to ask again, a few at a time; the next time for each is put off.

        Lookups need not have met them: so the sides of a healed partition find each other after they were forgotten.
        """
        if now_s < self._look_at_s:
            return []
        self._look_at_s = now_s + PROBE_INTERVAL_S
        late = [silence for silence in self._by_contact.values() if silence.probe_at_s <= now_s]
        chosen = heapq.nsmallest(PROBES_AT_ONCE_MAX, late, key=lambda silence: silence.probe_at_s)
        for silence in chosen:
            silence.probe_at_s = now_s + silence.interval_s
        return [silence.contact for silence in chosen]


def _key(contact: Contact) -> Key:
    return contact.id, contact.ip, contact.port
