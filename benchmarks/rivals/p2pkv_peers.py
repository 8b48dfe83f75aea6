"""p2pkv itself, through its public class Peer."""

from __future__ import annotations

import gc
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Literal

from benchmarks.rivals.base import Address
from p2pkv.commands.serve import GC_THRESHOLDS
from p2pkv.errors import NotFoundError, P2pkvError
from p2pkv.peer import Peer


class P2pkv:
    uvloop = True

    def __init__(self, store: Literal["memory", "disk"]) -> None:
        self.first_value_s: list[float] = []
        self._store = store
        self._homes = tempfile.TemporaryDirectory(prefix="p2pkv-bench-")
        self._peers: list[Peer] = []

    async def start(self, count: int, bootstrap: Address | None) -> Address:
        gc.set_threshold(*GC_THRESHOLDS)  # as `p2pkv start` does
        first = bootstrap
        for number in range(count):
            home = Path(self._homes.name) / str(number) if self._store == "disk" else None
            known = [f"{first[0]}:{first[1]}"] if first else []
            peer = Peer(home=home, listen=["127.0.0.1:0"], bootstrap=known, k=8, store=self._store)
            await peer.start()
            self._peers.append(peer)
            first = first or peer.addresses[0]
        assert first is not None
        return first

    async def put(self, peer: int, key: str, value: bytes) -> bool:
        try:
            return (await self._peers[peer].put(key, value)).reached
        except P2pkvError:
            return False

    async def get(self, peer: int, key: str) -> bytes | None:
        found: bytes | None = None
        with suppress(NotFoundError):
            async for record in self._peers[peer].get(key):
                found = record.value
        return found

    def holds(self, peer: int, key: str) -> bool:
        return False  # a read asks a quorum, whatever lies here


def make(store: Literal["memory", "disk"]) -> P2pkv:
    return P2pkv(store)
