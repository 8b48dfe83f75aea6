"""Many peers that start at the same moment."""

from __future__ import annotations

import asyncio

import pytest

from p2pkv.testing import Swarm

PEERS = 100
KEYS = 300


@pytest.mark.timeout(400)  # a hundred peers in one process, on whatever machine
async def test_what_is_put_right_after_a_hundred_peers_joined_is_found_by_all() -> None:
    async with Swarm(PEERS, store="memory") as swarm:
        puts = (swarm.peers[number % PEERS].put(f"key-{number}", b"value") for number in range(KEYS))
        assert all(outcome.reached for outcome in await asyncio.gather(*puts))
        for number in range(KEYS):
            reader = swarm.peers[(7 * number + 3) % PEERS]
            assert [record.value async for record in reader.get(f"key-{number}")] == [b"value"]
