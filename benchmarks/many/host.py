"""A process that holds some peers: `python -m benchmarks.many.host COUNT STORE FOLDER [ADDRESS]`.

Its hello is an address. The folder for homes is the parent's, which outlives a process that is killed.
"""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

from benchmarks.many.processes import Answer, peak_mb, run, serve
from p2pkv.peer import Peer, StoreKind

ACTIVITY = (
    "pages_split",
    "records_moved",
    "records_mended",
    "upkeep_records_fetched",
    "upkeep_records_handed",
    "upkeep_records_handed_on",
    "upkeep_records_dropped",
)
"""Counters that stand still where nothing is brought from one peer to another."""


async def host(count: int, store: StoreKind, folder: Path, bootstrap: list[str]) -> None:
    async with AsyncExitStack() as stack:
        peers: list[Peer] = []
        for number in range(count):
            home = folder / str(number) if store == "disk" else None
            known = bootstrap or [peer.address for peer in peers[:1]]
            peer = Peer(home, listen=["127.0.0.1:0"], bootstrap=known, store=store)
            peers.append(await stack.enter_async_context(peer))

        async def activity() -> Answer:
            counters = [peer.node.counters() for peer in peers]
            return {name: sum(each.get(name, 0) for each in counters) for name in ACTIVITY}

        async def holds(key: str) -> Answer:
            """How many live records of a key each peer has."""
            held = [sum([live async for name, live in peer.keys(key) if name == key.encode()]) for peer in peers]
            return {"held": held, "mb": peak_mb()}

        async def ids() -> Answer:
            return {"ids": [peer.node.identity.node_id.hex() for peer in peers]}

        await serve(peers[0].address, {"activity": activity, "holds": holds, "ids": ids})


def main() -> None:
    count, store, folder, *bootstrap = sys.argv[1:]
    run(host(int(count), cast(StoreKind, store), Path(folder), bootstrap))


if __name__ == "__main__":
    main()
