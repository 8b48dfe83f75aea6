"""A gateway over a fake peer, on a real Unix socket and a real loopback port."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
import yarl

from p2pkv.gateway.http import Gateway
from tests.gateway.fake_peer import FakePeer


@pytest.fixture
def home() -> Iterator[Path]:
    """A short path: Unix sockets do not take long ones."""
    with tempfile.TemporaryDirectory(prefix="p2pkv") as folder:
        yield Path(folder)


@pytest.fixture
def peer() -> FakePeer:
    return FakePeer()


@pytest.fixture
async def gateway(peer: FakePeer, home: Path) -> AsyncIterator[Gateway]:
    gateway = Gateway(peer, home, ("127.0.0.1", 0), config={"k": 8}, request_stop=peer.request_stop)
    await gateway.start()
    yield gateway
    await gateway.stop()


class Http:
    """Requests with targets as they are, over either socket."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self.session = session
        self.base = base

    def __call__(self, method: str, target: str, **options):
        return self.session.request(method, yarl.URL(self.base + target, encoded=True), **options)

    async def json(self, method: str, target: str, **options):
        async with self(method, target, **options) as response:
            return response.status, await response.json(content_type=None)

    async def lines(self, method: str, target: str, **options):
        async with self(method, target, **options) as response:
            assert response.status == 200, await response.text()
            return [json.loads(line) async for line in response.content if line.strip()]


@pytest.fixture
async def unix(gateway: Gateway, home: Path) -> AsyncIterator[Http]:
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(home / "peer.sock"))) as session:
        yield Http(session, "http://localhost")


@pytest.fixture
async def tcp(gateway: Gateway, home: Path) -> AsyncIterator[Http]:
    token = (home / "http.token").read_text().strip()
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session:
        yield Http(session, gateway.url)


@pytest.fixture
async def stranger(gateway: Gateway) -> AsyncIterator[Http]:
    """Over TCP without the token."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        yield Http(session, gateway.url)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)
