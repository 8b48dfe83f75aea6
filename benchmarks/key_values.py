"""The key-value benchmark of one system at one size under one condition: prints a JSON object of its phases.

Layout, the same for every system: half of the peers live in each of two processes, both of which carry out half of
the operations at the same time, half of them in flight in each; what one process put, the other one reads. Where peers
die, they live in a third process, which is stopped: silent, not even a closed port answers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import network
from benchmarks.load import Budget, Phase
from benchmarks.measures import percentile
from benchmarks.rivals import ENTRIES

IN_FLIGHT = 32
QUIET_SHARE = 0.15  # of a core: joins and first refreshes, which go on after the call that started them, are over
QUIET_S = 1.0
SETTLE_S_MAX = 20.0
WARM = 10  # operations of each peer before anything is measured
JOIN_S = 60.0
DEADLINE_S = 40.0  # of one operation
ANSWER_BYTES_MAX = 16 << 20
CONDITIONS = {"plain": 0, "loss-5": 5, "loss-10": 10, "dead-30": 0}
DEAD_SHARE = 0.3


class Host:
    """A process with some of the peers, and what it is asked to do."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def hear(self) -> Any:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise SystemExit("a process of the benchmark ended before its time")
        return json.loads(line)

    async def load(self, kind: str, name: str, budget: Budget) -> dict[str, Any]:
        assert self._process.stdin is not None
        order = {"kind": kind, "name": name, "budget": asdict(budget)}
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        result: dict[str, Any] = await self.hear()
        return result

    def cpu_s(self) -> float:
        """The processor time that the process has taken, its threads together; 0 where the system does not tell."""
        stat = Path(f"/proc/{self._process.pid}/stat")
        if not stat.exists():
            return 0.0
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)


@asynccontextmanager
async def host(system: str, peers: int, known: Sequence[object]) -> AsyncIterator[Host]:
    """A process with so many peers; it is gone when the block ends."""
    command = [sys.executable, "-m", "benchmarks.rivals.host", system, str(peers), *map(str, known)]
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=ANSWER_BYTES_MAX)
    try:
        yield Host(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class Swarm:
    """A running swarm under load from two processes."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._hosts = hosts
        self.first_value_s: list[float] = []
        self._put: dict[str, list[int]] = {}  # how many of each name each process has put

    async def load(self, kind: str, name: str, count: int, launch_s: float) -> Phase:
        """So many operations, half from each process."""
        return await self._load(kind, name, [count // 2, count // 2], launch_s)

    async def get(self, name: str, launch_s: float) -> Phase:
        """Read what was put under a name, each process what the other one put."""
        return await self._load("get", name, self._put[name][::-1], launch_s)

    async def alone(self, kind: str, name: str, count: int, launch_s: float) -> Phase:
        """One operation at a time: puts from one process, gets from the other."""
        host = self._hosts[kind == "get"]
        return Phase.together([await host.load(kind, name, Budget(count, 1, launch_s, DEADLINE_S))])

    async def _load(self, kind: str, name: str, counts: list[int], launch_s: float) -> Phase:
        results = await asyncio.gather(
            *(
                host.load(
                    kind, f"{name}-{(index + (kind == 'get')) % 2}", Budget(count, IN_FLIGHT // 2, launch_s, DEADLINE_S)
                )
                for index, (host, count) in enumerate(zip(self._hosts, counts, strict=True))
            )
        )
        if kind == "put":
            self._put[name] = [len(result["latencies_s"]) for result in results]
        self.first_value_s += [value for result in results for value in result["first_value_s"]]
        return Phase.together(results)


async def measure_plain(swarm: Swarm, quick: bool) -> dict[str, Phase]:
    count, alone = (600, 100) if quick else (4000, 500)
    launch_s = 1.0 if quick else 2.5
    put = await swarm.load("put", "load", count, launch_s)
    put_alone = await swarm.alone("put", "alone", alone, launch_s)
    return {
        "put": put,
        "get": await swarm.get("load", launch_s),
        "lookup": await swarm.load("lookup", "load", count, launch_s),
        "put alone": put_alone,
        "get alone": await swarm.alone("get", "alone", len(put_alone.latencies_s), launch_s),
    }


async def measure_impaired(swarm: Swarm, quick: bool, condition: str, victim: Host | None) -> dict[str, Phase]:
    """What was put before is read, then new values are put."""
    count = 64 if quick else 320
    await swarm.load("put", "before", count, JOIN_S)
    if victim is not None:
        victim.freeze()
    else:
        network.drop_datagrams(CONDITIONS[condition])
    get = await swarm.get("before", 4.0)
    put = await swarm.load("put", "after", count, 4.0)
    return {"get": get, "put": put}


async def run(system: str, peers: int, condition: str, quick: bool) -> dict[str, object]:
    dying = round(peers * DEAD_SHARE) if condition == "dead-30" else 0
    shares = [peers - dying - (peers - dying) // 2, (peers - dying) // 2, *([dying] if dying else [])]
    async with AsyncExitStack() as stack:
        hosts: list[Host] = []
        known: list[object] = []
        for share in shares:
            hosts.append(await stack.enter_async_context(host(system, share, known)))
            address = await asyncio.wait_for(hosts[-1].hear(), JOIN_S)
            known = known or address
        swarm = Swarm(hosts[:2])
        await settle(swarm, hosts, peers)
        if condition == "plain":
            phases = await measure_plain(swarm, quick)
        else:
            phases = await measure_impaired(swarm, quick, condition, hosts[2] if dying else None)
    return summary(phases, swarm.first_value_s)


def summary(phases: dict[str, Phase], first_s: list[float]) -> dict[str, object]:
    result: dict[str, object] = {name: phase.summary() for name, phase in phases.items()}
    if first_s:
        result["first value"] = {"p50_s": percentile(first_s, 50), "p95_s": percentile(first_s, 95)}
    return result


async def settle(swarm: Swarm, hosts: Sequence[Host], peers: int) -> None:
    """Let the swarm form, and every peer carry out something, before anything is measured."""
    await quiet(hosts)
    await swarm.load("put", "warm", peers * WARM, JOIN_S)
    await swarm.get("warm", JOIN_S)
    await quiet(hosts)
    swarm.first_value_s.clear()


async def quiet(hosts: Sequence[Host]) -> None:
    """Wait until the processes rest, for so long at most."""
    deadline_s = time.monotonic() + SETTLE_S_MAX
    busy = True
    while busy and time.monotonic() < deadline_s:
        before_s = [host.cpu_s() for host in hosts]
        await asyncio.sleep(QUIET_S)
        busy = any(h.cpu_s() - b > QUIET_SHARE * QUIET_S for h, b in zip(hosts, before_s, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description="One system, one size, one condition; JSON on standard output.")
    parser.add_argument("system", choices=ENTRIES)
    parser.add_argument("peers", type=int)
    parser.add_argument("condition", choices=CONDITIONS)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    print(json.dumps(asyncio.run(run(options.system, options.peers, options.condition, options.quick))))


if __name__ == "__main__":
    main()
