"""Puts that run side by side: few go apart, the rest together, and each caller hears of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from p2pkv.errors import UnreachableError
from p2pkv.limits import PUTS_APART_MAX
from p2pkv.swarm import gathering as gathering_module
from p2pkv.swarm.gathering import Gathering
from p2pkv.testing import SimSwarm


class Work:
    """Carries out what it is given when it is let; the last digit of a number is its outcome."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, list[int]]] = []
        self.go_on = asyncio.Semaphore(0)
        self.failing: set[int] = set()

    async def __call__(self, line: str, items: Sequence[int]) -> list[int]:
        self.begun.append((line, list(items)))
        await self.go_on.acquire()
        if self.failing & set(items):
            raise ValueError(f"one of {items}")
        return [item % 10 for item in items]

    def let(self, count: int) -> None:
        for _ in range(count):
            self.go_on.release()

    async def settled(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)


async def test_few_go_apart_and_the_rest_together_in_their_order() -> None:
    work = Work()
    gathering = Gathering(work)
    tasks = [asyncio.create_task(gathering.do("key", number)) for number in range(100)]
    other = asyncio.create_task(gathering.do("another key", 7))
    await work.settled()
    apart = [("key", [number]) for number in range(PUTS_APART_MAX)]
    assert work.begun == [*apart, ("another key", [7])]
    work.let(1)
    await work.settled()
    assert work.begun[-1] == ("key", list(range(PUTS_APART_MAX, 100)))
    work.let(100)
    assert await asyncio.gather(*tasks) == [number % 10 for number in range(100)]
    assert await other == 7
    assert len(work.begun) == PUTS_APART_MAX + 2
    assert not gathering._lines, "nothing is remembered"


async def test_a_failure_befalls_those_that_went_together() -> None:
    work = Work()
    gathering = Gathering(work)
    work.failing = {0, 50}
    tasks = [asyncio.create_task(gathering.do("key", number)) for number in range(60)]
    await work.settled()
    work.let(100)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes[0], ValueError)
    assert outcomes[1:PUTS_APART_MAX] == list(range(1, PUTS_APART_MAX))
    assert all(isinstance(outcome, ValueError) for outcome in outcomes[PUTS_APART_MAX:])
    assert await gathering.do("key", 3) == 3, "and nobody behind them"


async def test_who_gives_up_while_it_waits_is_left_out_and_holds_nobody_up() -> None:
    work = Work()
    gathering = Gathering(work)
    tasks = [asyncio.create_task(gathering.do("key", number)) for number in range(PUTS_APART_MAX + 4)]
    await work.settled()
    tasks[0].cancel()  # under way: what waits goes out in its place
    tasks[PUTS_APART_MAX + 1].cancel()
    await work.settled()
    assert work.begun[-1] == ("key", [PUTS_APART_MAX, PUTS_APART_MAX + 2, PUTS_APART_MAX + 3])
    tasks[PUTS_APART_MAX].cancel()  # the others of its batch go on
    work.let(100)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    cancelled = {index for index, outcome in enumerate(outcomes) if isinstance(outcome, asyncio.CancelledError)}
    assert cancelled == {0, PUTS_APART_MAX, PUTS_APART_MAX + 1}
    assert not gathering._lines


async def test_many_who_give_up_keep_nobody_behind_them_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering_module, "BATCH_RECORDS_MAX", 5)
    work = Work()
    gathering = Gathering(work)
    tasks = [asyncio.create_task(gathering.do("key", number)) for number in range(PUTS_APART_MAX + 30)]
    await work.settled()
    for task in tasks[PUTS_APART_MAX : PUTS_APART_MAX + 20]:
        task.cancel()
    work.let(100)
    assert await asyncio.gather(*tasks[-10:]) == [number % 10 for number in range(PUTS_APART_MAX + 20, len(tasks))]
    assert max(len(items) for _, items in work.begun) == 5


async def test_who_waits_is_told_that_the_peer_stops() -> None:
    work = Work()
    gathering = Gathering(work)
    tasks = [asyncio.create_task(gathering.do("key", number)) for number in range(PUTS_APART_MAX + 4)]
    await work.settled()
    tasks[0].cancel()
    await work.settled()
    await gathering.close()
    for task in tasks[PUTS_APART_MAX:]:
        with pytest.raises(UnreachableError, match="stops"):
            await task


def test_a_thousand_puts_at_once_cost_few_messages_and_each_is_acknowledged() -> None:
    async def put(swarm: SimSwarm, count: int) -> None:
        puts = (swarm.peers[0].put("k", b"%d" % number, name=f"{number}") for number in range(count))
        assert all(outcome.reached for outcome in await asyncio.gather(*puts))
        held = {record.name: record.value async for record in swarm.peers[7].get("k")}
        assert held == {f"{number}": b"%d" % number for number in range(count)}

    with SimSwarm(12, seed=4) as swarm:
        swarm.run_for(seconds=20)
        before = swarm.peers[0].node.counters()["requests_sent"]
        swarm.run(put(swarm, 1000))
        sent = swarm.peers[0].node.counters()["requests_sent"] - before
        assert sent < 1000, "eight replicas for each, and all together fewer requests than puts"
