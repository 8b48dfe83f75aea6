"""Erasure-coded files in whole swarms: lost shards are made anew, and shards are where they belong."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from p2pkv.core import erasure
from p2pkv.errors import IncompleteError
from p2pkv.ids import ChunkID, is_shard
from p2pkv.limits import HANDOVER_GRACE_S, TEND_S
from p2pkv.testing import SimSwarm

DATA = random.Random(1).randbytes(300_000)


async def once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def upload(swarm: SimSwarm, by: int, erasure: str = "4/6", name: str = "coded") -> None:
    swarm.run(swarm.peers[by].upload(once(DATA), name, erasure=erasure))


def read(swarm: SimSwarm, by: int, name: str = "coded") -> bytes:
    async def whole() -> bytes:
        _, blocks = await swarm.peers[by].open_file(name)
        return b"".join([block async for block in blocks])

    return swarm.run(whole())


def holders(swarm: SimSwarm) -> dict[ChunkID, list[int]]:
    """Which running peers have each shard."""
    found: dict[ChunkID, list[int]] = {}
    for index in swarm.up:
        for chunk_id in swarm.run(swarm.peers[index].left.store.chunk_ids(None, 10_000)):
            if is_shard(chunk_id):
                found.setdefault(chunk_id, []).append(index)
    return found


def test_shards_lie_on_different_peers_one_each() -> None:
    with SimSwarm(12, seed=1) as swarm:
        upload(swarm, 0)
        found = holders(swarm)
        assert len(found) == 6
        assert Counter(len(peers) for peers in found.values()) == {1: 6}
        assert len({peers[0] for peers in found.values()}) == 6
        assert read(swarm, 7) == DATA


def test_lost_shards_are_made_anew_so_that_further_deaths_do_no_harm() -> None:
    with SimSwarm(16, seed=2, k=4) as swarm:
        upload(swarm, 0)
        for _ in range(4):  # two of the six die, four times over
            for peers in list(holders(swarm).values())[:2]:
                swarm.crash(peers[0])
            swarm.run_for(seconds=4 * TEND_S)
            assert len(holders(swarm)) == 6
            assert read(swarm, swarm.up[-1]) == DATA


def test_a_holder_that_starts_anew_costs_no_arithmetic() -> None:
    with SimSwarm(12, seed=3) as swarm:
        upload(swarm, 0)
        swarm.run_for(seconds=TEND_S)
        away = next(iter(holders(swarm).values()))[0]
        swarm.crash(away)
        swarm.run_for(seconds=30)
        swarm.restart(away)
        swarm.run_for(seconds=3 * TEND_S)
        assert sum(swarm.peers[index].node.upkeep.counters["upkeep_shards_rebuilt"] for index in swarm.up) == 0
        assert Counter(len(peers) for peers in holders(swarm).values()) == {1: 6}


def test_more_lost_than_the_code_bears_is_said_and_heals_when_they_come_back() -> None:
    with SimSwarm(14, seed=4) as swarm:
        upload(swarm, 0)
        gone = [peers[0] for peers in list(holders(swarm).values())[:3]]
        for index in gone:
            swarm.crash(index)
        swarm.run_for(seconds=60)
        with pytest.raises(IncompleteError, match="of its 6 shards answer, 4 are needed"):
            read(swarm, swarm.up[0])
        for index in gone:
            swarm.restart(index)
        swarm.run_for(seconds=60)
        assert read(swarm, swarm.up[0]) == DATA


def test_shards_move_to_newcomers_where_their_holder_is_asked_no_more_and_are_not_kept_twice() -> None:
    with SimSwarm(8, seed=5, k=2) as swarm:
        upload(swarm, 0)
        for _ in range(24):
            swarm.add_peer()
        swarm.run_for(seconds=4 * HANDOVER_GRACE_S)
        found = holders(swarm)
        assert len(found) == 6
        assert Counter(len(peers) for peers in found.values()) == {1: 6}
        assert any(peers[0] >= 8 for peers in found.values())
        assert read(swarm, 30) == DATA


def test_holders_that_leave_one_after_the_other_take_nothing_with_them() -> None:
    with SimSwarm(14, seed=6) as swarm:
        upload(swarm, 0)
        for index in range(6):
            swarm.leave(index)
        assert len(holders(swarm)) == 6
        assert read(swarm, 9) == DATA


def test_repair_makes_lost_shards_anew_at_once() -> None:
    with SimSwarm(12, seed=7) as swarm:
        upload(swarm, 0)
        for peers in list(holders(swarm).values())[:2]:
            swarm.crash(peers[0])
        swarm.run_for(seconds=60)
        rebuilt = [swarm.run(swarm.peers[index].repair())["shards_rebuilt"] for index in swarm.up]
        assert sum(rebuilt) == 2
        assert len(holders(swarm)) == 6


def test_without_the_library_nothing_is_rebuilt_and_nothing_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    with SimSwarm(12, seed=8) as swarm:
        upload(swarm, 0)
        monkeypatch.setattr(erasure, "ECDriver", None)
        index = next(iter(holders(swarm).values()))[0]
        swarm.crash(index)
        swarm.run_for(seconds=3 * TEND_S)
        assert len(holders(swarm)) == 5
