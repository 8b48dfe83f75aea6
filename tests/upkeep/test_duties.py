"""The parts of the id space that a peer shares with its neighbours."""

from __future__ import annotations

import random

import pytest

from p2pkv.ids import distance
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.duties import Parts, duties_of, joined


def peers_of(count: int) -> list[Contact]:
    draw = random.Random(count)
    return [Contact(draw.randbytes(20), f"10.0.0.{n % 250}", 1000 + n) for n in range(count)]


@pytest.mark.parametrize("count", [2, 6, 12, 40, 200])
def test_every_place_is_compared_with_all_of_its_replicas(count: int) -> None:
    k, (own, *others), draw = 6, peers_of(count), random.Random(1)
    near = sorted(others, key=lambda contact: distance(contact.id, own.id))[: 4 * k]
    duties = duties_of(Parts(own.id, near, k).walk())
    seen = missing = 0
    for _ in range(2000 if count < 50 else 20_000):
        place = draw.randbytes(20)
        replicas = sorted([own, *others], key=lambda contact: distance(contact.id, place))[:k]
        if own not in replicas:
            continue
        assert duties.covers(place.hex().encode()[:4]) or count > 50
        for contact in replicas:
            if contact is not own:
                seen += 1
                missing += not place.hex().encode().startswith(tuple(duties.shared.get(contact, [b"-"])))
    assert seen
    assert missing <= seen / 200, "all but the few places of parts that are cut too coarsely"


def test_few_parts_are_asked_about() -> None:
    own, *others = peers_of(12)
    parts = [part.prefix for part in Parts(own.id, others, 8).walk() if part.mine]
    assert len(parts) < 300
    own, *others = peers_of(8)
    assert duties_of(Parts(own.id, others, 8).walk()).shared == {contact: [b""] for contact in others}


def test_parts_side_by_side_are_joined() -> None:
    digits = b"0123456789abcdef"
    children = {b"a" + digits[n : n + 1] for n in range(16)}
    assert joined(children) == {b"a"}
    assert joined(children - {b"a3"}) == children - {b"a3"}
    assert joined(children | {digits[n : n + 1] for n in range(16)} - {b"a"}) == {b""}
