"""Whole peers in virtual time: records and files under loss, partition and death, and the same again by the seed."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from p2pkv.errors import IncompleteError, P2pkvError, UnreachableError
from p2pkv.peer import Peer
from p2pkv.simulation.simulation import Seat
from p2pkv.testing import SimPeer, SimSwarm
from tests.seeds import seeds

VALUES = [f"value {number}".encode() for number in range(12)]


async def values_of(peer: Peer, key: str) -> list[bytes | None]:
    return [record.value async for record in peer.get(key)]


async def fill(peer: Peer, key: str) -> None:
    for value in VALUES:
        await peer.put(key, value)


async def use_everything(swarm: SimSwarm, folder: Path) -> None:
    """One of each operation, on different peers."""
    peers = swarm.peers
    await fill(peers[1], "many")
    assert await values_of(peers[2], "many") == VALUES
    await peers[3].put("one", b"first", name="n")
    await peers[4].put("one", b"second", name="n")
    await peers[4].put("one", b"for ever", name="o", once=True)
    assert await values_of(peers[5], "one") == [b"second", b"for ever"]
    assert await peers[6].count("many") == len(VALUES)
    assert await peers[7].delete("many") == len(VALUES)
    assert await peers[8].count("many") == 0
    await peers[9].put("long", b"x" * 300_000)
    assert await values_of(peers[10], "long") == [b"x" * 300_000]
    source = folder / "source"
    source.write_bytes(random.Random(1).randbytes(2_500_000))  # some chunks
    os.utime(source, (1, 1))  # its time is stored with it
    await peers[0].upload(source, "f/file")
    await peers[11].download("f/file", folder / "target")
    assert (folder / "target").read_bytes() == source.read_bytes()
    assert [info.name async for info in peers[12].list_files()] == ["f/", "f/file"]
    await peers[13].delete_file("f/file")
    assert "f/file" not in [info.name async for info in peers[14].list_files()]


@pytest.mark.parametrize("seed", seeds([0], [1, 2]))
def test_every_operation_works_under_loss(seed: int, tmp_path: Path) -> None:
    with SimSwarm(20, seed=seed, loss=0.05, duplication=0.02) as swarm:
        swarm.run(use_everything(swarm, tmp_path))
        assert swarm.now_s < 300, "nothing waits for long"


def test_fifty_peers_keep_a_record_while_a_part_of_its_replicas_dies() -> None:
    with SimSwarm(50, seed=4, loss=0.02) as swarm:
        swarm.run(fill(swarm.peers[0], "k"))
        holders = [i for i, peer in enumerate(swarm.peers) if peer.left.store.usage().records]
        for index in holders[:3]:
            swarm.crash(index)
        reader = next(index for index in swarm.up if index not in holders)
        assert swarm.run(values_of(swarm.peers[reader], "k")) == VALUES


def test_a_peer_comes_back_with_its_store_or_without() -> None:
    with SimSwarm(3, seed=5) as swarm:
        swarm.run(fill(swarm.peers[0], "k"))
        swarm.run_for(seconds=1)  # the last put was acknowledged by two; let the third have it too
        swarm.crash(1)
        swarm.crash(2)
        with pytest.raises(IncompleteError):
            swarm.run(values_of(swarm.peers[0], "k"))
        kept = swarm.restart(1)
        swarm.run(kept.wait_connected(60))
        assert swarm.run(values_of(kept, "k")) == VALUES
        empty = swarm.restart(2, home_lost=True)
        swarm.run(empty.wait_connected(60))
        assert swarm.run(values_of(empty, "k")) == VALUES


@pytest.mark.parametrize("after_minutes", [0, 10])
def test_a_cut_off_minority_neither_writes_nor_answers_short(after_minutes: int) -> None:
    """Not even when it has forgotten the others."""
    with SimSwarm(5, seed=6) as swarm:
        swarm.run(fill(swarm.peers[0], "k"))
        swarm.partition([[0, 1], [2, 3, 4]])
        swarm.run_for(minutes=after_minutes)
        with pytest.raises(IncompleteError):
            swarm.run(swarm.peers[0].put("k", b"minority", name="m"))
        with pytest.raises(IncompleteError):
            swarm.run(swarm.peers[1].count("k"))
        assert swarm.run(batch_outcomes(swarm.peers[1], "k")) == {False}
        swarm.run(swarm.peers[2].put("k", b"majority", name="z"))
        swarm.heal()
        swarm.run_for(minutes=1)
        assert b"majority" in swarm.run(values_of(swarm.peers[0], "k"))


def test_a_peer_that_is_not_joined_yet_does_not_take_itself_for_the_swarm() -> None:
    with SimSwarm(3, seed=7) as swarm:
        swarm.run(fill(swarm.peers[0], "k"))
        swarm.crash(2)
        swarm.partition([[2]])
        alone = swarm.restart(2)
        with pytest.raises(UnreachableError):
            swarm.run(alone.put("k", b"x", name="n"))
        with pytest.raises(UnreachableError):
            swarm.run(alone.put("k", b"x", name="o", once=True))
        with pytest.raises(UnreachableError):
            swarm.run(alone.count("k"))


def test_a_newcomer_that_knows_an_ephemeral_peer_alone_joins_and_takes_its_share() -> None:
    def last_is_ephemeral(seat: Seat) -> SimPeer:
        peer = SimPeer(seat)
        peer._ephemeral = len(swarm.peers) == 4
        return peer

    swarm = SimSwarm(5, seed=9, make_peer=last_is_ephemeral)
    with swarm:
        swarm.run(fill(swarm.peers[0], "k"))
        newcomer = swarm.add_peer(bootstrap=[4], wait_s=20)
        swarm.run_for(seconds=30)
        assert swarm.run(values_of(newcomer, "k")) == VALUES
        assert newcomer.node.upkeep.counters["upkeep_records_fetched"] == len(VALUES)


def test_a_call_to_a_peer_that_stops_ends_with_an_error() -> None:
    with SimSwarm(5, seed=8) as swarm:
        for index in (1, 2, 3, 4):
            swarm.kill(index)  # so the calls wait

        async def call_and_stop() -> list[object]:
            peer = swarm.peers[0]
            calls = [
                peer.put("k", b"x", name="n"),
                peer.put("k", b"x", name="o", once=True),
                batch_outcomes(peer, "k"),
                values_of(peer, "k"),
                peer.count("k"),
            ]
            tasks = [asyncio.create_task(call) for call in calls]
            await asyncio.sleep(0.1)
            await swarm.crash_soon(0)
            return await asyncio.gather(*tasks, return_exceptions=True)

        outcomes = swarm.run(call_and_stop())
        assert all(isinstance(outcome, P2pkvError) for outcome in outcomes), outcomes


async def batch_outcomes(peer: Peer, key: str) -> set[bool]:
    return {outcome.reached async for outcome in peer.put_many(key, [b"x", b"y"])}


_TRACE = """
import tempfile, pathlib
from tests.simulation.test_swarm import SimSwarm, use_everything
with SimSwarm(15, seed={seed}, loss=0.1, duplication=0.05) as swarm:
    with tempfile.TemporaryDirectory() as folder:
        swarm.run(use_everything(swarm, pathlib.Path(folder)))
    swarm.crash(3)
    swarm.run_for(seconds=20)
    swarm.restart(3)
    swarm.run_for(seconds=20)
    print(swarm.trace_hash)
"""


def trace_in_another_process(seed: int, hash_seed: int) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    command = [sys.executable, "-c", _TRACE.format(seed=seed)]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment, timeout=300).stdout


@pytest.mark.timeout(300)  # two swarms, on whatever machine
def test_two_runs_of_a_seed_send_the_same_datagrams() -> None:
    assert trace_in_another_process(1, hash_seed=1) == trace_in_another_process(1, hash_seed=2)


def test_two_seeds_send_others() -> None:
    with SimSwarm(5, seed=1) as one, SimSwarm(5, seed=2) as other:
        assert one.trace_hash != other.trace_hash
