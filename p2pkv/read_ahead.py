"""Values that are put, read ahead of their writing, so that the writer knows how many are coming.

Owns the task that reads, and what it has read. It never waits for a source that has nothing yet: whoever takes values
gets each as soon as it is there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from types import TracebackType
from typing import Final

from p2pkv.limits import PUT_AHEAD_BYTES_MAX, PUT_AHEAD_RECORDS_MAX, PUT_AHEAD_TURN_S

_VALUES_A_LOOK: Final = 64  # read before the clock is looked at


class ReadAhead:
    """A source of values, and those that were read of it. A context manager: nothing of it outlives the block."""

    def __init__(self, source: AsyncGenerator[bytes]) -> None:
        self._source = source
        self._values: deque[bytes] = deque()
        self._size_bytes = 0
        self._failure: Exception | None = None
        self._ended = False
        self._came = asyncio.Event()
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> ReadAhead:
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def coming(self) -> int:
        """How many values have been read that nobody has taken yet."""
        return len(self._values)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """An error of the source comes behind all that it gave."""
        while not self._values:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                raise StopAsyncIteration
            self._came.clear()
            await self._came.wait()
        value = self._values.popleft()
        self._size_bytes -= len(value)
        if not self._filled(0.5):
            self._room.set()
        return value

    async def _read(self) -> None:
        try:
            async with aclosing(self._source):
                await self._read_all()
        except Exception as error:
            self._failure = error
        finally:
            self._ended = True
            self._came.set()

    async def _read_all(self) -> None:
        loop = asyncio.get_running_loop()
        turn_ends_s = loop.time() + PUT_AHEAD_TURN_S
        async for value in self._source:
            self._values.append(value)
            self._size_bytes += len(value)
            self._came.set()
            if self._filled(1.0):
                self._room.clear()
                await self._room.wait()
            elif len(self._values) % _VALUES_A_LOOK or loop.time() < turn_ends_s:
                continue
            else:
                await asyncio.sleep(0)
            turn_ends_s = loop.time() + PUT_AHEAD_TURN_S

    def _filled(self, share: float) -> bool:
        """Is so much of the room taken?"""
        records, size_bytes = len(self._values), self._size_bytes
        return records >= share * PUT_AHEAD_RECORDS_MAX or size_bytes >= share * PUT_AHEAD_BYTES_MAX
