"""Atomic batches in a simulated swarm: what users see of them."""

from __future__ import annotations

from p2pkv.outcomes import BatchChange
from p2pkv.testing import SimPeer, SimSwarm


async def values(peer: SimPeer, key: str) -> dict[str, bytes | None]:
    return {record.name: record.value async for record in peer.get(key)}


def test_a_batch_of_several_keys_is_seen_everywhere_when_it_is_done() -> None:
    with SimSwarm(12, seed=1) as swarm:
        writer, reader = swarm.peers[0], swarm.peers[7]
        swarm.run(writer.put("b", b"old", name="x"))
        changes = [
            BatchChange("a", b"1", name="x"),
            BatchChange("a", b"2", name="y"),
            BatchChange("b", b"3", name="x"),
            BatchChange("c", b"4" * 5000, name="long"),
        ]
        outcome = swarm.run(writer.put_batch(changes))
        assert len(outcome.records) == 4 and all(record.outcome.reached for record in outcome.records)
        assert swarm.run(values(reader, "a")) == {"x": b"1", "y": b"2"}
        assert swarm.run(values(reader, "b")) == {"x": b"3"}
        assert swarm.run(values(reader, "c")) == {"long": b"4" * 5000}
        assert swarm.run(reader.count("a")) == 2
