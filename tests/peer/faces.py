"""The two faces of one real peer: `Peer` itself, and `Client` through its socket."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from p2pkv import Client, Peer
from p2pkv.gateway.http import Gateway
from p2pkv.real_swarm import Swarm

Face = Peer | Client
FACES = ("peer", "client")


@asynccontextmanager
async def face_of(peer: Peer, kind: str) -> AsyncIterator[Face]:
    """The peer, or a client of it."""
    if kind == "peer":
        yield peer
        return
    with tempfile.TemporaryDirectory(prefix="p2pkv") as folder:  # a short path: sockets take no long ones
        gateway = Gateway(peer, Path(folder))
        await gateway.start()
        try:
            async with Client(folder) as client:
                yield client
        finally:
            await gateway.stop()


@asynccontextmanager
async def lone_face(kind: str, count: int = 3) -> AsyncIterator[tuple[Swarm, Face]]:
    """A face of the first peer of a fresh swarm."""
    async with Swarm(count, store="memory") as swarm, face_of(swarm.peers[0], kind) as face:
        yield swarm, face
