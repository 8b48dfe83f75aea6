"""Push and pull between two peers, in virtual time over a bad network, and over real sockets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from p2pkv.core.bulk.events import Accept, Reject
from p2pkv.errors import RemoteError, SilentError
from p2pkv.limits import STORED_CHUNK_BYTES_MAX
from p2pkv.simulation.loop import VirtualLoop
from p2pkv.simulation.network import Network, Weather
from p2pkv.swarm.bulk import BulkService
from p2pkv.swarm.environment import Address, Environment
from p2pkv.swarm.udp import Endpoint


class Peer:
    """A socket, a service and what it keeps."""

    def __init__(self) -> None:
        self.kept: dict[bytes, bytes] = {}
        self.refused: set[bytes] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.endpoint = Endpoint(self.datagram_received)
        self.service: Any = None
        self.address: Address = ("", 0)

    async def open(self, env: Environment, address: Address) -> None:
        await self.endpoint.open(env, [address])
        self.address = self.endpoint.bound[0]
        self.service = BulkService(
            self.endpoint, env, on_offer=self.offer, on_received=self.receive, on_request=self.request
        )

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.service.datagram_received(data, addr)

    def offer(self, address: Address, header: bytes, size: int) -> Accept | Reject:
        return Reject("quota", "full") if header in self.refused else Accept()

    async def receive(self, address: Address, header: bytes, data: bytes) -> bytes:
        await self.gate.wait()
        self.kept[header] = data
        return b"kept %d" % len(data)

    async def request(self, address: Address, header: bytes) -> bytes:
        if header not in self.kept:
            raise RemoteError("refused", "no such chunk")
        return self.kept[header]

    async def close(self) -> None:
        await self.service.close()
        await self.endpoint.close()


Story = Callable[[Peer, Peer, Network], Awaitable[None]]


def simulate(story: Story, *, seed: int = 1, **weather: Any) -> None:
    """Run a story between two peers in virtual time."""
    loop = VirtualLoop()
    network = Network(loop, seed, Weather(**weather))

    async def run() -> None:
        one, other = Peer(), Peer()
        for peer, host in ((one, "10.0.0.1"), (other, "10.0.0.2")):
            await peer.open(network.environment(host), (host, 9000))
        try:
            await asyncio.wait_for(story(one, other, network), 3600)
        finally:
            await one.close()
            await other.close()
        assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    try:
        loop.run_until_complete(run())
    finally:
        loop.close()


def chunk(seed: int, size: int = 200_000) -> bytes:
    return random.Random(seed).randbytes(size)


async def exchange(one: Peer, other: Peer, network: Network) -> None:
    """Both push and pull at once; everything arrives exactly."""
    data = {b"%d" % n: chunk(n) for n in range(4)}
    pushes = [one.service.push(other.address, name, body, deadline_s=600) for name, body in data.items()]
    back = other.service.push(one.address, b"back", chunk(9), deadline_s=600)
    answers = await asyncio.gather(*pushes, back)
    assert answers == [b"kept 200000"] * 5
    assert other.kept == data
    assert one.kept == {b"back": chunk(9)}
    pulls = [one.service.pull(other.address, name, size_max=300_000, deadline_s=600) for name in data]
    assert await asyncio.gather(*pulls) == list(data.values())


@pytest.mark.parametrize(
    ("loss", "delay_s", "duplication"),
    [(0.0, (0.01, 0.01), 0.0), (0.05, (0.001, 0.03), 0.1), (0.3, (0.01, 0.02), 0.0), (0.1, (0.25, 0.35), 0.05)],
)
def test_everything_arrives_over_a_bad_network(loss: float, delay_s: tuple[float, float], duplication: float) -> None:
    simulate(exchange, loss=loss, delay_s=delay_s, duplication=duplication)


def test_sizes_at_the_edges_come_through() -> None:
    async def story(one: Peer, other: Peer, network: Network) -> None:
        for size in (0, 1, 1165, 1166, 1172, 1173, STORED_CHUNK_BYTES_MAX):
            body = chunk(size, size)
            header = b"h" * min(size, 1024)
            assert await one.service.push(other.address, header, memoryview(body), deadline_s=60) == b"kept %d" % size
            assert await one.service.pull(other.address, header, size_max=size, deadline_s=60) == body

    simulate(story)


def test_refusals_travel() -> None:
    async def story(one: Peer, other: Peer, network: Network) -> None:
        other.refused.add(b"unwanted")
        with pytest.raises(RemoteError) as offered:
            await one.service.push(other.address, b"unwanted", chunk(1, 1_000_000), deadline_s=60)
        assert (offered.value.code, offered.value.detail) == ("quota", "full")
        assert network.counters.bytes_sent < 500_000, "the data went on after it was refused"
        with pytest.raises(RemoteError) as missing:
            await one.service.pull(other.address, b"nothing", size_max=1000, deadline_s=60)
        assert missing.value.code == "refused"
        other.kept[b"large"] = chunk(1, 2000)
        with pytest.raises(RemoteError, match="2000 bytes"):
            await one.service.pull(other.address, b"large", size_max=1000, deadline_s=60)

    simulate(story, loss=0.05)


def test_a_peer_that_is_not_there_or_vanishes_is_silent() -> None:
    async def story(one: Peer, other: Peer, network: Network) -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(SilentError):
            await one.service.push(("10.0.0.9", 1), b"x", b"data", deadline_s=60)
        assert loop.time() < 15
        other.gate.clear()
        push = asyncio.ensure_future(one.service.push(other.address, b"x", chunk(1, 1_000_000), deadline_s=600))
        await asyncio.sleep(0.1)
        network.silence("10.0.0.2")
        began_s = loop.time()
        with pytest.raises(SilentError):
            await push
        assert loop.time() - began_s < 15

    simulate(story)


def test_a_peer_that_begins_anew_is_found_again() -> None:
    async def story(one: Peer, other: Peer, network: Network) -> None:
        await one.service.push(other.address, b"before", chunk(1), deadline_s=10)
        await other.endpoint.close()
        again = Peer()
        await again.open(network.environment("again"), other.address)
        began_s = asyncio.get_running_loop().time()
        await one.service.push(other.address, b"after", chunk(2), deadline_s=10)
        assert asyncio.get_running_loop().time() - began_s < 3
        assert again.kept == {b"after": chunk(2)}
        await again.close()

    simulate(story, loss=0.05)


def test_a_cancelled_push_ends_at_both_sides() -> None:
    async def story(one: Peer, other: Peer, network: Network) -> None:
        other.gate.clear()
        push = asyncio.ensure_future(one.service.push(other.address, b"x", chunk(1), deadline_s=60))
        await asyncio.sleep(2)
        push.cancel()
        with pytest.raises(asyncio.CancelledError):
            await push
        await asyncio.sleep(1)
        other.gate.set()
        assert not other.kept
        assert await one.service.push(other.address, b"y", chunk(2), deadline_s=60) == b"kept 200000"

    simulate(story, loss=0.1)


def test_a_slow_receiver_is_not_flooded() -> None:
    """Far more is pushed than the peer lets anybody make it hold, while its disk stands still."""

    async def story(one: Peer, other: Peer, network: Network) -> None:
        other.gate.clear()
        body = chunk(1, 1 << 20)
        pushes = [one.service.push(other.address, b"%d" % n, body, deadline_s=600) for n in range(40)]
        work = asyncio.gather(*pushes)
        await asyncio.sleep(30)
        assert network.counters.bytes_sent < 36 << 20
        other.gate.set()
        await work
        assert len(other.kept) == 40

    simulate(story, delay_s=(0.001, 0.001))


@asynccontextmanager
async def real_peers() -> Any:
    one, other = Peer(), Peer()
    for peer in (one, other):
        await peer.open(Environment(), ("127.0.0.1", 0))
    try:
        yield one, other
    finally:
        await one.close()
        await other.close()


async def test_over_real_sockets() -> None:
    async with real_peers() as (one, other):
        data = {b"%d" % n: chunk(n, 1_000_000) for n in range(8)}
        pushes = [one.service.push(other.address, name, body, deadline_s=20) for name, body in data.items()]
        await asyncio.gather(*pushes)
        assert other.kept == data
        pulls = [one.service.pull(other.address, name, size_max=1 << 20, deadline_s=20) for name in data]
        assert await asyncio.gather(*pulls) == list(data.values())
