"""A process that holds some peers of a system: `python -m benchmarks.rivals.host SYSTEM COUNT [HOST PORT]`.

Prints the address of a peer as JSON when its peers have joined; then carries out a load for each line of JSON on its
standard input and prints what it measured. Ends, without farewell, when its standard input closes.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import asdict

from benchmarks.load import Budget, apply
from benchmarks.operations import Operations
from benchmarks.rivals import ENTRIES
from benchmarks.rivals.base import Address, Rival


async def serve(rival: Rival, count: int, bootstrap: Address | None) -> None:
    _say(await rival.start(count, bootstrap))
    operations = Operations(rival, count)
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        rival.first_value_s.clear()
        phase = await apply(operations.of(order["kind"], order["name"]), Budget(**order["budget"]))
        _say({**asdict(phase), "first_value_s": rival.first_value_s})


def _say(what: object) -> None:
    print(json.dumps(what), flush=True)


def main() -> None:
    system, count, *known = sys.argv[1:]
    bootstrap = (known[0], int(known[1])) if known else None
    rival = ENTRIES[system].make()
    work = serve(rival, int(count), bootstrap)
    if rival.uvloop:
        import uvloop

        uvloop.run(work)
    else:
        asyncio.run(work)
    os._exit(0)  # the libraries' own threads need not be waited for


if __name__ == "__main__":
    main()
