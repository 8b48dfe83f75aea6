"""Contacts that were silent lately, so that lookups need not find it out again and again.

Owns a bounded memory of silences. Whoever is in it is passed by until it is heard from; it asks for a probe at growing
intervals and never sends one itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from p2pkv.limits import SILENT_CONTACTS_MAX, SILENT_S, SILENT_S_MAX
from p2pkv.swarm.contact import Contact

Key = tuple[bytes, str, int]


@dataclass(slots=True)
class _Silence:
    since_s: float
    probe_at_s: float
    interval_s: float


class Silences:
    """Who did not answer. A contact is known by its id and its address: at a new address it gets a new chance."""

    def __init__(self) -> None:
        self._by_contact: dict[Key, _Silence] = {}  # the oldest note first

    def __len__(self) -> int:
        return len(self._by_contact)

    def note(self, contact: Contact, now_s: float) -> None:
        """It did not answer, resends included."""
        before = self._by_contact.pop(_key(contact), None)
        interval_s = min(2 * before.interval_s, SILENT_S_MAX) if before else SILENT_S
        while len(self._by_contact) >= SILENT_CONTACTS_MAX:
            del self._by_contact[next(iter(self._by_contact))]
        self._by_contact[_key(contact)] = _Silence(now_s, now_s + interval_s, interval_s)

    def forget(self, contact: Contact) -> None:
        """It answered."""
        self._by_contact.pop(_key(contact), None)

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

    def probe_due(self, contact: Contact, now_s: float) -> bool:
        """Is it time to ask again? If so, the next time is put off."""
        silence = self._by_contact.get(_key(contact))
        if silence is None or now_s < silence.probe_at_s:
            return False
        silence.probe_at_s = now_s + silence.interval_s
        return True


def _key(contact: Contact) -> Key:
    return contact.id, contact.ip, contact.port
