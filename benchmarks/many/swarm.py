"""The measured swarm: its processes, the third of them that is killed, and waiting until nothing moves any more.

Owns the processes that hold peers. Measures nothing but activity.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from benchmarks.many.processes import START_S_MAX, Answer, Worker, worker
from p2pkv.ids import NodeID, Place, distance
from p2pkv.limits import K_DEFAULT

QUIET_WINDOW_S = 2.0
QUIET_WINDOWS = 3  # one after the other, in which nothing was brought anywhere
QUIET_CPU_SHARE = 0.01  # of a core, a peer
SETTLE_S_MAX = 60.0


class Quiet(NamedTuple):
    """How the wait ended."""

    seconds: float
    reached: bool


class Hosts:
    """Processes with peers in them."""

    def __init__(self, workers: Sequence[Worker], shares: Sequence[int], addresses: Sequence[Any]) -> None:
        self._workers = dict(zip(workers, shares, strict=True))
        self.addresses = list(addresses)
        self._ids: dict[Worker, list[NodeID]] = {}

    @property
    def peers(self) -> int:
        return sum(self._workers.values())

    def kill_a_third(self) -> int:
        """SIGKILL processes until at least a third of the peers are gone; how many are."""
        alive = self.peers
        for victim, share in list(self._workers.items())[::-1]:
            if 3 * (alive - self.peers) < alive and len(self._workers) > 1:
                victim.kill()
                del self._workers[victim]
                assert share
        return alive - self.peers

    async def learn_ids(self) -> None:
        """Who lives in which process, for `fewest_left`."""
        ids = [[NodeID(bytes.fromhex(node_id)) for node_id in answer["ids"]] for answer in await self.ask("ids")]
        self._ids = dict(zip(self._workers, ids, strict=True))

    def fewest_left(self, places: Sequence[str]) -> int:
        """Of the page that lost most of its replicas: how many of them live."""
        every = [node_id for ids in self._ids.values() for node_id in ids]
        live = {node_id for worker in self._workers for node_id in self._ids[worker]}
        nearest = (
            sorted(every, key=lambda node_id: distance(node_id, place))[:K_DEFAULT]
            for place in map(Place, map(bytes.fromhex, places))
        )
        return min(sum(node_id in live for node_id in replicas) for replicas in nearest)

    async def ask(self, order: str, **arguments: Any) -> list[Answer]:
        return await asyncio.gather(*(worker.ask(order, **arguments) for worker in self._workers))

    async def quiet(self, seconds_max: float) -> Quiet:
        """Wait until no record is brought anywhere and the processes rest, for so long at most."""
        began_s = time.monotonic()
        before, calm = await self._activity(), 0
        while calm < QUIET_WINDOWS:
            if time.monotonic() - began_s > seconds_max:
                return Quiet(round(time.monotonic() - began_s, 1), False)
            await asyncio.sleep(QUIET_WINDOW_S)
            now = await self._activity()
            rests = now[1] - before[1] <= QUIET_CPU_SHARE * QUIET_WINDOW_S * self.peers
            calm = calm + 1 if rests and now[0] == before[0] else 0
            before = now
        return Quiet(round(time.monotonic() - began_s, 1), True)

    async def _activity(self) -> tuple[list[Answer], float]:
        return await self.ask("activity"), sum(worker.cpu_s() for worker in self._workers)


def shares_of(peers: int, hosts: int) -> list[int]:
    """Peers to each process, the fullest last: those are killed first."""
    hosts = min(hosts, peers)
    return [(peers + number) // hosts for number in range(hosts)]


@asynccontextmanager
async def hosts(peers: int, count: int, store: str) -> AsyncIterator[Hosts]:
    """A swarm of so many peers in so many processes, settled."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="p2pkv-bench-"))
        workers: list[Worker] = []
        addresses: list[Any] = []
        shares = shares_of(peers, count)
        for number, share in enumerate(shares):
            arguments = (share, store, Path(folder) / str(number), *addresses[:1])
            workers.append(await stack.enter_async_context(worker("benchmarks.many.host", *arguments)))
            addresses.append(await asyncio.wait_for(workers[-1].hear(), START_S_MAX))
        swarm = Hosts(workers, shares, addresses)
        await swarm.quiet(SETTLE_S_MAX)
        await swarm.learn_ids()
        yield swarm
