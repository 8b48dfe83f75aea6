"""Many peers that start at the same moment."""

from __future__ import annotations

import asyncio

import pytest

from p2pkv import messages
from p2pkv.errors import P2pkvError
from p2pkv.testing import SimPeer, SimSwarm, Swarm
from tests.seeds import seeds

KEYS = 300


@pytest.mark.timeout(400)  # so many peers in one process, on whatever machine
@pytest.mark.parametrize("peers", seeds([60], [100]))
async def test_what_is_put_right_after_many_peers_joined_is_found_by_all(peers: int) -> None:
    async with Swarm(peers, store="memory") as swarm:
        puts = (swarm.peers[number % peers].put(f"key-{number}", b"value") for number in range(KEYS))
        assert all(outcome.reached for outcome in await asyncio.gather(*puts))
        for number in range(KEYS):
            reader = swarm.peers[(7 * number + 3) % peers]
            assert [record.value async for record in reader.get(f"key-{number}")] == [b"value"]


@pytest.mark.parametrize("seed", range(4))
def test_two_that_are_back_together_do_not_take_themselves_for_the_swarm(seed: int) -> None:
    """The one hears the other first, which knows hardly anybody itself, and both hold what was there before."""
    with SimSwarm(12, seed=seed, delay_s=(0.02, 0.02)) as swarm:
        swarm.run(swarm.peers[5].put("key", b"old", name="record"))
        swarm.crash(0)
        swarm.crash(1)
        assert swarm.run(swarm.peers[5].put("key", b"new", name="record")).reached
        swarm.restart(0, bootstrap=[4])
        swarm.restart(1, bootstrap=[0, 4])
        for reader in (swarm.peers[1], swarm.peers[0]):
            assert swarm.run(newest(reader)) == [b"new"]


async def newest(reader: SimPeer) -> list[bytes | None]:
    """Read as soon as the reader has heard anybody."""
    while not reader.node.server.contacts():
        await asyncio.sleep(0.001)
    return [record.value async for record in reader.get("key")]


def test_who_is_just_joining_or_cut_off_does_not_answer_as_a_replica() -> None:
    with SimSwarm(12, seed=1) as swarm:
        swarm.crash(1)
        peer = swarm.restart(1, bootstrap=[4])
        assert not answers_as_replica(swarm, peer), "it has heard nobody yet"
        swarm.run(peer.wait_connected())
        assert answers_as_replica(swarm, peer)
        swarm.partition([[1]])
        with pytest.raises(P2pkvError):
            swarm.run(newest(peer))
        swarm.run_for(seconds=30)
        assert not answers_as_replica(swarm, peer), "it hears nobody any more"


def answers_as_replica(swarm: SimSwarm, peer: SimPeer) -> bool:
    """Of a page that is nearest to its own id."""
    request = messages.FindRecords(place=peer.node.identity.node_id)
    return swarm.run(peer.node.replica.find(request)).mine
