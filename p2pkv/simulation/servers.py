"""Simulated peers of the swarm layer alone: routing and lookups, without records and files.

Owns nothing of the simulation itself. Hundreds of such peers run in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from p2pkv.simulation.simulation import Seat, Simulation
from p2pkv.swarm.identity import Identity
from p2pkv.swarm.lookup import Lookups
from p2pkv.swarm.server import PeerServer


class ServerPeer:
    """A peer of the swarm layer alone: routing and lookups, without records and files."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self.identity = Identity.generate(seat.env.random_bytes)
        self.server = PeerServer(seat.env, self.identity, ksize=seat.k, alpha=seat.alpha)

    @property
    def node_id(self) -> bytes:
        return self.identity.node_id

    @property
    def lookups(self) -> Lookups:
        return self.server.lookups

    async def start(self) -> None:
        await self.server.listen_on([self._seat.address])
        self.server.join(self._seat.bootstrap, None)

    async def wait_connected(self, timeout_s: float) -> None:
        await self.server.wait_connected(timeout_s)

    async def stop(self) -> None:
        await self.server.close()


class ServerSwarm(Simulation[ServerPeer]):
    """A swarm of routing and lookups alone: hundreds of peers in seconds."""

    def __init__(self, n: int, *, make_peer: Callable[[Seat], ServerPeer] = ServerPeer, **options: Any) -> None:
        super().__init__(n, make_peer, **options)
