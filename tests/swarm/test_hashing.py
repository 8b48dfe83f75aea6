"""Chunks are hashed beside the loop, each caller getting its own; who gives up harms nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import random

from p2pkv.ids import chunk_id_of
from p2pkv.limits import BULK_SHORT_BYTES
from p2pkv.swarm.hashing import ThreadHasher


def chunks(count: int) -> list[bytes]:
    rng = random.Random(count)
    return [rng.randbytes(rng.choice([10, BULK_SHORT_BYTES, BULK_SHORT_BYTES + 1, 200_000])) for _ in range(count)]


async def test_everybody_gets_the_id_of_their_own_chunk() -> None:
    hasher, datas = ThreadHasher(), chunks(60)
    assert await asyncio.gather(*map(hasher, datas)) == [chunk_id_of(data) for data in datas]
    assert await hasher(memoryview(datas[0])) == chunk_id_of(datas[0])


async def test_one_that_is_cancelled_does_not_stop_the_others() -> None:
    hasher, datas = ThreadHasher(), [bytes([n]) * 300_000 for n in range(20)]
    tasks = [asyncio.ensure_future(hasher(data)) for data in datas]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    for number, task in enumerate(tasks):
        with contextlib.suppress(asyncio.CancelledError):
            assert await task == chunk_id_of(datas[number])
    assert [task.cancelled() for task in tasks] == [number % 2 == 0 for number in range(20)]
    assert await hasher(datas[3]) == chunk_id_of(datas[3])
