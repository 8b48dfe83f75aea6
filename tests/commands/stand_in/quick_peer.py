"""A peer that stores in memory, binds its UDP port and answers a ping: enough to test what runs peers.

`QUICK_PEER_SLOW_STOP` in the environment makes it take that many seconds to leave.
"""

from __future__ import annotations

import asyncio
import hashlib
import os

import msgspec

from p2pkv.errors import UnreachableError
from p2pkv.home import Home
from p2pkv.units import format_address, parse_address
from tests.gateway.fake_peer import FakePeer


class _Ping(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.heard = asyncio.Event()

    def connection_made(self, transport) -> None:
        self.transport = transport

    def datagram_received(self, data, address) -> None:
        if data == b"ping":
            self.transport.sendto(b"pong", address)
        self.heard.set()


class Peer(FakePeer):
    def __init__(self, home=None, *, listen=(), bootstrap=(), **options) -> None:
        super().__init__()
        self.home = Home(home).prepare() if home else None
        self.listen = [parse_address(text) for text in listen]
        self.bootstrap = list(bootstrap)
        self.http_url = ""

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.ping = _Ping()
        self.transports = [
            (await loop.create_datagram_endpoint(lambda: self.ping, local_addr=address))[0] for address in self.listen
        ]

    async def stop(self) -> None:
        await asyncio.sleep(float(os.environ.get("QUICK_PEER_SLOW_STOP", "0")))
        for transport in self.transports:
            transport.close()

    async def wait_connected(self, timeout_s: float = 10.0) -> None:
        if os.environ.get("QUICK_PEER_IMPATIENT"):
            timeout_s = 0.2
        for address in self.bootstrap:
            self.transports[0].sendto(b"ping", parse_address(address))
        try:
            await asyncio.wait_for(self.ping.heard.wait(), timeout_s)
        except TimeoutError:
            raise UnreachableError("nobody answers") from None

    async def status(self):
        udp = [format_address(*transport.get_extra_info("sockname")[:2]) for transport in self.transports]
        node = hashlib.sha1(str(self.home and self.home.folder).encode()).hexdigest()
        return msgspec.structs.replace(await super().status(), node=node, udp=udp, http=self.http_url)
