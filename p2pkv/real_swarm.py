"""Real peers on this machine's loopback, for tests of programs that use p2pkv.

All peers run in the caller's event loop, on ports that the system picks, with homes in a temporary folder.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from p2pkv.limits import K_DEFAULT
from p2pkv.peer import Peer, StoreKind

SETTLE_S = 20.0
SETTLE_PEER_S = 1.0  # more for each peer: all of them share this process


class Swarm:
    """`async with Swarm(20) as swarm: await swarm.peers[3].put(...)`."""

    def __init__(self, count: int, *, k: int = K_DEFAULT, store: StoreKind = "disk") -> None:
        """`count` peers that keep `k` replicas, on disk (in a temporary folder) or in memory."""
        self.peers: list[Peer] = []
        self._count = count
        self._k = k
        self._store: StoreKind = store
        self._folder = tempfile.TemporaryDirectory(prefix="p2pkv-swarm-")

    async def __aenter__(self) -> Self:
        try:
            for _ in range(self._count):
                await self.add_peer()
            for peer in self.peers[1:]:
                await peer.wait_connected()
            await self.settle()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def add_peer(self) -> Peer:
        """Start one more peer; it joins by the first."""
        home = Path(self._folder.name) / str(len(self.peers)) if self._store == "disk" else None
        bootstrap = [self.peers[0].address] if self.peers else []
        peer = Peer(home, listen=["127.0.0.1:0"], bootstrap=bootstrap, k=self._k, store=self._store)
        await peer.start()
        self.peers.append(peer)
        return peer

    async def settle(self, timeout_s: float | None = None) -> None:
        """Wait until every peer knows its way: as many others as it keeps replicas on, and nobody new looking around.

        Raises TimeoutError; without `timeout_s` after a time that suits the number of peers. Where the swarm is no
        larger than the number of replicas, it is enough that all know all.
        """
        wanted = min(self._k, len(self.peers) - 1)
        async with asyncio.timeout(timeout_s or SETTLE_S + SETTLE_PEER_S * len(self.peers)):
            while any(len(peer.node.server.contacts()) < wanted for peer in self.peers):  # noqa: ASYNC110 - no event tells it
                await asyncio.sleep(0.02)
            if len(self.peers) > self._k + 1:
                await asyncio.gather(*(peer.node.server.wait_settled() for peer in self.peers[1:]))

    async def close(self) -> None:
        await asyncio.gather(*(peer.stop(graceful=False) for peer in self.peers))
        self.peers = []
        self._folder.cleanup()
