"""The socket that sends and receives batches: what leaves as one call arrives as the packets that it was made of."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from p2pkv.core.bulk.batch import Batch
from p2pkv.limits import BULK_PACKET_BYTES, SENDS_WAITING_BYTES_MAX
from p2pkv.swarm import udp_linux
from p2pkv.swarm.environment import Environment
from p2pkv.swarm.udp import Endpoint
from p2pkv.swarm.udp_linux import LinuxTransport
from tests.swarm.test_bulk import Peer, chunk, real_peers

LINUX = sys.platform.startswith("linux")


class FaultySocket:
    """A socket whose next sends fail."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.faults: list[int] = []  # of the next calls; 0: none
        self.batch_fault = 0  # of every call that carries a batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def _fail(self) -> None:
        code = self.faults.pop(0) if self.faults else 0
        if code:
            raise OSError(code, "a fault")

    def sendto(self, data: Any, addr: Any) -> int:
        self._fail()
        return self._sock.sendto(data, addr)

    def sendmsg(self, buffers: Any, ancillary: Any = (), flags: int = 0, addr: Any = None) -> int:
        self._fail()
        if ancillary and self.batch_fault:
            raise OSError(self.batch_fault, "a fault")
        return self._sock.sendmsg(buffers, ancillary, flags, addr)


class Listener(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.types: set[tuple[bool, type]] = set()
        self.errors: list[Exception] = []
        self.news = asyncio.Event()

    def datagram_received(self, data: Any, addr: Any) -> None:
        self.types.add((data[0] >= 0x10, type(data)))
        self.got.append(bytes(data))
        self.news.set()

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)

    async def wait_for(self, count: int) -> list[bytes]:
        async with asyncio.timeout(20):
            while len(self.got) < count:
                self.news.clear()
                await self.news.wait()
        return self.got


class Pair:
    """A sender with a socket that can fail, and a listener."""

    def __init__(self) -> None:
        self.listener, self.own = Listener(), Listener()
        socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        for sock in socks:
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
            assert udp_linux.enable(sock) == LINUX
        self.address = socks[1].getsockname()
        self.sock = FaultySocket(socks[0])
        self.sender = LinuxTransport(self.sock, self.own)  # type: ignore[arg-type]
        self.receiver = LinuxTransport(socks[1], self.listener)

    def send(self, packets: list[bytes], *, probe: bool = False) -> bool:
        return self.sender.send_batch(batch_of(packets, probe=probe), self.address)


def batch_of(packets: list[bytes], *, probe: bool = False) -> Batch:
    buffers: list[Any] = [part for packet in packets for part in (packet[:28], memoryview(packet)[28:])]
    return Batch(buffers, len(packets[0]), sum(map(len, packets)), probe)


def bulk_packets(count: int, size: int = 1200, tail: int = 300) -> list[bytes]:
    sizes = [size] * (count - 1) + [tail]
    return [bytes([0x13, number]) + bytes([number]) * (size - 2) for number, size in enumerate(sizes)]


if LINUX:

    @pytest.fixture
    async def pair() -> AsyncIterator[Pair]:
        pair = Pair()
        yield pair
        pair.sender.close()
        pair.receiver.close()

    @pytest.mark.parametrize("count", [1, 2, 7, 50])
    async def test_a_batch_arrives_as_its_packets(pair: Pair, count: int) -> None:
        packets = bulk_packets(count)
        assert pair.send(packets)
        assert await pair.listener.wait_for(count) == packets
        assert pair.sender.batches_sent == (count > 1)

    async def test_rpc_that_the_kernel_merged_is_told_apart(pair: Pair) -> None:
        """Datagrams of one size, of RPC and bulk by turns, sent in one go: the kernel may hand them over as one run."""
        wanted = []
        for number in range(6):
            rpc = bytes([number & 1]) + bytes([number]) * 1199
            pair.sender.sendto(rpc, pair.address)
            packets = bulk_packets(3, tail=1200)
            pair.send(packets)
            wanted += [rpc, *packets]
        assert await pair.listener.wait_for(len(wanted)) == wanted
        assert (False, bytes) in pair.listener.types

    async def test_a_device_that_cannot_segment_gets_packets_one_by_one(
        pair: Pair, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        pair.sock.batch_fault = errno.EIO
        packets = bulk_packets(5)
        assert pair.send(packets)
        assert pair.send(packets)
        assert await pair.listener.wait_for(10) == 2 * packets
        assert not pair.sender.segmentation
        assert [record.message for record in caplog.records if "one by one" in record.message]

    async def test_what_is_too_large_is_told(pair: Pair) -> None:
        pair.sock.faults = [errno.EMSGSIZE, errno.EMSGSIZE, 0]
        assert not pair.send(bulk_packets(3, size=9000))
        assert not pair.send([bytes([0x15]) * 9000], probe=True)
        assert pair.send([bytes([0x15]) * 9000], probe=True)
        assert len((await pair.listener.wait_for(1))[0]) == 9000
        assert pair.sender.segmentation

    async def test_a_full_socket_is_waited_for_and_rpc_goes_first(pair: Pair) -> None:
        writable = asyncio.Event()
        pair.sender.on_writable = writable.set
        pair.sock.faults = [errno.EAGAIN] * 3
        packets = bulk_packets(4)
        assert pair.send(packets)
        assert pair.sender.full
        pair.sender.sendto(b"\0 a question", pair.address)
        assert await pair.listener.wait_for(5) == [b"\0 a question", *packets]
        async with asyncio.timeout(10):
            await writable.wait()
        assert not pair.sender.full

    async def test_what_waits_is_bounded(pair: Pair) -> None:
        pair.sock.faults = [errno.EAGAIN] * 10_000
        packets = bulk_packets(50, tail=1200)
        for _ in range(2 * SENDS_WAITING_BYTES_MAX // 60_000):
            pair.send(packets)
            pair.sender.sendto(bytes(8000), pair.address)
        held = sum(batch.size_bytes for batch, _ in pair.sender._bulk) + sum(len(data) for data, _ in pair.sender._rpc)
        assert SENDS_WAITING_BYTES_MAX - 100_000 < held <= SENDS_WAITING_BYTES_MAX

    async def test_faults_of_the_network_are_told_and_raise_nothing(pair: Pair) -> None:
        pair.sock.faults = [errno.ENETUNREACH, errno.EHOSTUNREACH]
        pair.sender.sendto(b"\0 x", pair.address)
        assert pair.send(bulk_packets(2))
        assert len(pair.own.errors) == 2


async def test_without_batches_of_the_kernel_all_goes_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_linux, "enable", lambda sock: False)
    async with real_peers() as (one, other):
        assert one.endpoint.packet_bytes_max == BULK_PACKET_BYTES
        body = chunk(1, 1_000_000)
        await one.service.push(other.address, b"x", body, deadline_s=20)
        assert other.kept == {b"x": body}


async def test_questions_are_answered_beside_megabytes() -> None:
    """Small datagrams go to and fro all the time while two peers move 64 MiB through the same sockets."""
    answers = 0

    class Asker(Peer):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            nonlocal answers
            if data[0] == 0:
                self.endpoint.sendto(b"\1" + data[1:], addr)
            elif data[0] == 1:
                answers += 1
                self.endpoint.sendto(data.replace(b"\1", b"\0", 1), addr)
            else:
                super().datagram_received(data, addr)

    one, other = Asker(), Asker()
    try:
        for peer in (one, other):
            await peer.open(Environment(), ("127.0.0.1", 0))
        one.endpoint.sendto(b"\0 question", other.address)
        body = chunk(1, 1 << 20)
        pushes = [one.service.push(other.address, b"%d" % n, body, deadline_s=60) for n in range(64)]
        await asyncio.gather(*pushes)
        assert answers >= 20
    finally:
        await one.close()
        await other.close()


async def test_an_endpoint_says_what_it_can() -> None:
    endpoint = Endpoint(lambda data, addr: None)
    await endpoint.open(Environment(), [("127.0.0.1", 0)])
    assert (endpoint.packet_bytes_max > BULK_PACKET_BYTES) == LINUX
    assert not endpoint.full
    await endpoint.close()
    assert endpoint.is_closing()
