"""Blocks made by one task and sent by another, so that a slow maker's stream still gives signs of life.

Owns the buffer between them, which is bounded: a maker waits for a reader that is slower.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from p2pkv.limits import HTTP_BLOCK_BYTES

T = TypeVar("T")


@asynccontextmanager
async def closing(source: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Ends a source with the block, at once and not when it is collected: what it asks the peer for ends then."""
    try:
        yield source
    finally:
        if (close := getattr(source, "aclose", None)) is not None:
            await close()


class Pipe:
    """Use as a context: leaving it ends the makers, and with them what they were asking the peer for."""

    def __init__(self) -> None:
        self.count = 0  # blocks put in
        self.error: BaseException | None = None
        self._blocks: list[bytes] = []
        self._size_bytes = 0
        self._makers: set[asyncio.Task[None]] = set()
        self._ended = False
        self._filled = asyncio.Event()
        self._taken = asyncio.Event()

    async def __aenter__(self) -> Pipe:
        return self

    async def __aexit__(self, *_: object) -> None:
        for maker in self._makers:
            maker.cancel()
        await asyncio.gather(*self._makers, return_exceptions=True)

    def fill(self, source: AsyncIterator[bytes]) -> None:
        """Start a maker. The pipe ends when the first of its makers does."""
        self._makers.add(asyncio.create_task(self._fill(source)))

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more comes; what is in it already may still be taken."""
        if not self._ended:
            self._ended, self.error = True, error
        self._filled.set()

    async def filled(self) -> None:
        """Wait for the first block or the end."""
        await self._filled.wait()

    async def take(self, timeout_s: float) -> bytes | None:
        """All there is; empty after `timeout_s` without any, None at the end."""
        if not self._blocks and not self._ended:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._filled.wait()
        if not self._blocks:
            return None if self._ended else b""
        block = b"".join(self._blocks)
        self._blocks, self._size_bytes = [], 0
        if not self._ended:
            self._filled.clear()
        self._taken.set()
        return block

    async def _fill(self, source: AsyncIterator[bytes]) -> None:
        try:
            async with closing(source):
                async for block in source:
                    await self._put(block)
        except Exception as error:
            self.end(error)
        else:
            self.end()

    async def _put(self, block: bytes) -> None:
        while self._size_bytes > HTTP_BLOCK_BYTES:
            self._taken.clear()
            await self._taken.wait()
        self._blocks.append(block)
        self._size_bytes += len(block)
        self.count += 1
        self._filled.set()
