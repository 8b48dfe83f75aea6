"""A whole swarm in one process and in virtual time: the same code as on real sockets, on a simulated network.

Owns the peers, their addresses and the faults that befall them. Two swarms of one seed do the same, to the last byte.
"""

from __future__ import annotations

from asyncio import all_tasks, current_task, gather, sleep
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from p2pkv.limits import ALPHA_DEFAULT, K_DEFAULT
from p2pkv.simulation.loop import VirtualLoop
from p2pkv.simulation.network import Network, Weather
from p2pkv.swarm.environment import Address, Environment

PORT = 8468
JOIN_INTERVAL_S = 0.05  # between two peers that join one after the other
JOIN_TIMEOUT_S = 300.0

T = TypeVar("T")


@dataclass(frozen=True)
class Seat:
    """Where a simulated peer lives, and how it joins."""

    env: Environment
    address: Address
    bootstrap: list[Address]
    k: int
    alpha: int


class SimulatedPeer(Protocol):
    """What the simulation asks of a peer."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def wait_connected(self, timeout_s: float) -> None: ...


P = TypeVar("P", bound=SimulatedPeer)


class Simulation(Generic[P]):
    """A swarm of any kind of peer. Its methods run the virtual time; between them it stands still."""

    def __init__(
        self,
        n: int,
        make_peer: Callable[[Seat], P],
        *,
        seed: int = 0,
        loss: float = 0.0,
        delay_s: tuple[float, float] = (0.01, 0.05),
        duplication: float = 0.0,
        k: int = K_DEFAULT,
        alpha: int = ALPHA_DEFAULT,
    ) -> None:
        self.loop = VirtualLoop()
        self.network = Network(self.loop, seed, Weather(loss, delay_s, duplication))
        self.peers: list[P] = []
        self.seats: list[Seat] = []
        self._make_peer = make_peer
        self._k, self._alpha = k, alpha
        self._size = n
        self._started: list[P] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- life ---

    def start(self) -> None:
        """Let all peers join by the first, one after the other, and wait until each is connected."""
        for _ in range(self._size):
            self._seat_peer()
        self.run(self._start_all())

    async def _start_all(self) -> None:
        for peer in self.peers:
            await self._start(peer)
            await sleep(JOIN_INTERVAL_S)
        if len(self.peers) > 1:
            await gather(*(peer.wait_connected(JOIN_TIMEOUT_S) for peer in self.peers))

    async def _start(self, peer: P) -> None:
        await peer.start()
        self._started.append(peer)

    def add_peer(self, *, bootstrap: Sequence[int] = (0,), wait_s: float | None = JOIN_TIMEOUT_S) -> P:
        """A newcomer that joins by these peers. Waits until it is connected; `wait_s=None` does not wait."""
        peer = self._seat_peer(bootstrap)
        self.run(self._start(peer))
        if wait_s is not None:
            self.run(peer.wait_connected(wait_s))
        return peer

    async def join_soon(self, *, bootstrap: Sequence[int]) -> int:
        """As `add_peer`, for a program that runs inside the virtual time, without waiting; the newcomer's index."""
        await self._start(self._seat_peer(bootstrap))
        return len(self.peers) - 1

    def close(self) -> None:
        """Stop all peers and forget what is still in flight."""
        self.run(self._stop_all())
        self.loop.close()

    async def _stop_all(self) -> None:
        await gather(*(peer.stop() for peer in self._started))
        left = all_tasks() - {current_task()}
        assert not left, f"tasks that their owners left running: {left}"

    def _seat_peer(self, bootstrap: Sequence[int] = (0,)) -> P:
        number = len(self.peers)
        known = [self.seats[index].address for index in bootstrap if index < number]
        seat = Seat(self.network.environment(number), (host_of(number), PORT), known, self._k, self._alpha)
        self.seats.append(seat)
        self.peers.append(self._make_peer(seat))
        return self.peers[-1]

    # --- time ---

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Let time pass until this is done, and return what it returns."""
        return self.loop.run_until_complete(work)

    def run_for(self, *, seconds: float = 0.0, minutes: float = 0.0, hours: float = 0.0) -> None:
        """Let time pass."""
        self.run(sleep(seconds + 60 * minutes + 3600 * hours))

    @property
    def now_s(self) -> float:
        """Virtual seconds since the swarm was made."""
        return self.loop.time()

    @property
    def trace_hash(self) -> str:
        """Of every datagram so far: equal for two runs of one seed."""
        return self.network.trace_hash

    # --- faults ---

    def kill(self, index: int) -> None:
        """The peer falls silent: nothing reaches or leaves it."""
        self.network.silence(self.seats[index].address[0])

    def revive(self, index: int) -> None:
        """It is back, with what it knew."""
        self.network.restore(self.seats[index].address[0])

    def partition(self, groups: Sequence[Sequence[int]], *, but: Sequence[int] = ()) -> None:
        """Cut the swarm into these groups; peers of none form one more. Those of `but` reach everybody."""
        cut = [{self.seats[index].address[0] for index in group} for group in groups]
        self.network.partition(cut, but={self.seats[index].address[0] for index in but})

    def heal(self) -> None:
        """End the partition."""
        self.network.heal()


def host_of(number: int) -> str:
    """An address in a network of its own for each of the first 50,000 peers: as peers of the Internet have."""
    return f"{11 + number % 200}.{number // 200 % 250}.{number * 37 % 256}.{1 + number % 250}"
