"""The `kademlia` package as it is installed."""

from __future__ import annotations

import logging

from kademlia.network import Server
from kademlia.utils import digest

from benchmarks.rivals.base import Address


class Stock:
    uvloop = False

    def __init__(self, k: int) -> None:
        self.first_value_s: list[float] = []
        self._k = k
        self._servers: list[Server] = []

    async def start(self, count: int, bootstrap: Address | None) -> Address:
        logging.disable(logging.CRITICAL)
        first = bootstrap
        for _ in range(count):
            server = Server(ksize=self._k)
            await server.listen(0, "127.0.0.1")
            address: Address = server.transport.get_extra_info("sockname")
            first = first or address
            if first != address:
                await server.bootstrap([first])
            self._servers.append(server)
        assert first is not None
        return first

    async def put(self, peer: int, key: str, value: bytes) -> bool:
        try:
            return bool(await self._servers[peer].set(key, value))
        except (TimeoutError, ValueError):  # what it raises where nobody answers
            return False

    async def get(self, peer: int, key: str) -> bytes | None:
        found = await self._servers[peer].get(key)
        return found if isinstance(found, bytes) else None

    def holds(self, peer: int, key: str) -> bool:
        return self._servers[peer].storage.get(digest(key)) is not None


def make(k: int) -> Stock:
    return Stock(k)
