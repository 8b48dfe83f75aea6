"""A network of datagrams in memory: seeded loss, delay, reordering, duplication, partitions and silence.

Owns what happens to a datagram between two sockets, the counters of it, and a running hash of everything sent, by which
two runs are compared. Never looks into a datagram.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from p2pkv.swarm.environment import Address, Environment

DATAGRAM_BYTES_MAX = 65_507  # of UDP over IPv4
EPHEMERAL_PORTS_FROM = 49_152
EPOCH_S = 1_800_000_000.0  # wall time where virtual time begins; any fixed moment does


@dataclass
class Weather:
    """What the network does to datagrams. May be changed while it runs."""

    loss: float = 0.0  # the part of datagrams that never arrive
    delay_s: tuple[float, float] = (0.01, 0.05)  # one way, uniform; so datagrams overtake each other
    duplication: float = 0.0  # the part that arrive twice


@dataclass
class Counters:
    """Datagrams, all sockets together."""

    sent: int = 0
    delivered: int = 0
    lost: int = 0
    duplicated: int = 0
    cut_off: int = 0  # by a partition, a silenced address or one where nobody listens
    bytes_sent: int = 0


@dataclass
class Network:
    """Sockets and what lies between them."""

    loop: asyncio.AbstractEventLoop
    seed: int
    weather: Weather = field(default_factory=Weather)
    names: dict[str, list[str]] = field(default_factory=dict)  # host name -> addresses
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        self._rng = random.Random(f"network {self.seed}")  # noqa: S311 - reproducible by seed
        self._sockets: dict[Address, SimTransport] = {}
        self._silent: set[str] = set()
        self._group_of: dict[str, int] = {}
        self._everywhere: set[str] = set()
        self._trace = hashlib.blake2b(digest_size=16)

    # --- sockets ---

    async def open_socket(self, protocol: asyncio.DatagramProtocol, local: Address) -> asyncio.DatagramTransport:
        """Bind an address; port 0 takes a free one. Raises OSError where it is taken."""
        host, port = local
        address = (host, port or self._free_port(host))
        if address in self._sockets:
            raise OSError(98, f"address {host}:{port} is in use")
        transport = SimTransport(self, protocol, address)
        self._sockets[address] = transport
        self.loop.call_soon(protocol.connection_made, transport)
        return transport

    def _free_port(self, host: str) -> int:
        port = EPHEMERAL_PORTS_FROM
        while (host, port) in self._sockets:
            port += 1
        return port

    def release(self, address: Address) -> None:
        """Nobody listens at the address any more."""
        self._sockets.pop(address, None)

    async def resolve(self, host: str, port: int) -> list[Address]:
        """Names from the table; anything else is taken for an address. Raises OSError for a name without one."""
        if host in self.names:
            return [(address, port) for address in self.names[host]]
        if not host.replace(".", "").isdigit() and ":" not in host:
            raise OSError(f"no such host: {host}")
        return [(host, port)]

    def environment(self, seed: int | str) -> Environment:
        """The world of one peer: its own randomness, this network, virtual time."""
        rng = random.Random(f"peer {self.seed} {seed}")  # noqa: S311 - reproducible by seed
        return Environment(
            now_s=lambda: EPOCH_S + self.loop.time(),
            random_bytes=rng.randbytes,
            random=rng,
            open_socket=self.open_socket,
            resolve=self.resolve,
            simulated=True,
        )

    # --- faults ---

    def silence(self, host: str) -> None:
        """Nothing reaches or leaves the host any more."""
        self._silent.add(host)

    def restore(self, host: str) -> None:
        self._silent.discard(host)

    def partition(self, groups: Sequence[Collection[str]], *, but: Collection[str] = ()) -> None:
        """Hosts of different groups are cut off from each other, `but` from nobody; those of no group form one more."""
        self._everywhere = set(but)
        self._group_of = {host: number for number, group in enumerate(groups) for host in group}

    def heal(self) -> None:
        self._group_of = {}

    # --- datagrams ---

    @property
    def trace_hash(self) -> str:
        """Of all datagrams so far: when, from where, to where, what, and whether they were lost."""
        return self._trace.hexdigest()

    def send(self, data: bytes, source: Address, target: Address) -> None:
        """Take a datagram on its way."""
        counters, weather = self.counters, self.weather
        counters.sent += 1
        counters.bytes_sent += len(data)
        lost = self._rng.random() < weather.loss
        self._trace.update(f"{self.loop.time()!r} {source} {target} {lost} {len(data)} ".encode())
        self._trace.update(data)
        if source[0] in self._silent:
            counters.cut_off += 1
            return
        if lost:
            counters.lost += 1
            return
        self._carry(data, source, target)
        if weather.duplication and self._rng.random() < weather.duplication:
            counters.duplicated += 1
            self._carry(data, source, target)

    def _carry(self, data: bytes, source: Address, target: Address) -> None:
        self.loop.call_later(self._rng.uniform(*self.weather.delay_s), self._deliver, data, source, target)

    def _deliver(self, data: bytes, source: Address, target: Address) -> None:
        transport = self._sockets.get(target)
        if transport is None or not self._connected(source[0], target[0]):
            self.counters.cut_off += 1
            return
        self.counters.delivered += 1
        transport.protocol.datagram_received(data, source)

    def _connected(self, one: str, other: str) -> bool:
        if one in self._silent or other in self._silent:
            return False
        if one in self._everywhere or other in self._everywhere:
            return True
        return self._group_of.get(one, -1) == self._group_of.get(other, -1)


class SimTransport(asyncio.DatagramTransport):
    """One socket of the simulated network."""

    def __init__(self, network: Network, protocol: asyncio.DatagramProtocol, address: Address) -> None:
        super().__init__({"sockname": address})
        self.protocol = protocol
        self._network = network
        self._address = address
        self._closed = False

    def sendto(self, data: Any, addr: Any = None) -> None:
        """A datagram too large for UDP is an error of the protocol, as with a real socket."""
        if self._closed:
            return
        if len(data) > DATAGRAM_BYTES_MAX:
            self.protocol.error_received(OSError(90, "message too long"))
            return
        self._network.send(bytes(data), self._address, (addr[0], addr[1]))

    def get_protocol(self) -> asyncio.DatagramProtocol:
        return self.protocol

    def is_closing(self) -> bool:
        return self._closed

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._network.release(self._address)
            lost: Callable[[Exception | None], None] = self.protocol.connection_lost
            self._network.loop.call_soon(lost, None)

    def abort(self) -> None:
        self.close()
