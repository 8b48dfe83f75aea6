"""The key-value benchmark of one system at one size under one condition: prints a JSON object of its phases.

Layout, the same for every system: the peers live in two processes; all operations come from the one that this is, from
its peers in turn, and a value is read by another peer than the one that put it, one that does not hold it where that
can be known.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from benchmarks import network
from benchmarks.load import Budget, Phase, apply
from benchmarks.measures import percentile
from benchmarks.rivals import ENTRIES
from benchmarks.rivals.base import Rival

IN_FLIGHT = 32
VALUE_BYTES = 100
SETTLE_S = 1.0  # joins and first refreshes go on after the call that started them
JOIN_S = 60.0
DEADLINE_S = 12.0  # of one operation
CONDITIONS = {"plain": 0, "loss-5": 5, "loss-10": 10, "dead-30": 0}
DEAD_SHARE = 0.3


class Bench:
    """Operations on one running swarm."""

    def __init__(self, rival: Rival, peers: int) -> None:
        self._rival = rival
        self._peers = peers

    def value(self, key: str) -> bytes:
        return key.encode().ljust(VALUE_BYTES, b".")

    async def put(self, key: str, number: int) -> bool:
        return await self._rival.put(number % self._peers, key, self.value(key))

    async def get(self, key: str, number: int) -> bool:
        return await self._rival.get(self._reader(key, number), key) == self.value(key)

    async def look_up(self, key: str, number: int) -> bool:
        """A get of a key that nobody put is a lookup and nothing else."""
        return await self._rival.get(number % self._peers, key) is None

    def _reader(self, key: str, number: int) -> int:
        others = [(number + step) % self._peers for step in range(1, self._peers)]
        return next((peer for peer in others if not self._rival.holds(peer, key)), others[0])

    async def puts(self, name: str, budget: Budget) -> Phase:
        return await apply(lambda number: self.put(f"{name}-{number}", number), budget)

    async def gets(self, name: str, budget: Budget) -> Phase:
        return await apply(lambda number: self.get(f"{name}-{number}", number), budget)

    async def lookups(self, name: str, budget: Budget) -> Phase:
        return await apply(lambda number: self.look_up(f"absent-{name}-{number}", number), budget)


def budget(count: int, *, in_flight: int = IN_FLIGHT, launch_s: float = 5.0) -> Budget:
    return Budget(count, in_flight, launch_s, DEADLINE_S)


async def measure_plain(bench: Bench, quick: bool) -> dict[str, Phase]:
    count, alone = (300, 40) if quick else (1000, 150)
    launch_s = 1.0 if quick else 2.5
    phases = {"put": await bench.puts("load", budget(count, launch_s=launch_s))}
    phases["get"] = await bench.gets("load", budget(phases["put"].count, launch_s=launch_s))
    phases["lookup"] = await bench.lookups("load", budget(count, launch_s=launch_s))
    phases["put alone"] = await bench.puts("alone", budget(alone, in_flight=1, launch_s=launch_s))
    phases["get alone"] = await bench.gets("alone", budget(phases["put alone"].count, in_flight=1, launch_s=launch_s))
    return phases


async def measure_impaired(bench: Bench, quick: bool, impair: Callable[[], None]) -> dict[str, Phase]:
    """What was put before is read, then new values are put."""
    count = 64 if quick else 192
    await bench.puts("before", budget(count))
    impair()
    get = await bench.gets("before", budget(count, launch_s=4.0))
    put = await bench.puts("after", budget(count, launch_s=4.0))
    return {"get": get, "put": put}


@asynccontextmanager
async def other_process(system: str, count: int, address: tuple[str, int]) -> AsyncIterator[Process]:
    """The rest of the swarm, in a process of its own; it is gone when the block ends."""
    command = [sys.executable, "-m", "benchmarks.rivals.host", system, str(count), address[0], str(address[1])]
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), JOIN_S)
        if line.strip() != b"ready":
            raise RuntimeError(f"the second process of {system} did not start")
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def run(system: str, peers: int, condition: str, quick: bool) -> dict[str, object]:
    rival = ENTRIES[system].make()
    others = round(peers * DEAD_SHARE) if condition == "dead-30" else peers // 2
    address = await rival.start(peers - others, None)
    async with other_process(system, others, address) as process:
        bench = Bench(rival, peers - others)
        await settle(bench, peers - others)
        rival.first_value_s.clear()
        if condition == "plain":
            phases = await measure_plain(bench, quick)
        else:
            phases = await measure_impaired(bench, quick, impairment(condition, process))
    result: dict[str, object] = {name: phase.summary() for name, phase in phases.items()}
    if rival.first_value_s:
        first = rival.first_value_s
        result["first value"] = {"count": len(first), "p50_s": percentile(first, 50), "p95_s": percentile(first, 95)}
    return result


async def settle(bench: Bench, here: int) -> None:
    """Let the swarm form, and every peer here carry out something, before anything is measured."""
    await asyncio.sleep(SETTLE_S)
    await bench.puts("warm", budget(here * 2))
    await bench.gets("warm", budget(here * 2))


def impairment(condition: str, process: Process) -> Callable[[], None]:
    """What makes the network or the swarm worse, at once."""
    if condition == "dead-30":
        return lambda: process.send_signal(signal.SIGSTOP)  # silent: not even a closed port answers
    return lambda: network.drop_datagrams(CONDITIONS[condition])


def main() -> None:
    parser = argparse.ArgumentParser(description="One system, one size, one condition; JSON on standard output.")
    parser.add_argument("system", choices=ENTRIES)
    parser.add_argument("peers", type=int)
    parser.add_argument("condition", choices=CONDITIONS)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    work = run(options.system, options.peers, options.condition, options.quick)
    if ENTRIES[options.system].make().uvloop:
        import uvloop

        result = uvloop.run(work)
    else:
        result = asyncio.run(work)
    print(json.dumps(result), flush=True)
    sys.stdout.flush()
    os._exit(0)  # the peers need no farewell: their whole network ends with this process


if __name__ == "__main__":
    main()
