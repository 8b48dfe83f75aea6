"""The world that a peer lives in: clock, randomness and datagrams. Real by default, simulated in `p2pkv.testing`.

Everything in `swarm/`, `files/` and `peer.py` takes time and randomness from here (and monotonic time from
`asyncio.get_running_loop().time()`), so that the same code runs in virtual time and reproducibly by seed.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

Address = tuple[str, int]
"""Host (numeric) and port. IPv6 addresses without scope and flow."""

OpenSocket = Callable[[asyncio.DatagramProtocol, Address], Awaitable[asyncio.DatagramTransport]]
Resolve = Callable[[str, int], Awaitable[list[Address]]]


async def resolve(host: str, port: int) -> list[Address]:
    """Every numeric address of a host name. Raises OSError where it has none."""
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    return list(dict.fromkeys((str(info[4][0]), int(info[4][1])) for info in infos))


async def open_plain_socket(protocol: asyncio.DatagramProtocol, local: Address) -> asyncio.DatagramTransport:
    """An ordinary UDP endpoint of the running loop."""
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: protocol, local_addr=local)
    return transport


@dataclass(frozen=True)
class Environment:
    """What the outside world gives a peer."""

    now_s: Callable[[], float] = time.time  # seconds since the epoch
    random_bytes: Callable[[int], bytes] = os.urandom
    random: random.Random = field(default_factory=random.SystemRandom)
    open_socket: OpenSocket = open_plain_socket
    resolve: Resolve = resolve
    simulated: bool = False
