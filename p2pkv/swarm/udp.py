"""UDP sockets of one peer: several behind one `sendto`, told apart by their first byte, with large buffers.

Owns sockets and their counters. Parses nothing beyond the first byte and never raises for the network's faults.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from p2pkv.core.bulk.batch import Batch
from p2pkv.errors import P2pkvError
from p2pkv.limits import BULK_PACKET_BYTES, BULK_PACKET_BYTES_LADDER, SOCKET_BUFFER_BYTES
from p2pkv.swarm import udp_linux
from p2pkv.swarm.environment import Address, Environment, open_plain_socket

log = logging.getLogger(__name__)

DATAGRAM_BYTES_MAX = 65_535
_SO_RCVBUFFORCE = 33  # Linux: beyond net.core.rmem_max, for a privileged process
_SO_SNDBUFFORCE = 32

Receive = Callable[[bytes, Any], None]


async def open_udp_socket(protocol: asyncio.DatagramProtocol, local: Address) -> asyncio.DatagramTransport:
    """A UDP endpoint with buffers as large as the system allows. IPv6 sockets take IPv6 alone. Raises OSError."""
    host, port = local
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        enlarge_buffers(sock)
        sock.bind((host, port))
        if udp_linux.enable(sock):
            log.debug("UDP batches are sent and received by one system call (UDP_SEGMENT, UDP_GRO)")
            linux = udp_linux.LinuxTransport(sock, protocol)
            protocol.connection_made(linux)
            return linux
        log.info("the system sends and receives UDP packets one by one only; large transfers cost more")
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: protocol, sock=sock)
    except BaseException:
        sock.close()
        raise
    if hasattr(transport, "max_size"):
        transport.max_size = DATAGRAM_BYTES_MAX  # asyncio takes 256 KiB for every datagram it reads
    return transport


def enlarge_buffers(sock: socket.socket) -> int:
    """Ask for large buffers, as root beyond the system's bound; the receive buffer that was got, in bytes."""
    for plain, force in ((socket.SO_RCVBUF, _SO_RCVBUFFORCE), (socket.SO_SNDBUF, _SO_SNDBUFFORCE)):
        try:
            if not sys.platform.startswith("linux"):
                raise PermissionError
            sock.setsockopt(socket.SOL_SOCKET, force, SOCKET_BUFFER_BYTES)
        except OSError:
            _set_largest(sock, plain)
    return buffer_bytes_of(sock)


def _set_largest(sock: socket.socket, option: int) -> None:
    """Linux cuts a wish down to what it allows; others refuse it, so we wish for less."""
    size = SOCKET_BUFFER_BYTES
    while size >= 64 * 1024:
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, size)
        except OSError:
            size //= 2
        else:
            return


def buffer_bytes_of(sock: socket.socket) -> int:
    """Of the receive buffer, as it was asked for: Linux reports the double, for its own bookkeeping."""
    size = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    return size // 2 if sys.platform.startswith("linux") else size


def canonical(address: tuple[Any, ...]) -> Address:
    """Host and port, without the flow and scope of IPv6."""
    return str(address[0]).partition("%")[0], int(address[1])


class _Socket(asyncio.DatagramProtocol):
    """One socket's protocol: passes on what comes."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.datagram_received = endpoint.receive  # type: ignore[method-assign,assignment]
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def error_received(self, exc: Exception) -> None:
        self._endpoint.errors += 1

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)


class Endpoint:
    """All sockets of one peer. It stands where rpcudp expects its transport."""

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self.errors = 0  # that the system reported of datagrams sent before
        self.unsendable = 0
        self.buffer_bytes = 0  # receive buffer of the smallest socket; 0 where there is none, as in a simulation
        self.bound: list[Address] = []
        self.on_writable: Callable[[], None] = lambda: None  # after `full`
        self._sockets: list[tuple[asyncio.DatagramTransport, _Socket]] = []
        self._ipv4: asyncio.DatagramTransport | None = None
        self._ipv6: asyncio.DatagramTransport | None = None

    async def open(self, env: Environment, addresses: Sequence[Address]) -> None:
        """Bind every address. Raises P2pkvError, having closed what it opened, where one cannot be had."""
        for address in addresses:
            try:
                await self._open(env, address)
            except OSError as error:
                await self.close()
                mend = "stop what uses the port, or choose another (port 0 picks a free one)"
                reason = error.strerror or str(error)
                raise P2pkvError(f"cannot listen on {address[0]}:{address[1]}: {reason}", mend) from error

    async def _open(self, env: Environment, address: Address) -> None:
        open_socket = open_udp_socket if env.open_socket is open_plain_socket else env.open_socket
        shell = _Socket(self)
        transport = await open_socket(shell, address)
        self._sockets.append((transport, shell))
        self.bound.append(canonical(transport.get_extra_info("sockname")))
        if ":" in address[0]:
            self._ipv6 = self._ipv6 or transport
        else:
            self._ipv4 = self._ipv4 or transport
        if isinstance(transport, udp_linux.LinuxTransport):
            transport.on_writable = self._on_writable
        sock = transport.get_extra_info("socket")
        if sock is not None:
            size = buffer_bytes_of(sock)
            self.buffer_bytes = min(self.buffer_bytes or size, size)

    def sendto(self, data: bytes, addr: Address) -> None:
        """Send from the socket of the address's family. What cannot be sent is counted and lost, as on the network."""
        transport = self._ipv6 if ":" in addr[0] else self._ipv4
        # A name would be resolved by the system meanwhile, and stop the whole peer for seconds.
        if transport is None or not is_usable_host(addr[0]):
            self.unsendable += 1
            return
        try:
            transport.sendto(data, addr)
        except Exception:
            self.unsendable += 1
            log.debug("cannot send to %s", addr, exc_info=True)

    def send_batch(self, batch: Batch, addr: Address) -> bool:
        """Send packets of bulk transfer; False where the system finds them too large for the way."""
        transport = self._ipv6 if ":" in addr[0] else self._ipv4
        if isinstance(transport, udp_linux.LinuxTransport) and is_usable_host(addr[0]):
            return transport.send_batch(batch, addr)
        for packet in batch.packets():
            self.sendto(packet, addr)
        return True

    def _on_writable(self) -> None:
        self.on_writable()

    @property
    def full(self) -> bool:
        """Whether bulk transfer should wait for `on_writable`."""
        return any(isinstance(one, udp_linux.LinuxTransport) and one.full for one, _ in self._sockets)

    @property
    def packet_bytes_max(self) -> int:
        """The largest bulk packet to try: where we cannot forbid fragments, what fits every path."""
        able = self._sockets and all(isinstance(one, udp_linux.LinuxTransport) for one, _ in self._sockets)
        return BULK_PACKET_BYTES_LADDER[-1] if able else BULK_PACKET_BYTES

    def fileno(self, family: int = socket.AF_INET) -> int | None:
        """The system's number of a socket, for senders that speak to the kernel themselves."""
        transport = self._ipv6 if family == socket.AF_INET6 else self._ipv4
        sock = transport.get_extra_info("socket") if transport else None
        return sock.fileno() if sock is not None else None

    def is_closing(self) -> bool:
        return not self._sockets

    async def close(self) -> None:
        """Close all and wait until they are gone."""
        sockets, self._sockets = self._sockets, []
        self._ipv4 = self._ipv6 = None
        for transport, _ in sockets:
            transport.close()
        for _, shell in sockets:
            await shell.lost


def is_loopback(host: str) -> bool:
    return host.startswith("127.") or host == "::1"


@lru_cache(8192)
def is_usable_host(host: str) -> bool:
    """Is it a numeric address that somebody can be reached at?"""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return not (address.is_unspecified or address.is_multicast)


def uses_uvloop() -> bool:
    return type(asyncio.get_running_loop()).__module__.startswith("uvloop")
