"""The swarm's protocol in virtual time: lookups stay exact and joining succeeds under loss, death and partition."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from p2pkv.ids import distance
from p2pkv.simulation.servers import ServerPeer, ServerSwarm
from tests.seeds import seeds

SIZE = 80
K = 8


def nearest(peers: list[ServerPeer], target: bytes, asker: ServerPeer) -> list[bytes]:
    others = [peer.node_id for peer in peers if peer is not asker]
    return sorted(others, key=lambda node_id: distance(node_id, target))[:K]


def find(swarm: ServerSwarm, asker: ServerPeer, target: bytes) -> tuple[list[bytes], float]:
    """The outcome's NodeIDs and the virtual seconds that it took."""
    began_s = swarm.now_s
    found = swarm.run(asker.lookups.find_nodes(target))
    return [contact.id for contact in found.contacts], swarm.now_s - began_s


def wrong_lookups(swarm: ServerSwarm, peers: list[ServerPeer], rng: random.Random, count: int) -> list[str]:
    """Lookups from random peers to random targets whose outcome is not the k nearest of `peers`."""
    wrong = []
    for _ in range(count):
        asker, target = rng.choice(peers), rng.randbytes(20)
        found, _ = find(swarm, asker, target)
        if found != nearest(peers, target, asker):
            wrong.append(target.hex())
    return wrong


@pytest.fixture(scope="module", params=seeds([4], [3, 5]))
def lossy_swarm(request: pytest.FixtureRequest) -> Iterator[ServerSwarm]:
    """Peers that joined and live under 10 % loss."""
    with ServerSwarm(SIZE, seed=request.param, loss=0.1, duplication=0.02) as swarm:
        swarm.run_for(seconds=60)
        yield swarm


def test_lookups_are_exact_under_loss(lossy_swarm: ServerSwarm) -> None:
    assert wrong_lookups(lossy_swarm, lossy_swarm.peers, random.Random(1), 100) == []


def test_a_lookup_costs_a_few_questions_and_tells_its_hops(lossy_swarm: ServerSwarm) -> None:
    rng = random.Random(2)
    hops = []
    for _ in range(20):
        found = lossy_swarm.run(rng.choice(lossy_swarm.peers).lookups.find_nodes(rng.randbytes(20)))
        hops.append(len(found.trace.hops))
        assert [contact.id.hex() for contact in found.contacts] == found.trace.nearest
        assert max(hop.depth for hop in found.trace.hops) <= 8
    assert sum(hops) / len(hops) < 4 * K


@pytest.mark.parametrize("seed", range(5))
def test_a_newcomer_always_gets_connected_under_heavy_loss(seed: int) -> None:
    with ServerSwarm(12, seed=seed) as swarm:
        swarm.network.weather.loss = 0.2
        for _ in range(5):
            newcomer = swarm.add_peer(bootstrap=[0])
            found, _ = find(swarm, newcomer, newcomer.node_id)
            assert len(set(found) & set(nearest(swarm.peers, newcomer.node_id, newcomer))) >= K - 2
            swarm.run_for(seconds=10)
            assert find(swarm, swarm.peers[0], newcomer.node_id)[0][0] == newcomer.node_id


def test_a_newcomer_waits_for_a_bootstrap_that_is_down_at_first() -> None:
    with ServerSwarm(10, seed=1) as swarm:
        swarm.kill(0)
        newcomer = swarm.add_peer(bootstrap=[0], wait_s=None)
        swarm.run_for(minutes=2)
        swarm.revive(0)
        swarm.run(newcomer.wait_connected(120))
        swarm.run_for(minutes=2)  # peer 0 was cut off: it has to find its contacts alive again
        found, _ = find(swarm, newcomer, newcomer.node_id)
        assert found == nearest(swarm.peers, newcomer.node_id, newcomer)


def test_two_runs_of_a_seed_are_the_same_run() -> None:
    def trace(seed: int) -> str:
        with ServerSwarm(20, seed=seed, loss=0.1, duplication=0.05) as swarm:
            swarm.kill(3)
            for number in range(10):
                find(swarm, swarm.peers[number], bytes([number]) * 20)
            return swarm.trace_hash

    assert trace(1) == trace(1)
    assert trace(1) != trace(2)


def live_on(swarm: ServerSwarm, peers: list[ServerPeer], rng: random.Random, rounds: int) -> None:
    """Peers look themselves and others up now and then, as running peers do."""
    for _ in range(rounds):
        for peer in peers:
            find(swarm, peer, peer.node_id)
            find(swarm, peer, rng.randbytes(20))
        swarm.run_for(seconds=20)


def test_a_third_of_the_peers_dead_lookups_find_the_living_and_are_soon_exact_and_fast() -> None:
    with ServerSwarm(60, seed=5) as swarm:
        swarm.run_for(seconds=30)
        dead = set(random.Random(5).sample(range(60), 18))
        for index in dead:
            swarm.kill(index)
        live = [peer for index, peer in enumerate(swarm.peers) if index not in dead]
        living, rng = {peer.node_id for peer in live}, random.Random(6)
        for asker in rng.sample(live, 20):
            found, duration_s = find(swarm, asker, rng.randbytes(20))
            assert len(found) == K
            assert set(found) <= living
            assert duration_s < 15, "two silences behind each other at most"
        live_on(swarm, live, rng, 6)
        assert wrong_lookups(swarm, live, rng, 60) == []
        times_s = sorted(find(swarm, rng.choice(live), rng.randbytes(20))[1] for _ in range(40))
        assert times_s[20] < 0.5, "some five round trips of at most 0.1 s"


def test_the_dead_come_back_and_are_found_again() -> None:
    with ServerSwarm(30, seed=8) as swarm:
        swarm.run_for(seconds=10)
        target = swarm.peers[7].node_id
        swarm.kill(7)
        rest = [peer for peer in swarm.peers if peer is not swarm.peers[7]]
        assert find(swarm, swarm.peers[1], target)[0] == nearest(rest, target, swarm.peers[1])
        swarm.revive(7)
        find(swarm, swarm.peers[7], swarm.peers[1].node_id)
        swarm.run_for(minutes=2)
        find(swarm, swarm.peers[1], target)
        swarm.run_for(seconds=10)
        assert find(swarm, swarm.peers[1], target)[0] == nearest(swarm.peers, target, swarm.peers[1])


def test_each_side_of_a_partition_goes_on_and_the_whole_finds_together() -> None:
    with ServerSwarm(24, seed=9) as swarm:
        swarm.run_for(seconds=30)
        rng, sides = random.Random(1), [range(12), range(12, 24)]
        swarm.partition(sides)
        for side in sides:
            peers = [swarm.peers[index] for index in side]
            live_on(swarm, peers, rng, 6)
            assert wrong_lookups(swarm, peers, rng, 12) == []
        swarm.heal()
        swarm.run_for(minutes=20)
        live_on(swarm, swarm.peers, rng, 12)
        assert wrong_lookups(swarm, swarm.peers, rng, 24) == []
