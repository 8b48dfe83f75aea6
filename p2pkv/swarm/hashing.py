"""Hashing chunks beside the event loop: all that wait are hashed in one thread's turn.

A chunk's hash takes a tenth of a millisecond and the way to a thread and back as long; a loop and threads that take
turns too often spend their time on waiting for each other. Under load the turns grow longer instead of more.

Owns what waits to be hashed.
"""

from __future__ import annotations

import asyncio

from p2pkv.ids import Bytes, ChunkID, chunk_id_of
from p2pkv.limits import BULK_SHORT_BYTES


class ThreadHasher:
    """Computes the ids of chunks in a thread, one turn at a time."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Bytes, asyncio.Future[ChunkID]]] = []
        self._busy = False

    async def __call__(self, data: Bytes) -> ChunkID:
        if len(data) <= BULK_SHORT_BYTES:
            return chunk_id_of(data)  # some microseconds: no thread is worth it
        future: asyncio.Future[ChunkID] = asyncio.get_running_loop().create_future()
        self._waiting.append((data, future))
        if not self._busy:
            self._turn()
        return await future

    def _turn(self) -> None:
        """Hash what waits, if anything does."""
        turn, self._waiting = self._waiting, []
        self._busy = bool(turn)
        if turn:
            datas = [data for data, _ in turn]
            done = asyncio.get_running_loop().run_in_executor(None, _hash_all, datas)
            done.add_done_callback(lambda done: self._settle(turn, done))

    def _settle(self, turn: list[tuple[Bytes, asyncio.Future[ChunkID]]], done: asyncio.Future[list[ChunkID]]) -> None:
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        for index, (_, future) in enumerate(turn):
            if future.done():
                continue
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(done.result()[index])
        self._turn()


async def hash_at_once(data: Bytes) -> ChunkID:
    """In a simulation, where threads would make the order of things a matter of chance."""
    return chunk_id_of(data)


def _hash_all(datas: list[Bytes]) -> list[ChunkID]:
    return [chunk_id_of(data) for data in datas]
