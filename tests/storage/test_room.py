"""Room for what is under way: nobody overtakes, no place is lost."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from p2pkv.storage.room import Room


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 3))
def test_first_come_first_served_whoever_gives_up(gives_up: list[bool], places: int) -> None:
    async def run() -> list[int]:
        room, served = Room(places), list[int]()

        async def come(number: int) -> None:
            await room.enter()
            served.append(number)
            await asyncio.sleep(0)
            room.leave()

        for _ in range(places):
            await room.enter()
        tasks = [asyncio.create_task(come(number)) for number in range(len(gives_up))]
        await asyncio.sleep(0)
        for task, leaves in zip(tasks, gives_up, strict=True):
            if leaves:
                task.cancel()
        for _ in range(places):
            room.leave()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(places):  # all places are free again
            await asyncio.wait_for(room.enter(), 1)
        return served

    assert asyncio.run(run()) == [number for number, leaves in enumerate(gives_up) if not leaves]


async def test_who_gives_up_in_the_moment_of_its_turn_passes_it_on() -> None:
    room = Room(1)
    await room.enter()
    first, second = asyncio.create_task(room.enter()), asyncio.create_task(room.enter())
    await asyncio.sleep(0)
    room.leave()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await asyncio.wait_for(second, 1)
