"""Many records under one key: prints a JSON object of what was put, read and counted, and at what rate and memory.

Layout: the peers that hold the records live in two processes; all operations come from this one, whose peer keeps
nothing. `--records 1000000 --peers 20` is the measure of the project; smaller figures take less time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from p2pkv.peer import Peer, StoreKind

HOSTS = 2
KEY = "many"
SINGLE_PUTS = 200


def value(number: int) -> bytes:
    return b"%032d" % number


async def host(count: int, store: StoreKind, bootstrap: str) -> None:
    """Run peers until standard input ends; a line of it asks what they hold."""
    with tempfile.TemporaryDirectory(prefix="p2pkv-bench-") as folder:
        async with AsyncExitStack() as stack:
            peers: list[Peer] = []
            for number in range(count):
                home = Path(folder) / str(number) if store == "disk" else None
                known = [bootstrap] if bootstrap else [peers[0].address] if peers else []
                peer = Peer(home, listen=["127.0.0.1:0"], bootstrap=known, store=store)
                peers.append(await stack.enter_async_context(peer))
            print(peers[0].address, flush=True)
            reader = asyncio.StreamReader()
            await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
            while await reader.readline():
                print(json.dumps([await _facts(peer) for peer in peers]), flush=True)


async def _facts(peer: Peer) -> dict[str, Any]:
    status = await peer.status()
    names = ("pages_split", "records_moved", "records_mended", "requests_sent")
    counters = {name: status.counters.get(name, 0) for name in names}
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"records": status.records, "pages": status.keys, "process_mb": memory_mb, **counters}


async def start_hosts(peers: int, store: str) -> tuple[list[Process], str]:
    processes: list[Process] = []
    address = ""
    for number in range(HOSTS):
        count = peers // HOSTS + (number < peers % HOSTS)
        command = [sys.executable, "-m", "benchmarks.many_values", "--host", str(count), "--store", store]
        process = await asyncio.create_subprocess_exec(*command, "--bootstrap", address, stdin=PIPE, stdout=PIPE)
        processes.append(process)
        assert process.stdout is not None
        address = address or (await process.stdout.readline()).decode().strip()
        if number:
            await process.stdout.readline()
    return processes, address


async def facts(processes: list[Process]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for process in processes:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\n")
        found += json.loads(await process.stdout.readline())
    return found


async def measure(records: int, peers: int, store: str) -> dict[str, Any]:
    processes, address = await start_hosts(peers, store)
    try:
        client = Peer(listen=["127.0.0.1:0"], bootstrap=[address], ephemeral=True)
        async with client:
            await client.wait_connected()
            await asyncio.sleep(2.0)  # the swarm gets to know itself
            return {"records": records, "peers": peers, "store": store, **await phases(client, records, processes)}
    finally:
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        await asyncio.gather(*(process.wait() for process in processes))


async def phases(client: Peer, records: int, processes: list[Process]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    first = min(1000, records // 2)
    async for outcome in client.put_many(KEY, map(value, range(first))):
        assert outcome.reached
    result["put_ms_at_1000"] = await single_puts(client, "a")
    began_s = time.perf_counter()
    acknowledged = first
    async for outcome in client.put_many(KEY, map(value, range(first, records))):
        acknowledged += outcome.reached
    elapsed_s = time.perf_counter() - began_s
    result |= {"acknowledged": acknowledged, "written_per_s": round((records - first) / elapsed_s)}
    result["put_ms_at_end"] = await single_puts(client, "b")
    result["writer_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    result |= await reads(client, records, "while_moving")
    await quiet(processes)
    result |= await reads(client, records, "settled")
    result |= await counts(client)
    held = [peer["records"] for peer in await facts(processes)]
    result |= {"most_over_mean": round(max(held) * len(held) / sum(held), 2)}
    result["hosts"] = await facts(processes)
    return result


async def single_puts(client: Peer, mark: str) -> float:
    began_s = time.perf_counter()
    for number in range(SINGLE_PUTS):
        await client.put("other " + KEY if mark == "c" else KEY, b"%s%031d" % (mark.encode(), number))
    return round(1000 * (time.perf_counter() - began_s) / SINGLE_PUTS, 2)


async def reads(client: Peer, records: int, name: str) -> dict[str, Any]:
    wanted = {value(number) for number in range(records)}
    began_s = time.perf_counter()
    first_s = 0.0
    count = 0
    async for record in client.get(KEY):
        first_s = first_s or time.perf_counter() - began_s
        count += 1
        wanted.discard(record.value or b"")
    elapsed_s = time.perf_counter() - began_s
    return {
        f"read_{name}": count,
        f"missing_{name}": len(wanted),
        f"first_ms_{name}": round(1000 * first_s, 1),
        f"read_per_s_{name}": round(count / elapsed_s),
    }


async def counts(client: Peer) -> dict[str, Any]:
    took: list[float] = []
    for _ in range(2):
        began_s = time.perf_counter()
        count = await client.count(KEY)
        took.append(round(time.perf_counter() - began_s, 3))
    return {"count": count, "count_s": took}


async def quiet(processes: list[Process]) -> None:
    """Wait until nothing is moved any more."""
    before = -1
    async for moved in _moved(processes):
        if moved == before:
            return
        before = moved


async def _moved(processes: list[Process]) -> AsyncIterator[int]:
    for _ in range(60):
        yield sum(peer["records_moved"] for peer in await facts(processes))
        await asyncio.sleep(4.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--peers", type=int, default=20)
    parser.add_argument("--store", choices=["disk", "memory"], default="disk")
    parser.add_argument("--host", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--bootstrap", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        import uvloop

        run = uvloop.run
    except ImportError:
        run = asyncio.run
    if options.host:
        run(host(options.host, options.store, options.bootstrap))
    else:
        print(json.dumps(run(measure(options.records, options.peers, options.store)), indent=1))


if __name__ == "__main__":
    main()
