"""What was agreed on outlives the peers that agreed, and who comes later knows it before it votes."""

from __future__ import annotations

import pytest

from p2pkv import messages
from p2pkv.core.consensus import AcceptorState
from p2pkv.core.pages import place_of_register
from p2pkv.core.records import content_hash
from p2pkv.errors import RefusedError
from p2pkv.ids import Place, distance
from p2pkv.limits import HANDOVER_GRACE_S
from p2pkv.storage.interface import DropVersion, PutRegister, RangeQuery
from p2pkv.testing import SimPeer, SimSwarm

RECORDS = 12


def agree(swarm: SimSwarm, count: int = RECORDS) -> None:
    for number in range(count):
        swarm.run(swarm.peers[number % 3].put(f"key {number}", b"first", name="n", once=True))


def place(number: int) -> Place:
    return place_of_register(b"key %d" % number, b"n")


def nearest(swarm: SimSwarm, number: int, count: int) -> list[SimPeer]:
    """The running peers that should vote on a record."""
    peers = [swarm.peers[index] for index in swarm.up]
    return sorted(peers, key=lambda peer: distance(peer.node.identity.node_id, place(number)))[:count]


def holders(swarm: SimSwarm, number: int) -> list[SimPeer]:
    """The running peers that hold what was accepted for a record."""
    peers = [swarm.peers[index] for index in swarm.up]
    return [peer for peer in peers if state(swarm, peer, number).accepted is not None]


def state(swarm: SimSwarm, peer: SimPeer, number: int) -> AcceptorState:
    return AcceptorState.decode(swarm.run(peer.node.store.read_register(place(number), b"n")))


def test_registers_come_to_newcomers() -> None:
    with SimSwarm(8, seed=1, k=4) as swarm:
        agree(swarm)
        for index in range(4):
            swarm.run(swarm.replace_soon(index))
            swarm.run_for(seconds=45)
        for number in range(RECORDS):
            votes = nearest(swarm, number, 4)
            assert all(peer in holders(swarm, number) for peer in votes)


def test_who_leaves_gives_its_registers_away() -> None:
    with SimSwarm(6, seed=2) as swarm:
        swarm.run_for(seconds=30)
        agree(swarm, 1)
        leaver = swarm.peers[0]
        for peer in swarm.peers:
            swarm.run(peer.node.upkeep.close())  # only the leaver itself can do it now
        for peer in swarm.peers[1:]:
            swarm.run(peer.node.store.commit([PutRegister(place(0), b"n", b"")]))
            peer.node.upkeep._registers._ledger.wrote(place(0))
        assert holders(swarm, 0) == [leaver]
        swarm.leave(0)
        assert len(holders(swarm, 0)) == 5


def test_registers_beyond_k_are_dropped_when_k_others_hold_them() -> None:
    with SimSwarm(5, seed=1, k=4) as swarm:
        agree(swarm)
        for _ in range(9):
            swarm.add_peer()
        swarm.run_for(seconds=120)
        for number in range(RECORDS):
            assert set(nearest(swarm, number, 4)) <= set(holders(swarm, number))
        swarm.run_for(seconds=3 * HANDOVER_GRACE_S)
        counts = [len(holders(swarm, number)) for number in range(RECORDS)]
        assert min(counts) >= 4
        assert sum(counts) <= 4 * RECORDS * 1.05, "hardly any is kept by more than k peers"


def test_votes_ask_nobody_where_the_neighbours_stay_the_same() -> None:
    with SimSwarm(12, seed=3) as swarm:
        swarm.run_for(seconds=60)
        before = read_from_others(swarm)
        agree(swarm)
        assert read_from_others(swarm) == before


def read_from_others(swarm: SimSwarm) -> int:
    return sum(peer.node.counters()["registers_read_from_others"] for peer in swarm.peers)


def test_a_newcomer_reads_the_register_before_it_votes() -> None:
    with SimSwarm(7, seed=4) as swarm:
        swarm.run_for(seconds=30)
        agree(swarm, 1)
        newcomer = swarm.add_peer()
        swarm.run(newcomer.node.upkeep.close())  # nothing else brings it the register
        assert state(swarm, newcomer, 0).accepted is None
        reply = swarm.run(ask(swarm.peers[1], newcomer))
        assert reply.granted
        assert reply.accepted is not None
        assert reply.accepted.body == b"first"
        assert state(swarm, newcomer, 0).promised == (7, swarm.peers[1].node.identity.node_id)


async def ask(peer: SimPeer, other: SimPeer) -> messages.Promise:
    """A vote of one peer, asked for by another."""
    contact = peer.node.server.protocol.router.get(other.node.identity.node_id)
    assert contact is not None
    request = messages.Prepare(b"key 0", b"n", (7, peer.node.identity.node_id))
    return await peer.node.server.protocol.call(contact, messages.PREPARE, request)


def test_a_decision_outlives_all_who_took_it() -> None:
    """It was never stored in its page, as if its proposer had died, so it lies in the registers alone."""
    with SimSwarm(10, seed=5, k=4) as swarm:
        swarm.run_for(seconds=30)
        agree(swarm, 1)
        for peer in swarm.peers:
            swarm.run(drop_pages(peer))
        for index in range(10):
            swarm.run(swarm.replace_soon(index))
            swarm.run_for(seconds=40)
        with pytest.raises(RefusedError):
            swarm.run(swarm.peers[swarm.up[0]].put("key 0", b"second", name="n", once=True))


async def drop_pages(peer: SimPeer) -> None:
    """As if no page had ever been written."""
    store = peer.node.store
    for info in await store.pages():
        held = await store.read(RangeQuery(info.place, dead=True))
        drops = [DropVersion(info.place, *version.identity, content_hash(version)) for version in held.versions]
        await store.commit(drops)
