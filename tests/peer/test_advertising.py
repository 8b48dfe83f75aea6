"""A peer behind a forwarded port is reached, and named to others, where it says that it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

from p2pkv import Peer
from p2pkv.units import parse_address

Address = tuple[str, int]


class Forwarder(asyncio.DatagramProtocol):
    """A forwarded port, as a router has it: one socket of its own towards the target for each who asks from outside."""

    def __init__(self, target: Address) -> None:
        self.target = target
        self.ways: dict[Address, asyncio.DatagramTransport] = {}
        self.forwarded = 0

    async def open(self) -> str:
        loop = asyncio.get_running_loop()
        self.outside, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        host, port = self.outside.get_extra_info("sockname")
        return f"{host}:{port}"

    def datagram_received(self, data: bytes, address: Address) -> None:
        self.opening = asyncio.ensure_future(self._forward(data, address))

    async def _forward(self, data: bytes, address: Address) -> None:
        if address not in self.ways:
            loop = asyncio.get_running_loop()
            way, _ = await loop.create_datagram_endpoint(lambda: _Back(self, address), local_addr=("127.0.0.1", 0))
            self.ways[address] = way
        self.forwarded += 1
        self.ways[address].sendto(data, self.target)

    def close(self) -> None:
        for way in (self.outside, *self.ways.values()):
            way.close()


class _Back(asyncio.DatagramProtocol):
    def __init__(self, forwarder: Forwarder, asker: Address) -> None:
        self.forwarder, self.asker = forwarder, asker

    def datagram_received(self, data: bytes, address: Address) -> None:
        self.forwarder.outside.sendto(data, self.asker)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def seen_by(peer: Peer, other: Peer) -> str:
    """The address at which a peer knows another."""
    contact = peer.node.server.protocol.router.get(other.node.identity.node_id)
    return f"{contact.ip}:{contact.port}" if contact else ""


def _peer(**options: object) -> Peer:
    return Peer(listen=["127.0.0.1:0"], store="memory", **options)  # type: ignore[arg-type]


async def test_the_advertised_address_is_taken_and_named_to_others() -> None:
    async with AsyncExitStack() as exits:
        first = await exits.enter_async_context(_peer())
        # The port that is forwarded is known before the peer starts, as its owner has set it up.
        probe = await exits.enter_async_context(_peer())
        hidden_at = probe.address
        await probe.stop()
        forwarder = Forwarder(parse_address(hidden_at))
        advertised = await forwarder.open()
        exits.callback(forwarder.close)
        hidden = await exits.enter_async_context(
            Peer(listen=[hidden_at], bootstrap=[first.address], advertise=advertised, store="memory")
        )
        await hidden.wait_connected()
        await until(lambda: seen_by(first, hidden) == advertised)
        third = await exits.enter_async_context(_peer(bootstrap=[first.address]))
        await until(lambda: seen_by(third, hidden) == advertised)
        assert (await hidden.put("k", b"v", acks="all")).stored == 3
        assert [record.value async for record in third.get("k")] == [b"v"]
        await hidden.put("k", b"w")  # talks to the others from its own port again
        assert seen_by(first, hidden) == seen_by(third, hidden) == advertised
        assert (await hidden.status()).advertised == advertised


async def test_an_advertised_address_without_the_peer_is_not_believed() -> None:
    async with AsyncExitStack() as exits:
        first = await exits.enter_async_context(_peer())
        other = await exits.enter_async_context(_peer(bootstrap=[first.address]))
        liar = await exits.enter_async_context(_peer(bootstrap=[first.address], advertise=other.address))
        counters = liar.node.server.protocol.counters
        await until(lambda: counters["advertised_unreachable"])
        assert seen_by(first, liar) == liar.address
        assert seen_by(first, other) == other.address
