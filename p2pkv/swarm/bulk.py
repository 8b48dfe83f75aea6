"""The driver of bulk transfer: gives connections of `core.bulk` packets, time and a socket, and callers `push` and
`pull`.

Theory of operation. One connection serves all transfers with an address; it is opened by the first and ends when it
idles. Packets that arrive in one turn of the event loop are all taken in before the connections they belong to may
send, so acks are few and batches full. A connection sends a bounded number of batches a turn, then the loop goes
on: RPC on the same socket waits a millisecond at most. The wire sends a batch in one
system call where it can (see udp_linux), else its packets one by one.

Owns tasks, timers and futures. Never decides what is sent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from p2pkv.core.bulk import messages, packets
from p2pkv.core.bulk.batch import Options
from p2pkv.core.bulk.connection import Connection
from p2pkv.core.bulk.credit import Budget
from p2pkv.core.bulk.events import Accept, Reject, Requested
from p2pkv.core.bulk.handshake import SECRET_BYTES, Doorman
from p2pkv.core.bulk.packets import Buffer
from p2pkv.errors import RemoteError, SilentError
from p2pkv.limits import (
    BULK_ANSWER_BYTES_MAX,
    BULK_BUSY_RETRY_MAX_S,
    BULK_BUSY_RETRY_S,
    BULK_CONNECTIONS_MAX,
    BULK_DEAD_S,
    BULK_HELLO_RETRY_MAX_S,
    BULK_HELLO_RETRY_S,
    BULK_REPLY_BYTES_MAX,
    BULK_TOPIC_BYTES_MAX,
    STORED_CHUNK_BYTES_MAX,
)
from p2pkv.swarm.bulk_link import ConnectionLostError, Link, Wire
from p2pkv.swarm.environment import Address, Environment

log = logging.getLogger(__name__)

OnOffer = Callable[[Address, bytes, int], Accept | Reject]
OnReceived = Callable[[Address, bytes, memoryview], Awaitable[bytes]]
OnRequest = Callable[[Address, bytes], Awaitable[Buffer]]
OnCall = Callable[[bytes, memoryview], Awaitable[Buffer]]


async def _no_calls(method: bytes, body: memoryview) -> Buffer:
    raise RemoteError("unknown-method", "nothing is called here")


class BulkService:
    """All bulk transfer of one peer."""

    def __init__(
        self,
        wire: Wire,
        env: Environment,
        *,
        on_offer: OnOffer,
        on_received: OnReceived,
        on_request: OnRequest,
        options: Options | None = None,
    ) -> None:
        """`on_received` gets pushed data and returns the answer once it is durable; `on_request` gives what is pulled.

        Both may raise RemoteError, which travels. `on_offer` says beforehand whether a push is wanted.
        """
        names = ("pushed", "pulled", "called", "received", "served", "answered", "connections", "malformed")
        self.counters = dict.fromkeys(names, 0)
        self.on_call: OnCall = _no_calls  # answers a method, called by its name
        self._wire = wire
        self._env = env
        self._on_offer = on_offer
        self._on_received = on_received
        self._on_request = on_request
        self._options = options or Options(wire.packet_bytes_max, wire.buffer_bytes or Options.buffer_bytes)
        wire.on_writable = self._on_writable
        self._loop = asyncio.get_running_loop()
        # A loop's own time may be exact to a millisecond only (uvloop's is), and stands still during a turn.
        self._clock = self._loop.time if env.simulated else time.monotonic
        self._doorman = Doorman(env.random_bytes(SECRET_BYTES))
        self._budget = Budget()
        self._links: dict[int, Link] = {}  # by our id
        self._link_to: dict[Address, Link] = {}
        self._calling: dict[Address, asyncio.Task[Link]] = {}
        self._cookies: dict[int, tuple[Address, asyncio.Future[packets.Cookie]]] = {}  # by our id
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    # --- transfers ---

    async def push(self, address: Address, header: bytes, data: Buffer, *, deadline_s: float) -> bytes:
        """Bring header and data to a peer; its answer, given after it made the data durable. Raises RemoteError."""
        assert len(header) <= BULK_TOPIC_BYTES_MAX
        assert len(data) <= STORED_CHUNK_BYTES_MAX
        answer = await self._exchange(address, messages.PUSH, header, data, BULK_ANSWER_BYTES_MAX, deadline_s)
        self.counters["pushed"] += 1
        return bytes(answer)

    async def pull(self, address: Address, header: bytes, *, size_max: int, deadline_s: float) -> memoryview:
        """What the peer gives for a header: at most `size_max` bytes, unchecked. Raises RemoteError."""
        assert len(header) <= BULK_TOPIC_BYTES_MAX
        size_max = min(size_max, BULK_REPLY_BYTES_MAX)
        data = await self._exchange(address, messages.PULL, header, b"", size_max, deadline_s)
        self.counters["pulled"] += 1
        return data

    async def call(self, address: Address, method: bytes, body: Buffer, *, deadline_s: float) -> memoryview:
        """A method's answer to a request. Raises RemoteError."""
        assert len(method) <= BULK_TOPIC_BYTES_MAX
        assert 0 < len(body) <= STORED_CHUNK_BYTES_MAX
        answer = await self._exchange(address, messages.CALL, method, body, BULK_REPLY_BYTES_MAX, deadline_s)
        self.counters["called"] += 1
        return answer

    def connected(self, address: Address) -> bool:
        """Whether there is a connection whose peer is not known to be silent."""
        link = self._link_to.get(address)
        return link is not None and link.connection.usable and not link.connection.silent(self._clock())

    def open_to(self, address: Address) -> bool:
        """Whether there is a connection, be its peer silent or not."""
        return address in self._link_to

    def quiet_s(self, address: Address) -> float:
        """How long a peer that something is awaited of was not heard."""
        link = self._link_to.get(address)
        return link.connection.quiet_s(self._clock()) if link is not None else 0.0

    async def _exchange(
        self, address: Address, kind: int, topic: bytes, data: Buffer, reply_bytes_max: int, deadline_s: float
    ) -> memoryview:
        try:
            async with asyncio.timeout(deadline_s):
                return await self._insist(address, kind, topic, data, reply_bytes_max)
        except TimeoutError:
            raise SilentError(f"not done within {deadline_s:g} s") from None

    async def _insist(
        self, address: Address, kind: int, topic: bytes, data: Buffer, reply_bytes_max: int
    ) -> memoryview:
        """Again where the peer is busy, and on a new connection where it has forgotten ours. Ends by the deadline."""
        pause_s = BULK_BUSY_RETRY_S
        while True:
            try:
                link = await self._link(address)
                return await link.request(kind, topic, memoryview(data), reply_bytes_max)
            except ConnectionLostError:
                pass
            except RemoteError as error:
                if error.code != "busy":
                    raise
            await asyncio.sleep(pause_s * self._env.random.random())
            pause_s = min(2 * pause_s, BULK_BUSY_RETRY_MAX_S)

    # --- connections ---

    async def _link(self, address: Address) -> Link:
        """The connection with an address, opened where there is none."""
        link = self._link_to.get(address)
        if link is not None and link.connection.usable:
            return link
        if self._closed:
            raise RemoteError("failed", "the peer stops")
        task = self._calling.get(address)
        if task is None:
            task = self._calling[address] = self._loop.create_task(self._call(address))
            task.add_done_callback(lambda done: self._called(address, done))
        return await asyncio.shield(task)

    def _called(self, address: Address, task: asyncio.Task[Link]) -> None:
        self._calling.pop(address, None)
        if not task.cancelled():
            task.exception()  # those who waited have it

    async def _call(self, address: Address) -> Link:
        """Say hello until a cookie comes. Raises SilentError."""
        ours = self._new_id()
        cookie: asyncio.Future[packets.Cookie] = self._loop.create_future()
        self._cookies[ours] = address, cookie
        try:
            fields = await self._say_hello(address, ours, cookie)
        finally:
            del self._cookies[ours]
        opening = packets.cookie(packets.OPEN, fields)
        return self._add(address, ours, fields.responder, opening=opening)

    async def _say_hello(self, address: Address, ours: int, cookie: asyncio.Future[packets.Cookie]) -> packets.Cookie:
        patience_s, end_s = BULK_HELLO_RETRY_S, self._clock() + BULK_DEAD_S
        while self._clock() < end_s:
            self._wire.sendto(packets.hello(ours), address)
            done, _ = await asyncio.wait([cookie], timeout=patience_s)
            if done:
                return cookie.result()
            patience_s = min(2 * patience_s, BULK_HELLO_RETRY_MAX_S)
        raise SilentError("no answer to a bulk hello")

    def _new_id(self) -> int:
        return int.from_bytes(self._env.random_bytes(8), "big")

    def _add(self, address: Address, ours: int, theirs: int, *, opening: bytes) -> Link:
        connection = Connection(
            ours,
            theirs,
            self._clock(),
            initiator=bool(opening),
            admit=lambda kind, topic, size: self._admit(address, kind, topic, size),
            budget=self._budget,
            opening=opening,
            options=self._options,
        )
        link = Link(connection, address, self._wire, self._clock, self._on_requested, self._on_link_closed)
        self._links[ours] = self._link_to[address] = link
        self.counters["connections"] += 1
        link.wake()
        return link

    def _on_link_closed(self, link: Link) -> None:
        self._links.pop(link.connection.ours, None)
        if self._link_to.get(link.address) is link:
            del self._link_to[link.address]

    # --- what comes in ---

    def datagram_received(self, data: Buffer, address: Address) -> None:
        """A datagram whose first byte is at least 0x10. Never raises."""
        if self._closed:
            return
        try:
            kind, ours = packets.kind_of(data)
            link = self._links.get(ours)
            if link is not None and kind in packets.OF_CONNECTION:
                link.connection.receive(data, self._clock())
                link.wake()
            else:
                self._on_stray(kind, ours, data, address)
        except RemoteError:
            self.counters["malformed"] += 1

    def _on_stray(self, kind: int, number: int, data: Buffer, address: Address) -> None:
        """A packet of no connection: of a handshake, or of one that has ended."""
        if kind == packets.HELLO:
            cookie = self._doorman.answer(packets.parse_hello(data), address, self._new_id(), self._clock())
            self._wire.sendto(packets.cookie(packets.COOKIE, cookie), address)
        elif kind == packets.COOKIE:
            self._on_cookie(packets.parse_cookie(data), address)
        elif kind == packets.OPEN:
            self._on_open(packets.parse_cookie(data), address)
        elif kind == packets.LOST:
            self._on_lost(number, address)
        elif kind in packets.NUMBERED:
            self._wire.sendto(packets.lost(number), address)

    def _on_cookie(self, cookie: packets.Cookie, address: Address) -> None:
        asked, waiting = self._cookies.get(cookie.initiator, (None, None))
        if waiting is not None and asked == address and not waiting.done():
            waiting.set_result(cookie)

    def _on_open(self, cookie: packets.Cookie, address: Address) -> None:
        link = self._links.get(cookie.responder)
        if link is None and self._doorman.admits(cookie, address, self._clock()) and self._make_room():
            self._add(address, cookie.responder, cookie.initiator, opening=b"")
        elif link is not None and link.address == address:
            link.connection.greet(self._clock())
            link.wake()

    def _on_lost(self, theirs: int, address: Address) -> None:
        link = self._link_to.get(address)
        if link is not None and link.connection.theirs == theirs:
            link.connection.forgotten(self._clock())
            link.wake()

    def _make_room(self) -> bool:
        """For one more connection: the oldest that has nothing to do gives way."""
        if len(self._links) < BULK_CONNECTIONS_MAX:
            return True
        idle = next((link for link in self._links.values() if not link.connection.streams), None)
        if idle is None:
            return False
        idle.connection.close()
        idle.pump()
        return True

    # --- the peer's requests ---

    def _admit(self, address: Address, kind: int, topic: bytes, size: int) -> Accept | Reject:
        if kind == messages.PULL:
            return Accept() if not size else Reject("malformed", "a pull that brings data")
        if kind == messages.CALL:
            return Accept() if 0 < size <= STORED_CHUNK_BYTES_MAX else Reject("malformed", "a call of no such length")
        return self._on_offer(address, topic, size)

    def _on_requested(self, link: Link, event: Requested) -> None:
        task = self._loop.create_task(self._answer(link, event))
        link.handlers[event.stream] = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, link: Link, event: Requested) -> None:
        streams = link.connection.streams
        try:
            streams.reply(event.stream, await self._work(link.address, event))
        except RemoteError as error:
            streams.refuse(event.stream, error.code, error.detail)
        except Exception:
            log.exception("a bulk request of %s failed", link.address)
            streams.refuse(event.stream, "failed", "the peer could not do it")
        finally:
            link.handlers.pop(event.stream, None)
            link.wake()

    async def _work(self, address: Address, event: Requested) -> Buffer:
        if event.kind == messages.PULL:
            data = await self._on_request(address, event.topic)
            self.counters["served"] += 1
            return data
        if event.kind == messages.CALL:
            self.counters["answered"] += 1
            return await self.on_call(event.topic, event.data)
        answer = await self._on_received(address, event.topic, event.data)
        self.counters["received"] += 1
        return answer

    def _on_writable(self) -> None:
        for link in self._links.values():
            link.wake()

    # --- the end ---

    async def close(self) -> None:
        """Tell the peers, fail what is under way and end every task."""
        self._closed = True
        tasks = [*self._tasks, *self._calling.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in list(self._links.values()):
            link.connection.close("silent", "the peer stops")
            link.pump()
            link.stop()
