"""Coroutines that are begun without a task: what they bring, wait for and raise."""

from __future__ import annotations

import asyncio

import pytest

from p2pkv.swarm.eager import Begun


async def _at_once() -> str:
    return "result"


async def _failing() -> None:
    raise ValueError("at once")


async def _behind(*futures: asyncio.Future[int]) -> int:
    total = 0
    for future in futures:
        try:
            total += await future
        except ValueError:
            total += 100
    return total


async def test_one_that_waits_for_nothing_is_done_at_once() -> None:
    begun = Begun(_at_once())
    assert (begun.done, begun.result) == (True, "result")


async def test_what_the_first_step_raises_is_raised() -> None:
    with pytest.raises(ValueError, match="at once"):
        Begun(_failing())


async def test_the_rest_goes_on_in_a_task_with_results_and_errors() -> None:
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in range(3)]
    begun = Begun(_behind(*futures))
    assert not begun.done

    async def rest() -> int:
        total: int = await begun
        return total

    task = asyncio.create_task(rest())
    futures[0].set_result(1)
    await asyncio.sleep(0)
    futures[1].set_exception(ValueError())
    futures[2].set_result(10)
    assert await task == 111


async def test_a_cancelled_task_ends_the_coroutine() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append("ended")

    begun = Begun(work())

    async def rest() -> None:
        await begun

    task = asyncio.create_task(rest())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["ended"]


async def test_one_that_is_given_up_is_closed() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append("ended")

    Begun(work()).close()
    assert ended == ["ended"]
