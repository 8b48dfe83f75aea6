"""A UDP socket that speaks to the Linux kernel itself: many packets in one call, both ways.

Theory of operation. With UDP_SEGMENT one `sendmsg` hands the kernel a batch of equal packets; with UDP_GRO one
`recvmsg` brings a run of equal packets of one sender, which we take apart. asyncio's and uvloop's transports can do
neither, so the socket is watched by the loop's reader and writer. RPC datagrams go through the same socket, and what
must wait for it to become writable waits in two queues: RPC passes bulk.

Owns one socket and what waits to be sent. Looks at the first byte of a packet and no further.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from p2pkv.core.bulk.batch import Batch
from p2pkv.limits import (
    BULK_PACKET_BYTES,
    BULK_READ_BYTES_PER_TURN_MAX,
    BULK_READS_PER_TURN_MAX,
    SENDS_WAITING_BYTES_MAX,
)
from p2pkv.wire import BULK_MIN

log = logging.getLogger(__name__)

_UDP_SEGMENT, _UDP_GRO = 103, 104  # linux/udp.h; the socket module of Python 3.11 does not name them
_MTU_DISCOVER = {socket.AF_INET: (socket.IPPROTO_IP, 10), socket.AF_INET6: (socket.IPPROTO_IPV6, 23)}  # linux/in.h
_WANT, _PROBE = 1, 3  # fragment what is larger than the path; never fragment, believe no cache
_READ_BYTES = 65_536  # more than any datagram or run of them
_ANCILLARY_BYTES = 64  # room for the one number that we ask for
_INT, _SHORT = struct.Struct("@i"), struct.Struct("@H")


def enable(sock: socket.socket) -> bool:
    """Switch on receiving in runs; False where the kernel cannot do it, or cannot send in batches."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        sock.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, 0)
        sock.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
    except OSError:
        return False
    return True


class LinuxTransport(asyncio.DatagramTransport):
    """Stands where a loop's own datagram transport would, and sends batches beside it."""

    def __init__(self, sock: socket.socket, protocol: asyncio.DatagramProtocol) -> None:
        """`sock`: bound, not blocking, and `enable`d."""
        super().__init__({"socket": sock, "sockname": sock.getsockname()})
        self.on_writable: Callable[[], None] = lambda: None
        self.batches_sent = 0
        self.segmentation = True  # UDP_SEGMENT works on the devices behind this socket
        self._sock = sock
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray(_READ_BYTES)
        self._view = memoryview(self._buffer)
        self._rpc: deque[tuple[bytes, Any]] = deque()
        self._bulk: deque[tuple[Batch, Any]] = deque()
        self._waiting_bytes = 0
        self._closing = False
        self._loop.add_reader(sock.fileno(), self._read)

    # --- what comes in ---

    def _read(self) -> None:
        """Take in what has come, for about a millisecond."""
        taken = 0
        for _ in range(BULK_READS_PER_TURN_MAX):
            if self._closing or taken >= BULK_READ_BYTES_PER_TURN_MAX:
                return
            try:
                size, ancillary, _, address = self._sock.recvmsg_into([self._buffer], _ANCILLARY_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # an ICMP answer to a datagram sent before
                self._protocol.error_received(error)
                continue
            taken += size
            self._take_apart(size, _INT.unpack(ancillary[0][2])[0] if ancillary else size, address)

    def _take_apart(self, size: int, segment: int, address: Any) -> None:
        """The packets of a run; the last may be shorter. Bulk packets are only lent: the buffer is used again."""
        receive, view = self._protocol.datagram_received, self._view
        for start in range(0, size, segment) if size else ():
            packet: Any = view[start : min(start + segment, size)]
            receive(packet if packet[0] >= BULK_MIN else bytes(packet), address)

    # --- what goes out ---

    @property
    def full(self) -> bool:
        """Whether bulk should wait for `on_writable`."""
        return bool(self._bulk or self._rpc)

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Send one datagram, ahead of all bulk; lost where too much waits already."""
        if self._closing:
            return
        if not self._rpc:
            try:
                self._sock.sendto(data, addr)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self._protocol.error_received(error)
                return
            else:
                return
        if self._waiting_bytes + len(data) <= SENDS_WAITING_BYTES_MAX:
            self._rpc.append((bytes(data), addr))
            self._waiting_bytes += len(data)
        self._watch()

    def send_batch(self, batch: Batch, addr: Any) -> bool:
        """Send packets; False where the system finds them too large. What the socket cannot take now waits."""
        if self._closing:
            return True
        if not self.full:
            try:
                return self._send(batch, addr)
            except (BlockingIOError, InterruptedError):
                pass
        if self._waiting_bytes + batch.size_bytes <= SENDS_WAITING_BYTES_MAX:
            self._bulk.append((batch, addr))
            self._waiting_bytes += batch.size_bytes
        self._watch()
        return True

    def _send(self, batch: Batch, addr: Any) -> bool:
        """One system call. Raises BlockingIOError."""
        if batch.probe:
            return self._send_whole(batch, addr)
        try:
            if len(batch.buffers) == 2:
                self._sock.sendmsg(batch.buffers, (), 0, addr)
            elif self.segmentation:
                ancillary = [(socket.IPPROTO_UDP, _UDP_SEGMENT, _SHORT.pack(batch.packet_bytes))]
                self._sock.sendmsg(batch.buffers, ancillary, 0, addr)
                self.batches_sent += 1
            else:
                self._send_singly(batch, addr)
        except (BlockingIOError, InterruptedError):
            raise
        except OSError as error:
            return self._on_refused(batch, addr, error)
        return True

    def _on_refused(self, batch: Batch, addr: Any, error: OSError) -> bool:
        """The system did not take a batch: for its size, for a device without segmentation, or for no way there."""
        if error.errno == errno.EMSGSIZE or (error.errno == errno.EINVAL and batch.packet_bytes > BULK_PACKET_BYTES):
            return False
        if error.errno in (errno.EIO, errno.EINVAL) and self.segmentation and len(batch.buffers) > 2:
            log.info("the network device cannot segment UDP batches (%s); packets are sent one by one", error)
            self.segmentation = False
            self._send_singly(batch, addr)
            return True
        self._protocol.error_received(error)
        return True

    def _send_singly(self, batch: Batch, addr: Any) -> None:
        """One call for each packet; those that the socket cannot take are lost, as on the network."""
        buffers = batch.buffers
        for at in range(0, len(buffers), 2):
            try:
                self._sock.sendmsg(buffers[at : at + 2], (), 0, addr)
            except OSError as error:
                self._protocol.error_received(error)
                return

    def _send_whole(self, batch: Batch, addr: Any) -> bool:
        """A probe of the path's MTU: never in fragments."""
        level, option = _MTU_DISCOVER[self._sock.family]
        self._sock.setsockopt(level, option, _PROBE)
        try:
            self._sock.sendmsg(batch.buffers, (), 0, addr)
        except (BlockingIOError, InterruptedError):
            return True  # counts as lost: another will follow
        except OSError as error:
            return error.errno != errno.EMSGSIZE
        finally:
            self._sock.setsockopt(level, option, _WANT)
        return True

    # --- waiting for the socket ---

    def _watch(self) -> None:
        self._loop.add_writer(self._sock.fileno(), self._flush)

    def _flush(self) -> None:
        """The socket takes more: RPC first."""
        try:
            while self._rpc:
                self._flush_one(self._rpc, self._sock.sendto, len)
            while self._bulk:
                self._flush_one(self._bulk, self._send, lambda batch: batch.size_bytes)
        except (BlockingIOError, InterruptedError):
            return
        self._loop.remove_writer(self._sock.fileno())
        self.on_writable()

    def _flush_one(self, queue: deque[Any], send: Callable[[Any, Any], object], size_of: Callable[[Any], int]) -> None:
        """Raises BlockingIOError, the datagram still being in its queue."""
        item, addr = queue[0]
        try:
            send(item, addr)
        except (BlockingIOError, InterruptedError):
            raise
        except OSError as error:
            self._protocol.error_received(error)
        queue.popleft()
        self._waiting_bytes -= size_of(item)

    # --- the end ---

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """What waits is lost."""
        if self._closing:
            return
        self._closing = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()
