"""One value, some, many, a great quantity under one key: put by one peer, read by another, and what it took.

A client apart from the store: it uses the public interface of p2pkv alone. Without an address it starts a swarm of its
own on this machine; with `--bootstrap HOST:PORT` it joins yours as a peer that stores nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from p2pkv import Peer
from p2pkv.errors import P2pkvError
from p2pkv.testing import Swarm

PEERS = 12
SCENARIOS = {"one": 1, "some": 20, "many": 2_000, "a great quantity": 20_000}
VALUE_BYTES = 32


def value(number: int) -> bytes:
    return b"value %d" % number + b"." * (VALUE_BYTES - len(b"value %d" % number))


def say(text: str) -> None:
    print(text, flush=True)


class Watch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began_s = time.perf_counter()

    @property
    def s(self) -> float:
        return time.perf_counter() - self._began_s


async def put(peer: Peer, key: str, count: int) -> int:
    """Put that many records; how many were acknowledged by a majority of their replicas."""
    if count == 1:
        return int((await peer.put(key, value(0))).reached)
    return sum([outcome.reached async for outcome in peer.put_many(key, (value(number) for number in range(count)))])


async def read(peer: Peer, key: str, watch: Watch) -> tuple[list[bytes | None], float]:
    """All values in the order in which they were put, and when the first came."""
    values: list[bytes | None] = []
    first_s = 0.0
    async for record in peer.get(key):
        first_s = first_s or watch.s
        values.append(record.value)
    return values, first_s


async def resume(peer: Peer, key: str, step: int) -> int:
    """Read in pages, each behind the cursor of the last; how many records came altogether."""
    total, cursor = 0, None
    while True:
        page = [record async for record in peer.get(key, after=cursor, limit=step)]
        if not page:
            return total
        total, cursor = total + len(page), page[-1].cursor


async def play(name: str, count: int, writer: Peer, reader: Peer) -> bool:
    """One scenario; whether every record came back, once and in order."""
    key = f"scenario/{name}/{secrets.token_hex(4)}"
    say(f"\n{name}: {count} record{'s' if count > 1 else ''} of {VALUE_BYTES} bytes under one key")
    watch = Watch()
    acknowledged = await put(writer, key, count)
    say(f"  put    {acknowledged} acknowledged in {watch.s:.2f} s ({acknowledged / watch.s:.0f}/s)")
    watch = Watch()
    values, first_s = await read(reader, key, watch)
    say(f"  get    {len(values)} in {watch.s:.2f} s, the first after {1000 * first_s:.0f} ms, complete")
    watch = Watch()
    newest = [record.value async for record in reader.get(key, reverse=True, limit=3)]
    say(f"  newest {len(newest)} in {1000 * watch.s:.0f} ms")
    watch = Watch()
    counted = await reader.count(key)
    say(f"  count  {counted} in {1000 * watch.s:.0f} ms, without the values")
    resumed = await resume(reader, key, max(1, count // 4))
    say(f"  again  {resumed} in pages of {max(1, count // 4)}, each behind the cursor of the last")
    expected = [value(number) for number in range(count)]
    right = values == expected and newest == expected[::-1][:3] and counted == resumed == acknowledged == count
    say("  all there, each once, oldest first" if right else "  NOT what was put")
    return right


async def peers(stack: AsyncExitStack, bootstrap: str | None) -> AsyncIterator[Peer]:
    """A writer and a reader."""
    if bootstrap is None:
        watch = Watch()
        swarm = await stack.enter_async_context(Swarm(PEERS))
        say(f"a swarm of {PEERS} peers on this machine, started in {watch.s:.1f} s")
        address = swarm.peers[0].address
    else:
        address = bootstrap
    for _ in range(2):
        peer = await stack.enter_async_context(Peer(listen=["0.0.0.0:0"], bootstrap=[address], ephemeral=True))
        await peer.wait_connected(1.0)  # entering has waited for it already
        yield peer


async def run(bootstrap: str | None, scale: float) -> bool:
    async with AsyncExitStack() as stack:
        writer, reader = [peer async for peer in peers(stack, bootstrap)]
        results = [await play(name, max(1, int(n * scale)), writer, reader) for name, n in SCENARIOS.items()]
    return all(results)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", metavar="HOST:PORT", help="a peer of the swarm to use")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the numbers of records (default: 1)")
    options = parser.parse_args()
    try:
        return 0 if asyncio.run(run(options.bootstrap, options.scale)) else 1
    except P2pkvError as error:
        say(f"{error}" + (f"\n{error.mend}" if error.mend else ""))
        return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
