"""OpenDHT through its own Python bindings: a put is done, and a get is done, when its callback says so."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import opendht

from benchmarks.rivals.base import Address

UNLIMITED_PER_S = 1_000_000


class OpenDht:
    uvloop = False

    def __init__(self) -> None:
        self.first_value_s: list[float] = []
        self._nodes: list[Any] = []

    async def start(self, count: int, bootstrap: Address | None) -> Address:
        first = bootstrap
        for _ in range(count):
            config = opendht.DhtConfig()
            config.setRateLimit(UNLIMITED_PER_S, UNLIMITED_PER_S)
            node = opendht.DhtRunner()
            node.run(port=0, ipv4="127.0.0.1", config=config)
            if first is not None:
                node.bootstrap(first[0], str(first[1]))
            first = first or ("127.0.0.1", node.getBound().getPort())
            self._nodes.append(node)
            await asyncio.sleep(0.01)
        assert first is not None
        return first

    async def put(self, peer: int, key: str, value: bytes) -> bool:
        done = Done()
        self._nodes[peer].put(opendht.InfoHash.get(key), opendht.Value(value), done_cb=done)
        return await done.future

    async def get(self, peer: int, key: str) -> bytes | None:
        done = Done()
        found: list[bytes] = []
        began_s = time.perf_counter()

        def on_value(value: Any) -> bool:
            if not found:
                self.first_value_s.append(time.perf_counter() - began_s)
            found.append(bytes(value.data))
            return True

        self._nodes[peer].get(opendht.InfoHash.get(key), get_cb=on_value, done_cb=done)
        await done.future
        return found[0] if found else None

    def holds(self, peer: int, key: str) -> bool:
        return False


class Done:
    """A completion callback, called on a thread of the library, as a future of this loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[bool] = self._loop.create_future()

    def __call__(self, ok: bool, nodes: object) -> None:
        self._loop.call_soon_threadsafe(self._finish, ok)

    def _finish(self, ok: bool) -> None:
        if not self.future.done():
            self.future.set_result(ok)


def make() -> OpenDht:
    return OpenDht()
