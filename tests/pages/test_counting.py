"""Counting a key of many pages: a few bytes a page, and right whatever befalls the replicas."""

from __future__ import annotations

import pytest

from p2pkv.testing import SimSwarm
from tests.pages.checker import Witness
from tests.pages.test_splits import bound, numbers, settle


def make(swarm: SimSwarm, records: int = 600) -> Witness:
    """A key of many pages, settled."""
    bound(swarm.peers, 24)
    witness = Witness()
    swarm.run(witness.put_many(swarm.peers[0], "k", numbers(0, records)))
    settle(swarm)
    return witness


def summed(swarm: SimSwarm, by: int) -> tuple[int, int, int]:
    """The count, the requests that it took, and the bytes that all peers sent meanwhile."""
    swarm.run_for(seconds=5)
    requests = swarm.peers[by].node.counters()["requests_sent"]
    before = swarm.network.counters.bytes_sent
    count = swarm.run(swarm.peers[by].count("k"))
    return (
        count,
        swarm.peers[by].node.counters()["requests_sent"] - requests,
        swarm.network.counters.bytes_sent - before,
    )


def test_a_count_asks_each_peer_once_for_all_its_pages() -> None:
    with SimSwarm(20, seed=1) as swarm:
        make(swarm)
        assert swarm.run(swarm.peers[3].count("k")) == 600  # learns of the pages
        pages = len(swarm.peers[3].node.writer.tree(b"k").leaves())
        count, requests, size_bytes = summed(swarm, 3)
        assert count == 600
        assert pages > 64
        assert pages == 256, "as many as a key of a million records has"
        assert requests < 2 * len(swarm.peers)
        assert size_bytes < 100_000


def test_what_is_put_deleted_and_expires_counts_at_once() -> None:
    with SimSwarm(20, seed=2) as swarm:
        make(swarm)
        assert swarm.run(swarm.peers[3].count("k")) == 600
        swarm.run(swarm.peers[1].put("k", b"one more", name="more"))
        assert swarm.run(swarm.peers[3].count("k")) == 601
        swarm.run(swarm.peers[2].delete("k", name="more"))
        assert swarm.run(swarm.peers[3].count("k")) == 600
        swarm.run(swarm.peers[1].put("k", b"for a minute", name="short", ttl_s=60))
        assert swarm.run(swarm.peers[3].count("k")) == 601
        swarm.run_for(seconds=61)
        assert swarm.run(swarm.peers[3].count("k")) == 600


@pytest.mark.parametrize("seed", [3])
def test_a_count_stays_right_while_replicas_die_and_newcomers_join(seed: int) -> None:
    with SimSwarm(20, seed=seed) as swarm:
        make(swarm)
        for number in range(2):
            swarm.crash(swarm.up[-1])
            assert swarm.run(swarm.peers[number].count("k")) == 600
            swarm.add_peer()
            assert swarm.run(swarm.peers[number].count("k")) == 600
            swarm.run(swarm.peers[number].put("k", b"more", name=f"more{number}"))
            assert swarm.run(swarm.peers[number + 1].count("k")) == 601
            swarm.run(swarm.peers[number].delete("k", name=f"more{number}"))
