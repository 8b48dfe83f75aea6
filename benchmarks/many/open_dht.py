"""OpenDHT with the same number of values under one key: what it acknowledged, and what a reader then got.

`python -m benchmarks.many.open_dht HOST PORT` is a client in a process of its own; its nodes live in processes of
`benchmarks.rivals.host`. In memory, limits on requests lifted; a put is acknowledged, and a get is done, when OpenDHT
calls back.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import opendht

from benchmarks.many.processes import START_S_MAX, Answer, Worker, serve, worker
from benchmarks.many.swarm import shares_of
from benchmarks.many.values import Tally, value_of
from benchmarks.rivals.open_dht import UNLIMITED_PER_S, Done

IN_FLIGHT = 64
SETTLE_S = 5.0


class Client:
    """The orders that a client carries out."""

    def __init__(self) -> None:
        config = opendht.DhtConfig()
        config.setRateLimit(UNLIMITED_PER_S, UNLIMITED_PER_S)
        self._node = opendht.DhtRunner()
        self._node.run(port=0, ipv4="127.0.0.1", config=config)

    def join(self, host: str, port: str) -> None:
        self._node.bootstrap(host, port)

    async def put_many(self, key: str, count: int, seconds_max: float) -> Answer:
        """Put numbers, many at a time, for so long at most."""
        place, began_s = opendht.InfoHash.get(key), time.perf_counter()
        acknowledged = list[int]()

        async def put(number: int) -> None:
            done = Done()
            self._node.put(place, opendht.Value(value_of(number)), done_cb=done)
            if await done.future:
                acknowledged.append(number)

        async def work(numbers: Iterator[int]) -> None:
            for number in numbers:
                await put(number)

        numbers = iter(range(count))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds_max):
                await asyncio.gather(*(work(numbers) for _ in range(IN_FLIGHT)))
        elapsed_s = time.perf_counter() - began_s
        tried = next(numbers, count)
        return {
            "tried": tried,
            "acknowledged": len(acknowledged),
            "put_s": round(elapsed_s, 1),
            "per_s": round(len(acknowledged) / elapsed_s),
        }

    async def read(self, key: str, count: int, seconds_max: float) -> Answer:
        """One get of the whole key, until OpenDHT calls it done."""
        tally, done = Tally(count), Done()
        began_s, first_s = time.perf_counter(), list[float]()

        def on_value(value: Any) -> bool:
            if not first_s:
                first_s.append(time.perf_counter() - began_s)
            tally.note(bytes(value.data))
            return True

        self._node.get(opendht.InfoHash.get(key), get_cb=on_value, done_cb=done)
        told = "never done"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds_max):
                told = "done" if await done.future else "failed"
        elapsed_s = time.perf_counter() - began_s
        return {
            "returned": tally.distinct,
            "first_ms": round(1000 * first_s[0], 1) if first_s else None,
            "read_s": round(elapsed_s, 1),
            "read_per_s": round(tally.distinct / elapsed_s),
            "told": told,
        }


@asynccontextmanager
async def nodes(peers: int, count: int) -> AsyncIterator[tuple[list[Worker], list[object]]]:
    """OpenDHT nodes in so many processes, and the address of one."""
    async with AsyncExitStack() as stack:
        workers: list[Worker] = []
        known: list[object] = []
        for share in shares_of(peers, count):
            workers.append(await stack.enter_async_context(worker("benchmarks.rivals.host", "opendht", share, *known)))
            known = known or await asyncio.wait_for(workers[-1].hear(), START_S_MAX)
        await asyncio.sleep(SETTLE_S)
        yield workers, known


async def measure(records: int, peers: int, hosts: int, seconds_max: float, faults: Sequence[Any]) -> Answer:
    """Put and read; `faults` are called in between, with the processes that hold nodes."""
    module = "benchmarks.many.open_dht"
    async with (
        nodes(peers, hosts) as (workers, known),
        worker(module, *known) as writer,
        worker(module, *known) as reader,
    ):
        await asyncio.gather(writer.hear(), reader.hear())
        await asyncio.sleep(SETTLE_S)
        put = await writer.ask("put_many", key="many", count=records, seconds_max=seconds_max)
        for fault in faults:
            fault(workers)
        read = await reader.ask("read", key="many", count=records, seconds_max=seconds_max)
        return put | read


async def client(host: str, port: str) -> None:
    orders = Client()
    orders.join(host, port)
    await serve("ready", {"put_many": orders.put_many, "read": orders.read})


if __name__ == "__main__":
    asyncio.run(client(*sys.argv[1:]))
