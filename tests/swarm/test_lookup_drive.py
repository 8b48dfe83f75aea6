"""Lookups over a protocol that answers as the test says: what is asked, waited for, cancelled and remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import pytest
from kademlia.node import Node

from p2pkv.core.rtt import RttEstimator
from p2pkv.errors import RemoteError, SilentError
from p2pkv.ids import distance
from p2pkv.limits import SILENT_S
from p2pkv.simulation.loop import VirtualLoop
from p2pkv.swarm.environment import Environment
from p2pkv.swarm.lookup import Answer, Found, Lookups

T = TypeVar("T")
TARGET = bytes(20)
RTT_S = 0.03
SILENCE_S = 5.0


def node_id(number: int) -> bytes:
    return number.to_bytes(20, "big")


@dataclass
class FakeContact:
    id: bytes
    ip: str
    port: int
    rtt: RttEstimator = field(default_factory=RttEstimator)
    last_seen_s: float = 0.0
    outstanding: int = 0
    quiet_since_s: float = 0.0

    @property
    def number(self) -> int:
        return int.from_bytes(self.id, "big")


class FakeProtocol:
    """Numbers for peers: everyone names the k nearest of all; the dead are silent for SILENCE_S."""

    def __init__(self, numbers: range, k: int = 8) -> None:
        self.router = self
        self.source_node = Node(node_id(10_000))
        self.contacts = {number: FakeContact(node_id(number), "10.0.0.1", number) for number in numbers}
        self.known = list(self.contacts)
        self.dead: set[int] = set()
        self.junk: list[Any] = []
        self.former: list[FakeContact] = []
        self.asked: list[int] = []
        self.pinged: list[int] = []
        self.running = 0
        self._k = k

    def find_neighbors(self, node: Node, k: int | None = None, exclude: Node | None = None) -> list[FakeContact]:
        known = [self.contacts[number] for number in self.known]
        return sorted(known, key=lambda contact: distance(contact.id, node.id))[:k]

    def contact_for(self, node: bytes, address: tuple[str, int]) -> FakeContact:
        return self.contacts.get(int.from_bytes(node, "big"), FakeContact(node, *address))

    async def call_find_node(self, contact: FakeContact, node: Node) -> tuple[bool, Any]:
        self.asked.append(contact.number)
        if not await self.reply(contact):
            return False, None
        near = sorted(self.contacts.values(), key=lambda other: distance(other.id, node.id))[: self._k]
        return True, [(other.id, other.ip, other.port) for other in near] + self.junk

    async def call_ping(self, contact: FakeContact) -> tuple[bool, Any]:
        self.pinged.append(contact.number)
        return await self.reply(contact), None

    async def reply(self, contact: FakeContact) -> bool:
        self.running += 1
        try:
            silent = contact.number in self.dead
            await asyncio.sleep(SILENCE_S if silent else RTT_S)
            return not silent
        finally:
            self.running -= 1


@dataclass
class Rig:
    loop: VirtualLoop
    protocol: FakeProtocol
    lookups: Lookups

    def run(self, work: Awaitable[T]) -> T:
        async def main() -> T:
            return await work

        return self.loop.run_until_complete(main())

    def find(self) -> Found:
        return self.run(self.lookups.find_nodes(TARGET))


@pytest.fixture
def rig() -> Iterator[Rig]:
    loop = VirtualLoop()
    protocol = FakeProtocol(range(1, 31))
    rig = Rig(loop, protocol, Lookups(cast(Any, protocol), Environment()))
    yield rig
    rig.run(rig.lookups.close())
    assert protocol.running == 0, "a question outlived its owner"
    loop.close()


def numbers(found: Found) -> list[int]:
    return [int.from_bytes(contact.id, "big") for contact in found.contacts]


def asking(rig: Rig, answer: Callable[[int], Awaitable[object]]) -> Callable[[Any], Awaitable[Answer]]:
    async def question(contact: FakeContact) -> Answer:
        rig.protocol.asked.append(contact.number)
        return Answer([], await answer(contact.number))

    return question


def test_an_empty_table_makes_an_empty_outcome(rig: Rig) -> None:
    rig.protocol.known = []
    found = rig.find()
    assert (found.contacts, found.replicas, found.answers, found.failures, found.trace.hops) == ([], 0, {}, {}, [])


def test_finds_the_nearest_from_one_known_contact(rig: Rig) -> None:
    rig.protocol.known = [30]
    found = rig.find()
    assert numbers(found) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert found.trace.nearest[0] == node_id(1).hex()
    assert [hop.depth for hop in found.trace.hops][:2] == [0, 1]


def test_malformed_nodes_in_an_answer_are_left_out(rig: Rig) -> None:
    rig.protocol.junk = [None, 7, (b"short", "10.0.0.1", 1), (node_id(0), "10.0.0.1", 0), (node_id(0), 5, 5), []]
    assert numbers(rig.find()) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_the_dead_cost_one_silence_and_are_passed_by_afterwards(rig: Rig) -> None:
    rig.protocol.dead = {1, 3}
    found = rig.find()
    assert numbers(found) == [2, 4, 5, 6, 7, 8, 9, 10]
    assert set(found.failures) == {node_id(1), node_id(3)}
    began_s, rig.protocol.asked = rig.loop.time(), []
    assert numbers(rig.find()) == [2, 4, 5, 6, 7, 8, 9, 10]
    assert rig.loop.time() - began_s < 10 * RTT_S
    assert not {1, 3} & set(rig.protocol.asked)


def test_who_is_heard_again_is_asked_again(rig: Rig) -> None:
    rig.protocol.dead = {1}
    rig.find()
    rig.protocol.dead = set()
    rig.protocol.contacts[1].last_seen_s = rig.loop.time() + 0.001
    assert numbers(rig.find())[0] == 1


def test_the_silent_are_probed_beside_lookups_and_come_back(rig: Rig) -> None:
    rig.protocol.dead = {1}
    rig.find()
    rig.run(asyncio.sleep(SILENT_S + 1))
    rig.find()
    rig.run(asyncio.sleep(SILENCE_S + 1))
    assert rig.protocol.pinged == [1]
    assert numbers(rig.find())[0] == 2
    rig.protocol.dead = set()
    rig.run(asyncio.sleep(2 * SILENT_S + 1))
    rig.find()
    rig.run(asyncio.sleep(1))
    assert rig.protocol.pinged == [1, 1]
    assert numbers(rig.find())[0] == 1


def test_who_was_cut_off_from_everybody_asks_again_when_back(rig: Rig) -> None:
    rig.protocol.known = list(range(1, 9))
    rig.protocol.dead = set(rig.protocol.contacts)
    assert rig.find().contacts == []
    rig.protocol.dead = set()
    assert numbers(rig.find()) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_after_a_long_cut_one_that_is_back_makes_the_others_be_probed_soon(rig: Rig) -> None:
    rig.protocol.dead = {1, 2, 3}
    for _ in range(5):
        rig.find()
        rig.run(asyncio.sleep(60))
    rig.protocol.dead = set()
    rig.lookups.silences.back(cast(Any, rig.protocol.contacts[2]), rig.loop.time())
    for _ in range(3):
        rig.run(asyncio.sleep(SILENT_S))
        found = rig.find()
    assert numbers(found) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_quorum_passes_by_the_dead_and_learns_of_them_behind_it(rig: Rig) -> None:
    rig.protocol.dead = {1, 2}

    async def answer(number: int) -> object:
        if not await rig.protocol.reply(rig.protocol.contacts[number]):
            raise SilentError
        return number

    found = rig.run(rig.lookups.ask(TARGET, asking(rig, answer), need=5))
    assert rig.loop.time() < 1
    assert numbers(found) == [3, 4, 5, 6, 7]
    assert found.replicas == 8
    assert found.answers[node_id(3)] == 3
    rig.run(asyncio.sleep(SILENCE_S))
    assert found.failures == {}, "the outcome does not change behind the caller's back"
    rig.protocol.asked = []
    rig.run(rig.lookups.ask(TARGET, asking(rig, answer), need=5))
    assert sorted(rig.protocol.asked) == [3, 4, 5, 6, 7]


def test_a_lingering_lookup_reaches_all_replicas_and_replaces_the_dead(rig: Rig) -> None:
    rig.protocol.dead = {2}

    async def answer(number: int) -> object:
        if not await rig.protocol.reply(rig.protocol.contacts[number]):
            raise SilentError
        return number

    found = rig.run(rig.lookups.ask(TARGET, asking(rig, answer), need=5, eager=True, linger=True))
    assert rig.loop.time() < 1
    assert found.pending
    rig.run(found.settle())
    assert numbers(found) == [1, 3, 4, 5, 6, 7, 8, 9]
    assert found.failures == {node_id(2): "silent"}


def test_a_fault_of_a_peer_is_told_and_the_next_takes_its_place(rig: Rig) -> None:
    async def answer(number: int) -> object:
        await asyncio.sleep(RTT_S)
        if number == 1:
            raise RemoteError("busy", "come back later")
        return number

    found = rig.run(rig.lookups.ask(TARGET, asking(rig, answer)))
    assert numbers(found) == [2, 3, 4, 5, 6, 7, 8, 9]
    assert found.failures == {node_id(1): "busy: come back later"}
    assert found.address_of(node_id(1)) == "10.0.0.1:1"
    assert [hop.outcome for hop in found.trace.hops].count("error") == 1
    assert not len(rig.lookups.silences), "it answered, if only with an error"


def test_a_cancelled_caller_leaves_no_question_behind(rig: Rig) -> None:
    async def main() -> None:
        task = asyncio.create_task(rig.lookups.find_nodes(TARGET))
        await asyncio.sleep(RTT_S / 2)
        assert rig.protocol.running == 3
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert rig.protocol.running == 0

    rig.run(main())


def test_a_question_cancelled_from_outside_does_not_hang_the_lookup(rig: Rig) -> None:
    async def answer(number: int) -> object:
        await asyncio.sleep(RTT_S)
        if number == 1:
            raise asyncio.CancelledError
        return number

    found = rig.run(rig.lookups.ask(TARGET, asking(rig, answer)))
    assert numbers(found)[0] == 2


def test_a_broken_question_is_the_callers_error(rig: Rig) -> None:
    async def answer(number: int) -> object:
        await asyncio.sleep(RTT_S)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        rig.run(rig.lookups.ask(TARGET, asking(rig, answer)))


def test_what_one_lookup_waits_for_in_vain_others_do_not_wait_for(rig: Rig) -> None:
    """The first lookup finds out by time; the next passes the silent contact by at once."""
    protocol, lookups = rig.protocol, rig.lookups
    protocol.dead = {1}
    quiet = protocol.contacts[1]

    async def answer(number: int) -> object:
        quiet.outstanding, quiet.quiet_since_s = 1, 0.0  # as the RPC layer notes it
        assert await protocol.reply(protocol.contacts[number]) or number == 1
        return number

    def took_s() -> float:
        began_s = rig.loop.time()
        found = rig.run(lookups.ask(TARGET, asking(rig, answer), need=5))
        assert len(found.contacts) >= 5
        return rig.loop.time() - began_s

    took_s()
    rig.run(asyncio.sleep(3))
    assert took_s() < 1.5 * RTT_S
