"""Upkeep: prints a JSON object of what comparing costs, and of how quickly a newcomer gets its share.

Layout: the peers that hold the records live in another process, the newcomer in this one; both watch how long their
event loops stall. `--records 20000 --items 1000000` are the measures of the project.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from p2pkv.core.reconciliation import CELL_BYTES, ITEM_BYTES, Inventory, Walk, item_of
from p2pkv.peer import Peer
from p2pkv.storage.interface import Store

PUTS_AT_ONCE = 64
RECORD_BYTES = 200  # on the wire: key, name, value of 32 bytes, author, signature and heads
PARTS_HEAD_BYTES = 4
DEADLINE_S = 120.0


class Stalls:
    """The longest that the event loop did not turn."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            began_s = time.perf_counter()
            await asyncio.sleep(0.001)
            self.longest_s = max(self.longest_s, time.perf_counter() - began_s - 0.001)

    def stop(self) -> float:
        self._task.cancel()
        return self.longest_s


# --- comparing ---


def inventory_of(items: list[bytes]) -> Inventory:
    cells: dict[bytes, list[bytes]] = {}
    for item in items:
        cells.setdefault(item[:CELL_BYTES], []).append(item)
    inventory = Inventory()
    for cell, held in cells.items():
        inventory.set_cell(cell, held)
    return inventory


def compare(count: int, differing: float) -> dict[str, Any]:
    """One replica lacks a part of a set of records: the bytes that find it and bring it, beside those of all."""
    draw = random.Random(1)
    items = [item_of(draw.randbytes(20), b"") for _ in range(count)]
    missing = draw.sample(items, int(count * differing))
    whole, lacking = inventory_of(items), inventory_of(sorted(set(items) - set(missing)))
    began_s, walk, found, size_bytes = time.process_time(), Walk(lacking, [b""]), set[bytes](), 0
    while questions := walk.questions():
        parts = [whole.answer(*question) for question in questions]
        found |= set(walk.take(questions, parts))
        size_bytes += sum(len(prefix) + len(digest) + PARTS_HEAD_BYTES for prefix, digest in questions)
        size_bytes += sum(len(part.data) + PARTS_HEAD_BYTES for part in parts)
    assert found == set(missing)
    moved_bytes = size_bytes + len(missing) * (RECORD_BYTES + ITEM_BYTES)
    return {
        "items": count,
        "differing": len(missing),
        "compare_bytes": size_bytes,
        "repair_bytes": moved_bytes,
        "part_of_full_transfer": round(moved_bytes / (count * RECORD_BYTES), 4),
        "cpu_s": round(time.process_time() - began_s, 2),
    }


# --- a newcomer ---


async def host(peers: int, records: int) -> None:
    """Run peers that hold records; say so, and at a line of standard input say how long the loop stalled since."""
    with tempfile.TemporaryDirectory(prefix="p2pkv-bench-") as folder:
        async with AsyncExitStack() as stack:
            started: list[Peer] = []
            for number in range(peers):
                known = [started[0].address] if started else []
                peer = Peer(Path(folder) / str(number), listen=["127.0.0.1:0"], bootstrap=known)
                started.append(await stack.enter_async_context(peer))
            await fill(started[0], records)
            await asyncio.sleep(10.0)  # the inventories follow
            stalls = Stalls()
            print(started[0].address, flush=True)
            reader = asyncio.StreamReader()
            await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
            await reader.readline()
            print(json.dumps(stalls.stop()), flush=True)


async def fill(peer: Peer, records: int) -> None:
    slots = asyncio.Semaphore(PUTS_AT_ONCE)

    async def put(number: int) -> None:
        async with slots:
            await peer.put(f"key {number}", b"%032d" % number, acks="all")

    await asyncio.gather(*(put(number) for number in range(records)))


async def join(records: int, peers: int) -> dict[str, Any]:
    """How long a newcomer with an empty store takes to hold all records."""
    command = [sys.executable, "-m", "benchmarks.upkeep", "--host", str(peers), "--records", str(records)]
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    address = (await process.stdout.readline()).decode().strip()
    with tempfile.TemporaryDirectory(prefix="p2pkv-bench-") as folder:
        stalls, began_s = Stalls(), time.perf_counter()
        async with Peer(Path(folder), listen=["127.0.0.1:0"], bootstrap=[address]) as peer:
            await wait_for(peer.node.store, records)
            took_s, stall_s = time.perf_counter() - began_s, stalls.stop()
            process.stdin.write(b"\n")
            host_stall_s = json.loads(await process.stdout.readline())
    process.stdin.close()
    await process.wait()
    return {
        "records": records,
        "newcomer_s": round(took_s, 2),
        "newcomer_stall_ms": round(1000 * stall_s, 1),
        "others_stall_ms": round(1000 * host_stall_s, 1),
    }


async def wait_for(store: Store, records: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while store.usage().records < records:
            await asyncio.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--peers", type=int, default=3)
    parser.add_argument("--host", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.host:
        asyncio.run(host(options.host, options.records))
        return
    figures = {"comparing": compare(options.items, 0.01), "joining": asyncio.run(join(options.records, options.peers))}
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
