"""Replicas come back to their full number by themselves, in virtual time."""

from __future__ import annotations

import asyncio
import random

import pytest

from p2pkv.core.records import content_hash
from p2pkv.storage.interface import DropVersion, NoWatcher
from p2pkv.swarm import changes, upkeep
from p2pkv.testing import SimPeer, SimSwarm


async def held(peer: SimPeer) -> set[bytes]:
    """The items of everything that a peer's store holds."""
    return set((await peer.left.store.stretch(b"", None, 1 << 20)).items)


def fill(swarm: SimSwarm, count: int) -> None:
    async def put(index: int) -> None:
        await swarm.peers[index % len(swarm.peers)].put(f"key {index}", b"value %d" % index)

    for index in range(count):
        swarm.run(put(index))


def copies(swarm: SimSwarm) -> dict[bytes, int]:
    """How many running peers hold each record."""
    count: dict[bytes, int] = {}
    for index in swarm.up:
        for item in swarm.run(held(swarm.peers[index])):
            count[item] = count.get(item, 0) + 1
    return count


def test_records_come_back_to_k_replicas_after_deaths() -> None:
    with SimSwarm(14, seed=1, k=4) as swarm:
        fill(swarm, 60)
        before = copies(swarm)
        assert len(before) == 60
        for index in (2, 5, 9):
            swarm.crash(index)
        assert min(copies(swarm).values()) < 4
        swarm.run_for(seconds=60)
        assert set(copies(swarm)) == set(before)
        assert min(copies(swarm).values()) >= 4


def test_a_newcomer_gets_what_it_became_responsible_for() -> None:
    with SimSwarm(4, seed=2) as swarm:
        fill(swarm, 100)
        swarm.crash(3)
        newcomer = swarm.restart(3, home_lost=True)
        swarm.run_for(seconds=20)
        assert len(swarm.run(held(newcomer))) == 100


def test_a_peer_that_was_away_gets_what_it_missed_and_nothing_comes_back_to_life() -> None:
    with SimSwarm(6, seed=3) as swarm:
        fill(swarm, 20)
        swarm.crash(5)
        writer = swarm.peers[0]
        swarm.run(writer.delete("key 3"))
        swarm.run(writer.put("late", b"value"))
        swarm.run_for(hours=24)
        back = swarm.restart(5)
        swarm.run_for(seconds=60)
        assert swarm.run(held(back)) == swarm.run(held(writer))
        assert swarm.run(values(back, "key 3")) == []
        assert swarm.run(values(back, "late")) == [b"value"]


async def values(peer: SimPeer, key: str) -> list[bytes | None]:
    return [record.value async for record in peer.get(key)]


def test_chunks_come_back_to_k_replicas() -> None:
    with SimSwarm(5, seed=4, k=3) as swarm:
        data = random.Random(1).randbytes(300_000)
        swarm.run(swarm.peers[0].put("long", data))
        swarm.crash(4)
        swarm.crash(3)
        swarm.run_for(seconds=60)
        chunks = {swarm.peers[index].left.store.usage().chunks for index in swarm.up}
        assert chunks == {swarm.peers[0].left.store.usage().chunks}, "three peers are left, and each holds all"
        assert swarm.run(values(swarm.peers[1], "long")) == [data]


def test_a_swarm_in_order_talks_little() -> None:
    with SimSwarm(6, seed=5) as swarm:
        fill(swarm, 50)
        swarm.run_for(hours=1)
        before = swarm.peers[0].node.counters()["upkeep_rounds"]
        swarm.run_for(hours=1)
        rounds = swarm.peers[0].node.counters()["upkeep_rounds"] - before
        assert rounds <= 10
        assert swarm.peers[0].node.counters().get("upkeep_records_fetched", 0) <= 1


def test_a_round_waits_for_the_end_of_a_long_batch_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "UPKEEP_LULL_TURNS_MAX", 15)  # half a minute, where it is five
    monkeypatch.setattr(changes, "CHANGES_MANY_MIN", 128)

    def rounds_of(peer: SimPeer) -> int:
        return peer.node.counters()["upkeep_rounds"]

    def rounds(swarm: SimSwarm) -> int:
        return sum(map(rounds_of, swarm.peers))

    async def put(peer: SimPeer, seconds: int) -> None:
        for second in range(seconds):
            values = [b"%d %d" % (second, number) for number in range(200)]
            assert all([outcome.reached async for outcome in peer.put_many("k", values)])
            await asyncio.sleep(1)

    with SimSwarm(6, seed=8) as swarm:
        swarm.run_for(seconds=10)
        begun = rounds(swarm)
        assert begun >= 6
        swarm.run(put(swarm.peers[0], 25))
        assert rounds(swarm) == begun, "no peer compares what is on its way"
        swarm.run(put(swarm.peers[0], 60))
        assert rounds(swarm) >= begun + 6, "each does after a while"
        swarm.crash(5)
        swarm.run(put(swarm.peers[0], 30))
        before = rounds(swarm) - rounds_of(swarm.peers[5])
        swarm.restart(5, home_lost=True)
        swarm.run(put(swarm.peers[0], 25))
        stayed = rounds(swarm) - rounds_of(swarm.peers[5])
        assert stayed >= before + 4, "and soon where a neighbour came"


def test_what_was_damaged_is_fetched_again() -> None:
    with SimSwarm(4, seed=6) as swarm:
        fill(swarm, 10)
        swarm.run_for(seconds=30)
        victim = swarm.peers[1]
        store = victim.left.store
        lost = next(iter(swarm.run(store.stretch(b"", None, 100)).items.values()))
        watcher, store.watcher = store.watcher, NoWatcher()  # what damage takes is not told one by one
        swarm.run(store.commit([DropVersion(lost.place, *lost.version.identity, content_hash(lost.version))]))
        store.watcher = watcher
        store.watcher.lost_records()
        assert len(swarm.run(held(victim))) == 9
        swarm.run_for(seconds=20)
        assert len(swarm.run(held(victim))) == 10
