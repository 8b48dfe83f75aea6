"""What loss and death cost a put or get, in virtual time: bounds on the 95th percentile, and nothing wrong or missing.

The network answers within 2 ms, as on one machine or a LAN, so what is seen is time-outs and nothing else.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from p2pkv.peer import Peer
from p2pkv.simulation.swarm import SimSwarm
from tests.seeds import seeds

PEERS = 20
OPERATIONS = 200
IN_FLIGHT = 8
DELAY_S = (0.0002, 0.001)
VALUE = b"v" * 100

Operation = Callable[[int], Awaitable[bool]]


class Load:
    """Puts and gets from the living peers of a swarm by turns; a get comes from another peer than the put."""

    def __init__(self, swarm: SimSwarm, living: list[Peer]) -> None:
        self.swarm = swarm
        self.living = living

    async def put(self, number: int) -> bool:
        return (await self.living[number % len(self.living)].put(f"key {number}", VALUE)).reached

    async def put_some(self, number: int) -> bool:
        """Ten records to one key, together, by a peer that knows who holds it."""
        values = [b"%d" % value for value in range(10)]
        return all([outcome.reached async for outcome in self.living[0].put_many("some", values)])

    async def get(self, number: int) -> bool:
        reader = self.living[(7 * number + 3) % len(self.living)]
        return [record.value async for record in reader.get(f"key {number}")] == [VALUE]

    def p95_s(self, operation: Operation, numbers: range) -> float:
        """Every operation must be right."""
        return self.swarm.run(self._p95_s(operation, numbers))

    async def _p95_s(self, operation: Operation, numbers: range) -> float:
        times_s: list[float] = []
        loop, left = asyncio.get_running_loop(), iter(numbers)

        async def worker() -> None:
            for number in left:
                began_s = loop.time()
                assert await operation(number), f"operation {number} went wrong"
                times_s.append(loop.time() - began_s)

        async with asyncio.TaskGroup() as workers:
            for _ in range(IN_FLIGHT):
                workers.create_task(worker())
        return sorted(times_s)[len(times_s) * 95 // 100]


def swarm_of(seed: int) -> SimSwarm:
    return SimSwarm(PEERS, seed=seed, delay_s=DELAY_S)


@pytest.mark.parametrize("seed", seeds([1], [2]))
@pytest.mark.parametrize(("loss", "put_s", "get_s"), [(0.05, 0.03, 0.03), (0.1, 0.05, 0.05)])
def test_loss_costs_a_few_resends_and_nothing_else(loss: float, put_s: float, get_s: float, seed: int) -> None:
    with swarm_of(seed) as swarm:
        swarm.run_for(seconds=20)
        swarm.network.weather.loss = loss
        load = Load(swarm, swarm.peers)
        assert load.p95_s(load.put, range(OPERATIONS)) <= put_s
        assert load.p95_s(load.get, range(OPERATIONS)) <= get_s
        swarm.network.weather.loss = 0.0


@pytest.mark.parametrize("seed", seeds([1], [2]))
def test_loss_costs_a_small_batch_no_more_than_a_put(seed: int) -> None:
    """So much is lost that many batches have no quorum before something is sent again."""
    with swarm_of(seed) as swarm:
        swarm.run_for(seconds=20)
        load = Load(swarm, swarm.peers)
        load.p95_s(load.put_some, range(OPERATIONS))
        swarm.network.weather.loss = 0.2
        assert load.p95_s(load.put_some, range(OPERATIONS)) <= 0.2
        swarm.network.weather.loss = 0.0


@pytest.mark.parametrize("seed", seeds([1], [2, 3]))
def test_a_third_of_the_peers_silently_dead_costs_at_first_a_tenth_of_a_second(seed: int) -> None:
    """Measured at once, before anybody knows who is dead: and then again, when it is known."""
    with swarm_of(seed) as swarm:
        swarm.run_for(seconds=20)
        load = Load(swarm, swarm.peers)
        load.p95_s(load.put, range(OPERATIONS))
        dead = set(random.Random(seed).sample(range(PEERS), 6))
        for index in dead:
            swarm.kill(index)
        load.living = [peer for index, peer in enumerate(swarm.peers) if index not in dead]
        assert load.p95_s(load.get, range(OPERATIONS)) <= 0.1, "nothing is gone"
        assert load.p95_s(load.put, range(OPERATIONS, 2 * OPERATIONS)) <= 0.12
        swarm.run_for(seconds=10)
        assert load.p95_s(load.put, range(2 * OPERATIONS, 3 * OPERATIONS)) <= 0.01
        assert load.p95_s(load.get, range(3 * OPERATIONS)) <= 0.01
