"""A simulated network for tests of the swarm layer: our servers, stock ones, and bare sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from kademlia.network import Server
from kademlia.storage import ForgetfulStorage

from p2pkv.simulation.loop import VirtualLoop
from p2pkv.simulation.network import Network, Weather
from p2pkv.swarm.environment import Address
from p2pkv.swarm.identity import Identity
from p2pkv.swarm.server import PeerServer

T = TypeVar("T")
PORT = 8468


class Socket(asyncio.DatagramProtocol):
    """A bare socket: keeps what it gets, sends what it is told."""

    def __init__(self) -> None:
        self.got: list[tuple[bytes, Address]] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.got.append((data, addr))


class Rig:
    """One network in virtual time."""

    def __init__(self, seed: int = 1) -> None:
        self.loop = VirtualLoop()
        self.network = Network(self.loop, seed, Weather(delay_s=(0.01, 0.02)))
        self.servers: list[PeerServer] = []
        self.stocks: list[Server] = []
        self.broken: list[dict[str, Any]] = []  # what reached the loop's exception handler
        self.loop.set_exception_handler(lambda _, context: self.broken.append(context))

    def run(self, work: Awaitable[T] | Callable[[], Awaitable[T]]) -> T:
        """Let time pass until this is done; a function is called inside the loop, as the library's calls must be."""

        async def main() -> T:
            return await (work() if callable(work) else work)

        return self.loop.run_until_complete(main())

    def sleep(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @property
    def now_s(self) -> float:
        return self.loop.time()

    def ours(self, host: str, *, bootstrap: list[Address] | None = None, k: int = 8, **options: Any) -> PeerServer:
        """A peer of ours. It joins only where `bootstrap` is given."""
        env = self.network.environment(f"{host} {len(self.servers)}")

        async def start() -> PeerServer:
            server = PeerServer(env, Identity.generate(env.random_bytes), ksize=k, **options)
            await server.listen_on([(host, PORT)])
            if bootstrap is not None:
                server.join(bootstrap)
            return server

        self.servers.append(self.run(start()))
        return self.servers[-1]

    def stock(self, host: str, *, k: int = 20, node_id: bytes | None = None, storage: Any = None) -> Server:
        """A stock kademlia server, as the library makes it, on a simulated socket."""

        async def start() -> Server:
            server = Server(k, 3, node_id, storage)
            server.protocol = server._create_protocol()
            server.transport = await self.network.open_socket(server.protocol, (host, PORT))
            await asyncio.sleep(0)
            return server

        self.stocks.append(self.run(start()))
        return self.stocks[-1]

    def socket(self, host: str, port: int = PORT) -> Socket:
        async def start() -> Socket:
            socket = Socket()
            await self.network.open_socket(socket, (host, port))
            await asyncio.sleep(0)
            return socket

        return self.run(start())

    def meet(self, one: PeerServer, other: PeerServer) -> Any:
        """`one` makes the other its contact."""
        return self.run(one.protocol.greet_address(other.bound[0]))

    def close(self) -> None:
        async def stop() -> None:
            await asyncio.gather(*(server.close() for server in self.servers))
            for server in self.stocks:
                server.stop()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            if not self.stocks:
                assert not left, f"tasks left running: {left}"
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

        self.run(stop())
        self.loop.close()


def storage_of(count: int) -> ForgetfulStorage:
    """A stock store with `count` values, under places as the library keeps them."""
    storage = ForgetfulStorage()
    for number in range(count):
        storage[number.to_bytes(20, "big")] = f"value {number}"
    return storage
