"""Simulated peers that are complete: what users of p2pkv run, with its store in memory.

Owns how such a peer is made, how it dies and how it comes back. Never decides anything of the protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from p2pkv.peer import Peer
from p2pkv.simulation.simulation import Seat, Simulation
from p2pkv.storage.interface import Store
from p2pkv.storage.memory import MemoryStore
from p2pkv.swarm.environment import Address, Environment
from p2pkv.swarm.identity import Identity


@dataclass(frozen=True)
class SimHome:
    """What outlives a simulated process: its identity and its store."""

    identity: Identity
    store: Store

    @classmethod
    def new(cls, env: Environment) -> SimHome:
        return cls(Identity.generate(env.random_bytes), MemoryStore(env.now_s))


class SimPeer(Peer):
    """A complete peer that keeps its store in memory, and may be started anew on what a former run left."""

    def __init__(self, seat: Seat, home: SimHome | None = None) -> None:
        super().__init__(
            listen=[_text(seat.address)],
            bootstrap=[_text(address) for address in seat.bootstrap],
            k=seat.k,
            alpha=seat.alpha,
            store="memory",
            env=seat.env,
        )
        self.left = home or SimHome.new(seat.env)

    async def stop(self, *, graceful: bool = False) -> None:
        """A simulated peer goes without a word unless it is told otherwise: most of them end with their simulation."""
        await super().stop(graceful=graceful)

    def _open_home(self) -> Identity:
        return self.left.identity

    def _make_store(self) -> Store:
        return self.left.store


class SimSwarm(Simulation[SimPeer]):
    """A swarm of complete peers in virtual time.

    `SimSwarm(50, seed=7, loss=0.05)` as a context manager, then `swarm.run(swarm.peers[3].put("k", b"v"))`.
    """

    def __init__(self, n: int, *, make_peer: Callable[[Seat], SimPeer] = SimPeer, **options: Any) -> None:
        super().__init__(n, make_peer, **options)
        self.down: set[int] = set()  # peers whose process has ended
        self.gone: set[int] = set()  # peers that died for good

    @property
    def up(self) -> list[int]:
        """The peers whose process runs."""
        return [index for index in range(len(self.peers)) if index not in self.down | self.gone]

    def crash(self, index: int) -> None:
        """The peer's process ends without a word; what it acknowledged stays in its home."""
        self.run(self.crash_soon(index))

    async def crash_soon(self, index: int) -> None:
        """As `crash`, for a program that runs inside the virtual time."""
        self.kill(index)
        self.down.add(index)
        await self.peers[index].stop()

    async def replace_soon(self, index: int) -> int:
        """The peer dies for good, without a word, and a new one joins on an empty home; the newcomer's index."""
        self.kill(index)
        self.gone.add(index)
        await self.peers[index].stop()
        return await self.join_soon(bootstrap=self.up[:3])

    def leave(self, index: int) -> None:
        """The peer stops as its user would stop it."""
        self.run(self.leave_soon(index))

    async def leave_soon(self, index: int) -> None:
        """As `leave`, for a program that runs inside the virtual time."""
        self.down.add(index)
        await self.peers[index].stop(graceful=True)

    def restart(self, index: int, *, bootstrap: Sequence[int] | None = None, home_lost: bool = False) -> SimPeer:
        """A new process on the home that the last one left, or on an empty one; joins by these peers."""
        return self.run(self.restart_soon(index, bootstrap=bootstrap, home_lost=home_lost))

    async def restart_soon(
        self, index: int, *, bootstrap: Sequence[int] | None = None, home_lost: bool = False
    ) -> SimPeer:
        """As `restart`, for a program that runs inside the virtual time."""
        seat, former = self.seats[index], self.peers[index]
        known = self.up[:3] if bootstrap is None else bootstrap
        fresh = Seat(seat.env, seat.address, [self.seats[other].address for other in known], seat.k, seat.alpha)
        peer = SimPeer(fresh, None if home_lost else former.left)
        self.revive(index)
        self.down.discard(index)
        self.peers[index] = peer
        await self._start(peer)
        return peer


def _text(address: Address) -> str:
    return f"{address[0]}:{address[1]}"
