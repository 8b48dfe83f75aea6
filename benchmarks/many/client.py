"""A client in a process of its own: `python -m benchmarks.many.client DELAY_MS ADDRESS...`.

Its peer keeps nothing and is nobody's replica. The process holds no set of what it expects: one bit a record tells
what is missing, so its memory is that of the client.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from benchmarks.many.line import Line
from benchmarks.many.processes import Answer, peak_mb, run, serve
from benchmarks.many.updates import Updates
from benchmarks.many.values import Tally, value_of
from benchmarks.measures import median, percentile
from p2pkv.core.pages import place_of_page
from p2pkv.errors import P2pkvError
from p2pkv.peer import Peer
from p2pkv.swarm.environment import Environment

RESUMES_MAX = 20
READ_S_MAX = 900.0
UNCLEAR_TOLD_MAX = 10_000
WARM_PUTS = 10  # of each key, that are not measured


class Client:
    """The orders that a client carries out."""

    def __init__(self, peer: Peer, line: Line) -> None:
        self._peer = peer
        self._line = line

    async def put_many(self, key: str, start: int, stop: int) -> Answer:
        """Put these numbers; those that were not acknowledged may be there or not. Where it fails, it ends there."""
        began_s, number, unclear, error = time.perf_counter(), start, list[int](), ""
        try:
            async for outcome in self._peer.put_many(key, map(value_of, range(start, stop))):
                if not outcome.reached:
                    unclear.append(number)
                number += 1
        except P2pkvError as failure:
            error = str(failure)
        elapsed_s = time.perf_counter() - began_s
        acknowledged = number - start - len(unclear)
        under_way = range(number, min(stop, number + UNCLEAR_TOLD_MAX))  # empty where all went well
        return {
            "acknowledged": acknowledged,
            "per_s": round(acknowledged / elapsed_s),
            "error": error,
            "stopped_at": under_way.stop,
            "unclear": [*unclear[:UNCLEAR_TOLD_MAX], *under_way],
        }

    async def put_in_turn(self, few: list[str], few_from: int, many: str, many_from: int, count: int) -> Answer:
        """Single puts, one after the other, now to a key of few records and now to the key of many: the machine's
        other work befalls both alike."""
        few_s, many_s = list[float](), list[float]()
        for step in range(-WARM_PUTS, count):
            number = step + WARM_PUTS
            one_s = await self._put_one(few[number % len(few)], few_from + number)
            other_s = await self._put_one(many, many_from + number)
            if step >= 0:
                few_s.append(one_s)
                many_s.append(other_s)
        return {
            "put": WARM_PUTS + count,
            "few_ms": round(1000 * median(few_s), 3),
            "many_ms": round(1000 * median(many_s), 3),
            "few_p95_ms": round(1000 * percentile(few_s, 95), 3),
            "many_p95_ms": round(1000 * percentile(many_s, 95), 3),
            "ratio": round(median(many_s) / median(few_s), 3),
        }

    async def _put_one(self, key: str, number: int) -> float:
        began_s = time.perf_counter()
        await self._peer.put(key, value_of(number))
        return time.perf_counter() - began_s

    async def read(self, key: str, count: int, unclear: list[int]) -> Answer:
        """The whole key: all of the numbers below `count`, but the unclear ones, must come once each and in order."""
        tally, began_s, first_s, told = Tally(count), time.perf_counter(), float("nan"), list[str]()
        cursor: str | None = None
        complete = False
        while not complete and len(told) <= RESUMES_MAX:
            try:
                async with asyncio.timeout(READ_S_MAX):
                    async for record in self._peer.get(key, after=cursor):
                        if not tally.returned:
                            first_s = time.perf_counter() - began_s
                        tally.note(record.value)
                        cursor = record.cursor
                complete = True
            except (P2pkvError, TimeoutError) as error:
                told.append(f"{type(error).__name__}: {error}")
        elapsed_s = time.perf_counter() - began_s
        missing = count - tally.distinct - sum(not tally.has(number) for number in unclear)
        return {
            "complete": complete,
            "interruptions": len(told),
            "first_error": told[0] if told else "",
            "returned": tally.returned,
            "missing": missing,
            "percent": round(100 * (1 - missing / count), 6),
            "doubled": tally.doubled,
            "foreign": tally.foreign,
            "out_of_order": tally.out_of_order,
            "first_ms": round(1000 * first_s, 1),
            "per_s": round(tally.returned / elapsed_s),
        }

    async def count(self, key: str) -> Answer:
        """`count`, and what it cost on the wire."""
        requests, line = self._requests(), self._line
        sent, received, began_s = line.sent_bytes, line.received_bytes, time.perf_counter()
        try:
            count = await self._peer.count(key)
        except P2pkvError as error:
            return {"count": -1, "error": str(error)}
        return {
            "count": count,
            "ms": round(1000 * (time.perf_counter() - began_s), 1),
            "requests": self._requests() - requests,
            "bytes": line.sent_bytes - sent + line.received_bytes - received,
        }

    async def pages(self, key: str) -> Answer:
        """Where the key's pages lie, as far as this client has read."""
        leaves = self._peer.node.writer.tree(key.encode()).leaves()
        return {"places": [place_of_page(key.encode(), page).hex() for page in leaves]}

    def _requests(self) -> int:
        return self._peer.node.counters().get("requests_sent", 0)

    async def memory(self) -> Answer:
        return {"mb": peak_mb()}


async def client(delay_s: float, addresses: list[str]) -> None:
    line = Line(delay_s)
    env = Environment(open_socket=line.open_socket)
    async with Peer(listen=["127.0.0.1:0"], bootstrap=addresses, ephemeral=True, env=env) as peer:
        await peer.wait_connected()
        orders = Client(peer, line)
        names = ("put_many", "put_in_turn", "read", "count", "pages", "memory")
        table: dict[str, Any] = {name: getattr(orders, name) for name in names}
        updates = Updates(peer)
        table |= {name: getattr(updates, name) for name in ("put_steadily", "watch", "watched")}
        await serve((await orders.memory())["mb"], table)


def main() -> None:
    delay_ms, *addresses = sys.argv[1:]
    run(client(float(delay_ms) / 1000, addresses))


if __name__ == "__main__":
    main()
