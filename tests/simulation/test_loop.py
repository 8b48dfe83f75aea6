"""Virtual time jumps, keeps its order, and says so when nothing can ever happen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from p2pkv.simulation.loop import StalledError, VirtualLoop


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    yield loop
    loop.close()


def test_an_hour_passes_at_once(loop: VirtualLoop) -> None:
    began_s = time.monotonic()
    loop.run_until_complete(asyncio.sleep(3600))
    assert loop.time() == pytest.approx(3600)
    assert time.monotonic() - began_s < 1


def test_timers_fire_in_their_order(loop: VirtualLoop) -> None:
    fired: list[tuple[str, float]] = []

    async def after(delay_s: float, name: str) -> None:
        await asyncio.sleep(delay_s)
        fired.append((name, round(loop.time(), 6)))

    async def main() -> None:
        await asyncio.gather(after(3, "c"), after(1, "a"), after(2, "b"), after(100_000.1, "d"))

    loop.run_until_complete(main())
    assert fired == [("a", 1), ("b", 2), ("c", 3), ("d", 100_000.1)]


def test_timeouts_are_virtual_too(loop: VirtualLoop) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.sleep(61)

    loop.run_until_complete(main())
    assert loop.time() == pytest.approx(60)


def test_a_program_that_can_never_go_on_is_told(loop: VirtualLoop) -> None:
    async def main() -> None:
        await asyncio.sleep(5)
        await loop.create_future()

    with pytest.raises(StalledError, match=r"5\.000 s"):
        loop.run_until_complete(main())


def test_work_for_threads_is_done_at_once_and_its_errors_come_back(loop: VirtualLoop) -> None:
    async def main() -> tuple[int, str]:
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        return await asyncio.to_thread(sum, [1, 2]), await loop.run_in_executor(None, str, 7)

    assert loop.run_until_complete(main()) == (3, "7")
    assert loop.time() == 0


def test_tasks_that_end_together_come_in_the_order_of_their_beginning(loop: VirtualLoop) -> None:
    async def main() -> list[int]:
        tasks = {asyncio.create_task(asyncio.sleep(1, number)): number for number in range(20)}
        done, _ = await asyncio.wait(tasks)
        return [tasks[task] for task in done]

    assert loop.run_until_complete(main()) == list(range(20))
