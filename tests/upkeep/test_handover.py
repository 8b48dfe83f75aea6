"""What a peer holds for others is handed on, and dropped only when they have it."""

from __future__ import annotations

import pytest

from p2pkv.ids import distance, place_of_key
from p2pkv.limits import HANDOVER_GRACE_S
from p2pkv.testing import SimSwarm
from tests.upkeep.test_upkeep import copies, fill, held, values


def nearest(swarm: SimSwarm, key: str, count: int) -> list[int]:
    """The running peers nearest to a key."""
    place = place_of_key(key.encode())
    return sorted(swarm.up, key=lambda index: distance(swarm.peers[index].node.identity.node_id, place))[:count]


def test_replicas_beyond_k_are_dropped_when_k_others_have_the_record() -> None:
    with SimSwarm(5, seed=1, k=4) as swarm:
        fill(swarm, 40)
        for _ in range(9):
            swarm.add_peer()
        swarm.run_for(seconds=120)
        assert min(copies(swarm).values()) >= 4
        swarm.run_for(seconds=3 * HANDOVER_GRACE_S)
        counts = copies(swarm)
        assert len(counts) == 40
        assert min(counts.values()) >= 4
        assert sum(counts.values()) <= 4 * 40 * 1.05, "hardly any is kept by more than k peers"


def test_more_than_one_round_takes_has_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pkv.swarm.handover.HANDOVER_CELLS_MAX", 5)
    with SimSwarm(5, seed=1, k=2) as swarm:
        fill(swarm, 40)
        for _ in range(9):
            swarm.add_peer()
        swarm.run_for(seconds=20 * HANDOVER_GRACE_S)
        assert set(copies(swarm).values()) == {2}


def test_what_was_kept_for_peers_that_were_down_is_handed_to_them() -> None:
    with SimSwarm(14, seed=2, k=3) as swarm:
        proper = nearest(swarm, "key", 3)
        for index in proper:
            swarm.crash(index)
        swarm.run_for(seconds=30)
        outcome = swarm.run(swarm.peers[swarm.up[0]].put("key", b"value"))
        assert outcome.reached
        for index in proper:
            swarm.restart(index)
        swarm.run_for(seconds=60)
        for index in proper:
            assert len(swarm.run(held(swarm.peers[index]))) == 1
        swarm.run_for(seconds=3 * HANDOVER_GRACE_S)
        assert set(copies(swarm).values()) == {3}
        assert swarm.run(values(swarm.peers[proper[0]], "key")) == [b"value"]


def test_a_deleted_record_that_was_handed_on_stays_deleted() -> None:
    with SimSwarm(12, seed=3, k=3) as swarm:
        reader = swarm.peers[0]
        swarm.run(reader.put("key", b"value"))
        away = nearest(swarm, "key", 1)[0]
        swarm.crash(away)
        swarm.run_for(seconds=30)
        writer = swarm.peers[swarm.up[0]]
        assert swarm.run(writer.delete("key")) == 1
        back = swarm.restart(away)
        swarm.run_for(seconds=2 * HANDOVER_GRACE_S)
        assert swarm.run(values(back, "key")) == []
        assert swarm.run(values(writer, "key")) == []


def test_chunks_beyond_k_are_dropped_too() -> None:
    with SimSwarm(4, seed=4, k=3) as swarm:
        data = bytes(range(256)) * 2000
        swarm.run(swarm.peers[0].put("long", data))
        for _ in range(8):
            swarm.add_peer()
        swarm.run_for(seconds=4 * HANDOVER_GRACE_S)
        kept = [swarm.peers[index].left.store.usage().chunks for index in swarm.up]
        assert sum(kept) == 3 * len(chunks(swarm))
        assert swarm.run(values(swarm.peers[-1], "long")) == [data]


def chunks(swarm: SimSwarm) -> set[bytes]:
    ids: set[bytes] = set()
    for index in swarm.up:
        ids |= set(swarm.run(swarm.peers[index].left.store.chunk_ids()))
    return ids
