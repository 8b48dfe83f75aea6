"""Who was silent, who is back since a short while, and what a replica tells of them."""

from __future__ import annotations

import random

from p2pkv.ids import NodeID, Place, distance
from p2pkv.limits import RETURNED_S
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.neighbourhood import Neighbourhood
from p2pkv.swarm.silence import Silences

K = 8
PLACE = Place(bytes(20))


class Table:
    """Contacts, nearest first."""

    def __init__(self, contacts: list[Contact]) -> None:
        self._contacts = contacts

    def nearest(self, target: bytes, k: int) -> list[Contact]:
        return sorted(self._contacts, key=lambda contact: distance(contact.id, target))[:k]


def contacts(count: int) -> list[Contact]:
    draw = random.Random(1)
    return [Contact(draw.randbytes(20), "10.0.0.1", 1000 + number) for number in range(count)]


def heard(contact: Contact, now_s: float) -> None:
    contact.last_seen_s = now_s


def test_who_was_silent_is_in_doubt_until_a_while_after_it_was_heard() -> None:
    silences, (contact, other) = Silences(), contacts(2)
    assert not silences.doubtful([contact], 0.0)
    silences.note(contact, 1.0)
    assert silences.doubtful([contact], 1000.0)
    assert not silences.doubtful([other], 1.0)
    heard(contact, 1001.0)
    assert not silences.is_silent(contact)
    assert silences.doubtful([contact], 1001.0 + 0.9 * RETURNED_S)
    assert not silences.doubtful([contact], 1001.0 + RETURNED_S)


def test_who_answers_a_probe_is_in_doubt_too() -> None:
    silences, (contact,) = Silences(), contacts(1)
    silences.note(contact, 1.0)
    heard(contact, 2.0)
    silences.back(contact, 2.0)
    assert silences.doubtful([contact], 3.0)


def test_a_replica_names_those_who_count_without_the_doubtful() -> None:
    others = sorted(contacts(20), key=lambda contact: distance(contact.id, PLACE))
    asker = Neighbourhood(Table(others), NodeID(b"\xff" * 20), K, stores=False)
    replica = Neighbourhood(Table(others[1:]), NodeID(others[0].id), K)
    view, _ = asker.view(PLACE)
    assert replica.differing(PLACE, view) == []
    doubtful = {others[2].id, others[5].id}
    replica.doubtful = lambda contacts: doubtful & {contact.id for contact in contacts}
    named = [node.node_id for node in replica.differing(PLACE, view)]
    assert named == [contact.id for contact in others[1:10] if contact.id not in doubtful]
    assert len(named) == K - 1
