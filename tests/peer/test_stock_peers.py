"""Stock kademlia peers in a swarm of ours: found by lookups, and single values go both ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from kademlia.network import Server

from p2pkv.testing import Swarm
from p2pkv.units import parse_address


@pytest.fixture
async def swarm() -> AsyncIterator[Swarm]:
    async with Swarm(10, store="memory") as swarm:
        yield swarm


@pytest.fixture
async def stock(swarm: Swarm) -> AsyncIterator[Server]:
    server = Server(ksize=8)
    await server.listen(0, interface="127.0.0.1")
    await server.bootstrap([parse_address(swarm.peers[0].address)])
    async with asyncio.timeout(20):
        while "stock" not in [info.kind for peer in swarm.peers for info in await peer.peers()]:
            await asyncio.sleep(0.02)
    yield server
    server.stop()


async def test_a_stock_peer_is_found_by_lookups(swarm: Swarm, stock: Server) -> None:
    found = await swarm.peers[5].node.lookups.find_nodes(stock.node.id)
    assert stock.node.id in [contact.id for contact in found.contacts]


@pytest.mark.parametrize("value", ["v", b"\x00\xff", 7, 2.5, True])
async def test_what_a_stock_peer_sets_is_got_here(
    swarm: Swarm, stock: Server, value: str | bytes | float | bool
) -> None:
    assert await stock.set("from stock", value)
    expected = value if isinstance(value, bytes) else str(value).encode()
    for peer in swarm.peers:
        assert [record.value async for record in peer.get("from stock")] == [expected]


async def test_what_is_put_here_is_got_by_a_stock_peer(swarm: Swarm, stock: Server) -> None:
    await swarm.peers[3].put("from us", b"text")
    await swarm.peers[3].put("binary", b"\xff\x00")
    assert await stock.get("from us") == "text"
    assert await stock.get("binary") == b"\xff\x00"


async def test_what_a_stock_peer_cached_does_not_double_the_record(swarm: Swarm, stock: Server) -> None:
    await swarm.peers[3].put("k", b"v")
    assert await stock.get("k") == "v"
    for peer in swarm.peers:
        assert [record.value async for record in peer.get("k")] == [b"v"]


async def test_a_stock_value_is_deleted_like_any_other(swarm: Swarm, stock: Server) -> None:
    assert await stock.set("k", "v")
    assert await swarm.peers[2].delete("k") == 1
    assert [record.value async for record in swarm.peers[6].get("k")] == []
