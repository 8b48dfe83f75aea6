"""Values read ahead of their writing: in order, bounded, never waited for, and with their error behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pkv.limits import PUT_AHEAD_BYTES_MAX, PUT_AHEAD_RECORDS_MAX
from p2pkv.read_ahead import ReadAhead
from p2pkv.simulation.loop import VirtualLoop


class Source:
    """Values that come at once but where it is told to pause, and how many have been taken of them."""

    def __init__(self, values: Iterable[bytes], pauses: Iterable[int] = (), error: Exception | None = None) -> None:
        self.taken = 0
        self.closed = False
        self._values = values
        self._pauses = set(pauses)
        self._error = error

    async def values(self) -> AsyncGenerator[bytes]:
        try:
            for value in self._values:
                if self.taken in self._pauses:
                    await asyncio.sleep(1.0)
                self.taken += 1
                yield value
            if self._error is not None:
                raise self._error
        finally:
            self.closed = True


def run_virtual(work: Coroutine[Any, Any, None]) -> None:
    loop = VirtualLoop()
    try:
        loop.run_until_complete(work)
    finally:
        loop.close()


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@given(st.lists(st.binary(max_size=8), max_size=40), st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)))
def test_all_values_come_in_order_whatever_pauses_the_source_and_the_taker(
    values: list[bytes], pauses: set[int], rests: set[int]
) -> None:
    async def take() -> None:
        got = list[bytes]()
        async with ReadAhead(Source(values, pauses).values()) as ahead:
            async for value in ahead:
                if len(got) in rests:
                    await asyncio.sleep(0.7)
                got.append(value)
            assert ahead.coming() == 0
        assert got == values

    run_virtual(take())


@pytest.mark.parametrize(
    ("value", "most"), [(b"v", PUT_AHEAD_RECORDS_MAX), (bytes(1 << 20), PUT_AHEAD_BYTES_MAX >> 20)]
)
def test_what_is_read_ahead_is_bounded_and_known(value: bytes, most: int) -> None:
    async def take() -> None:
        source = Source(value for _ in range(4 * most))
        async with ReadAhead(source.values()) as ahead:
            await turns()
            assert source.taken == ahead.coming() == most
            for taken in range(1, most):
                assert await anext(ahead) == value
                await turns(1)
                assert source.taken - taken == ahead.coming() <= most
            await turns()
            assert source.taken > most
        assert source.closed

    run_virtual(take())


def test_a_value_is_given_out_though_the_next_is_not_there_yet() -> None:
    async def take() -> None:
        async with ReadAhead(Source([b"a", b"b"], pauses=[1]).values()) as ahead:
            began_s = asyncio.get_running_loop().time()
            assert await anext(ahead) == b"a"
            assert asyncio.get_running_loop().time() == began_s
            assert await anext(ahead) == b"b"

    run_virtual(take())


def test_an_error_of_the_source_comes_behind_what_it_gave() -> None:
    async def take() -> None:
        got = list[bytes]()
        async with ReadAhead(Source([b"a", b"b"], error=OSError("the pipe broke")).values()) as ahead:
            await turns()
            with pytest.raises(OSError, match="the pipe broke"):
                async for value in ahead:
                    got.append(value)
        assert got == [b"a", b"b"]

    run_virtual(take())


def test_who_leaves_early_leaves_no_task_and_no_open_source() -> None:
    async def take() -> None:
        source = Source(iter(lambda: b"v", b""))
        async with ReadAhead(source.values()) as ahead:
            assert await anext(ahead) == b"v"
        assert source.closed
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(take())
