"""Simulated peers that are complete: what users of p2pkv run, with its store in memory.

Owns how such a peer is made. Never decides anything of the simulation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from p2pkv.peer import Peer
from p2pkv.simulation.simulation import Seat, Simulation
from p2pkv.swarm.environment import Address


def whole_peer(seat: Seat) -> Peer:
    """A complete peer that keeps its store in memory."""
    return Peer(
        listen=[_text(seat.address)],
        bootstrap=[_text(address) for address in seat.bootstrap],
        k=seat.k,
        alpha=seat.alpha,
        store="memory",
        env=seat.env,
    )


class SimSwarm(Simulation[Peer]):
    """A swarm of complete peers in virtual time.

    `SimSwarm(50, seed=7, loss=0.05)` as a context manager, then `swarm.run(swarm.peers[3].put("k", b"v"))`.
    """

    def __init__(self, n: int, *, make_peer: Callable[[Seat], Peer] = whole_peer, **options: Any) -> None:
        super().__init__(n, make_peer, **options)


def _text(address: Address) -> str:
    return f"{address[0]}:{address[1]}"
