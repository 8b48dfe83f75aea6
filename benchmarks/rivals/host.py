"""A process that holds some peers of a system and does nothing else: `host.py SYSTEM COUNT HOST PORT`.

Prints `ready` when its peers have joined, and ends when its standard input closes.
"""

from __future__ import annotations

import asyncio
import sys

from benchmarks.rivals import ENTRIES
from benchmarks.rivals.base import Rival


async def serve(rival: Rival, count: int, bootstrap: tuple[str, int]) -> None:
    await rival.start(count, bootstrap)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    system, count, host, port = sys.argv[1:]
    rival = ENTRIES[system].make()
    if rival.uvloop:
        import uvloop

        uvloop.run(serve(rival, int(count), (host, int(port))))
    else:
        asyncio.run(serve(rival, int(count), (host, int(port))))


if __name__ == "__main__":
    main()
