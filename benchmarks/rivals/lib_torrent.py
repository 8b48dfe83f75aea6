"""libtorrent's DHT with immutable items (BEP 44): the key of an item is the hash of its value.

The benchmark's own keys are therefore translated; a key that was never put becomes the hash of its name.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Any

import libtorrent

from benchmarks.rivals.base import Address

UNLIMITED = 1 << 30
START_S = 0.5  # a node added before the DHT runs is forgotten
_SETTINGS = {
    "enable_dht": True,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "alert_mask": libtorrent.alert.category_t.dht_notification,
    "alert_queue_size": 100_000,
    "dht_restrict_routing_ips": False,
    "dht_restrict_search_ips": False,
    "dht_prefer_verified_node_ids": False,
    "dht_enforce_node_id": False,
    "dht_ignore_dark_internet": False,
    "dht_block_ratelimit": UNLIMITED,
    "dht_upload_rate_limit": UNLIMITED,
    "dht_max_dht_items": 1_000_000,
}


class LibTorrent:
    uvloop = False

    def __init__(self) -> None:
        self.first_value_s: list[float] = []
        self._sessions: list[Any] = []
        self._waiting: dict[tuple[str, int, str], asyncio.Future[Any]] = {}
        self._targets: dict[str, Any] = {}

    async def start(self, count: int, bootstrap: Address | None) -> Address:
        first = bootstrap
        for number in range(count):
            nodes = f"{first[0]}:{first[1]}" if first else ""
            session = libtorrent.session(
                {**_SETTINGS, "listen_interfaces": "127.0.0.1:0", "dht_bootstrap_nodes": nodes}
            )
            self._sessions.append(session)
            address = ("127.0.0.1", await _port_of(session))
            self._listen(number)
            first = first or address
        assert first is not None
        await asyncio.sleep(START_S)
        for session in self._sessions:
            session.add_dht_node(first)
        return first

    async def put(self, peer: int, key: str, value: bytes) -> bool:
        target = self._sessions[peer].dht_put_immutable_item(value)
        self._targets[key] = target
        return bool(await self._wait("put", peer, target))

    async def get(self, peer: int, key: str) -> bytes | None:
        target = self._targets.get(key) or libtorrent.sha1_hash(hashlib.sha1(key.encode()).digest())
        waiting = self._wait("get", peer, target)
        self._sessions[peer].dht_get_immutable_item(target)
        return await waiting or None

    def holds(self, peer: int, key: str) -> bool:
        return False

    async def stop(self) -> None:
        for session in self._sessions:
            session.set_alert_notify(lambda: None)
        self._sessions.clear()

    def _wait(self, kind: str, peer: int, target: object) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[kind, peer, str(target)] = future
        return future

    def _listen(self, number: int) -> None:
        """Alerts are told of once, when the first one comes into an empty queue: empty it to begin with."""
        loop = asyncio.get_running_loop()
        self._sessions[number].set_alert_notify(lambda: loop.call_soon_threadsafe(self._drain, number))
        self._drain(number)

    def _drain(self, peer: int) -> None:
        if peer >= len(self._sessions):
            return
        for alert in self._sessions[peer].pop_alerts():
            if isinstance(alert, libtorrent.dht_put_alert):
                self._finish("put", peer, alert.target, alert.num_success)
            elif isinstance(alert, libtorrent.dht_immutable_item_alert):
                self._finish("get", peer, alert.target, alert.item)

    def _finish(self, kind: str, peer: int, target: object, result: object) -> None:
        future = self._waiting.pop((kind, peer, str(target)), None)
        if future is not None and not future.done():
            future.set_result(result)


async def _port_of(session: Any) -> int:
    deadline_s = time.monotonic() + 5
    while not (port := session.listen_port()) and time.monotonic() < deadline_s:
        await asyncio.sleep(0.005)
    return int(port)


def make() -> LibTorrent:
    return LibTorrent()
