"""A peer that is told to stop takes nothing with it."""

from __future__ import annotations

from p2pkv.limits import LEAVE_S_MAX
from p2pkv.testing import SimSwarm
from tests.upkeep.test_upkeep import copies, fill, held, values


def test_what_only_the_leaver_holds_is_with_the_others_before_it_ends() -> None:
    with SimSwarm(6, seed=1) as swarm:
        fill(swarm, 10)
        swarm.partition([[0], [1, 2, 3, 4, 5]])
        leaver = swarm.peers[0]
        swarm.run_for(seconds=5)
        outcome = swarm.run(leaver.put("alone", b"value", acks="1"))
        assert outcome.stored == 1
        data = bytes(range(256)) * 1000
        swarm.run(leaver.put("long", data, acks="1"))
        swarm.heal()
        for peer in swarm.peers:
            swarm.run(peer.node.upkeep.close())  # only the leaver itself can do it now
        swarm.leave(0)
        assert {len(swarm.run(held(peer))) for peer in swarm.peers[1:]} == {12}
        assert swarm.run(values(swarm.peers[3], "long")) == [data]


def test_one_that_left_is_no_replica_any_more() -> None:
    with SimSwarm(3, seed=2) as swarm:
        fill(swarm, 5)
        swarm.leave(2)
        outcome = swarm.run(swarm.peers[0].put("key", b"value", acks="all"))
        assert (outcome.asked, outcome.stored) == (2, 2)
        swarm.crash(1)
        swarm.run_for(minutes=5)
        outcome = swarm.run(swarm.peers[0].put("key", b"value", acks="1"))
        assert outcome.asked == 2, "one that died counts all the same"


def test_leaving_one_after_the_other_loses_nothing_and_takes_little_time() -> None:
    with SimSwarm(14, seed=3, k=3) as swarm:
        fill(swarm, 60)
        for index in range(11):
            began_s = swarm.now_s
            swarm.leave(index)
            assert swarm.now_s - began_s < LEAVE_S_MAX
        assert len(copies(swarm)) == 60
        swarm.run_for(seconds=30)
        assert set(copies(swarm).values()) == {3}


def test_a_peer_that_is_cut_off_ends_all_the_same() -> None:
    with SimSwarm(5, seed=4) as swarm:
        fill(swarm, 5)
        swarm.partition([[0], [1, 2, 3, 4]])
        began_s = swarm.now_s
        swarm.leave(0)
        assert swarm.now_s - began_s < LEAVE_S_MAX + 5
