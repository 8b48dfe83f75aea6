"""The orders of a client that puts at a steady rate, and of one that watches: what was told, how often and how late."""

from __future__ import annotations

import asyncio
import time

from benchmarks.many.processes import Answer
from benchmarks.many.values import Tally, value_of
from benchmarks.measures import percentile
from p2pkv.errors import P2pkvError
from p2pkv.peer import Peer

BEGIN_S_MAX = 10.0
PUTS_AT_ONCE_MAX = 512  # beyond it the writer falls behind its rate, and says so


class Updates:
    """One client's part in it."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._tally = Tally(0)
        self._late_s: list[float] = []
        self._task: asyncio.Task[None] | None = None

    async def put_steadily(self, key: str, start: int, stop: int, per_s: float, batch: int) -> Answer:
        """Puts of so many records, each begun at its time, whatever the answers take."""
        slots, unclear, began_s = asyncio.Semaphore(PUTS_AT_ONCE_MAX), list[int](), time.perf_counter()

        async def put(numbers: range) -> None:
            try:
                unclear.extend(await self._put(key, numbers))
            except P2pkvError:
                unclear.extend(numbers)
            finally:
                slots.release()

        async with asyncio.TaskGroup() as group:
            for number in range(start, stop, batch):
                ahead_s = (number - start) / per_s - (time.perf_counter() - began_s)
                if ahead_s > 0:
                    await asyncio.sleep(ahead_s)
                await slots.acquire()
                group.create_task(put(range(number, min(number + batch, stop))))
        elapsed_s = time.perf_counter() - began_s
        return {"unclear": unclear, "per_s": round((stop - start) / elapsed_s), "seconds": round(elapsed_s, 2)}

    async def _put(self, key: str, numbers: range) -> list[int]:
        """Those that were not acknowledged."""
        if len(numbers) == 1:
            await self._peer.put(key, value_of(numbers[0]))
            return []
        outcomes = [outcome async for outcome in self._peer.put_many(key, map(value_of, numbers))]
        return [number for number, outcome in zip(numbers, outcomes, strict=True) if not outcome.reached]

    async def watch(self, key: str, count: int) -> Answer:
        """Begin to watch numbers below `count`; returns when the watch has its leases."""
        self._tally, self._late_s = Tally(count), []
        self._task = asyncio.create_task(self._watch(key))
        deadline_s = time.monotonic() + BEGIN_S_MAX
        while not any(watch.begun for watch in self._peer.node.watching.watches) and time.monotonic() < deadline_s:
            await asyncio.sleep(0.05)
        return {}

    async def _watch(self, key: str) -> None:
        async for record in self._peer.watch(key):
            self._tally.note(record.value)
            self._late_s.append(time.time() - record.time)  # one machine, one clock

    async def watched(self, unclear: list[int], within_s: float) -> Answer:
        """What was told by the time that all is told, or that the time is over."""
        assert self._task is not None
        tally, deadline_s = self._tally, time.monotonic() + within_s
        while self._missed(unclear) and time.monotonic() < deadline_s and not self._task.done():
            await asyncio.sleep(0.2)
        await asyncio.sleep(2.0)  # whatever would come twice
        ended = f"{self._task.exception()}" if self._task.done() else ""
        self._task.cancel()
        return {
            "told": tally.returned,
            "missed": self._missed(unclear),
            "doubled": tally.doubled,
            "foreign": tally.foreign,
            "late_ms_p50": round(1000 * percentile(self._late_s, 50), 1),
            "late_ms_p95": round(1000 * percentile(self._late_s, 95), 1),
            "late_ms_most": round(1000 * max(self._late_s, default=float("nan")), 1),
            "error": ended,
        }

    def _missed(self, unclear: list[int]) -> int:
        return self._tally.count - self._tally.distinct - sum(not self._tally.has(number) for number in unclear)
