"""One connection of bulk transfer in the event loop: its timer, its callers' futures and its handlers' tasks.

Owns when a connection may send. Never decides what, and never opens one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from p2pkv.core.bulk.batch import Batch
from p2pkv.core.bulk.connection import LOST_CODE, Connection
from p2pkv.core.bulk.events import Cancelled, Closed, Failed, Replied, Requested
from p2pkv.errors import RemoteError, SilentError
from p2pkv.limits import BULK_BATCHES_PER_TURN_MAX, BULK_TIMER_S
from p2pkv.swarm.environment import Address


class Wire(Protocol):
    """What packets leave by."""

    on_writable: Callable[[], None]  # called when it takes more after it was full

    def sendto(self, data: bytes, addr: Address) -> None:
        """Send one datagram; what cannot be sent is lost, as on the network."""
        ...

    def send_batch(self, batch: Batch, addr: Address) -> bool:
        """Send packets; False where the system finds them too large for the way."""
        ...

    @property
    def full(self) -> bool:
        """Whether bulk transfer should wait."""
        ...

    @property
    def packet_bytes_max(self) -> int:
        """The largest packet to try."""
        ...

    @property
    def buffer_bytes(self) -> int:
        """Of the receive buffer; 0 where it is not known."""
        ...


class ConnectionLostError(RemoteError):
    """The peer has forgotten the connection (it began anew): the request may be made on another one."""


class Link:
    """A connection and what waits for it."""

    def __init__(
        self,
        connection: Connection,
        address: Address,
        wire: Wire,
        clock: Callable[[], float],
        on_requested: Callable[[Link, Requested], None],
        on_closed: Callable[[Link], None],
    ) -> None:
        self.connection = connection
        self.address = address
        self.handlers: dict[int, asyncio.Task[None]] = {}  # by the peer's stream
        self._wire = wire
        self._clock = clock  # counts as the loop does
        self._on_requested = on_requested
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._replies: dict[int, asyncio.Future[memoryview]] = {}  # by our stream
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0
        self._soon: asyncio.Handle | None = None

    # --- requests ---

    async def request(self, kind: int, topic: bytes, data: bytes | memoryview, reply_bytes_max: int) -> memoryview:
        """The peer's reply. Raises RemoteError. Cancelled, it tells the peer."""
        stream = self.connection.request(kind, topic, data, reply_bytes_max, self._clock())
        reply = self._replies[stream] = self._loop.create_future()
        self.wake()
        try:
            answer: memoryview = await reply
            return answer
        finally:
            del self._replies[stream]
            if not reply.done() or reply.cancelled():
                self.connection.streams.cancel(stream)
                self.wake()

    # --- turns ---

    def wake(self) -> None:
        """Let the connection send in this turn of the loop, once."""
        if self._soon is None:
            self._soon = self._loop.call_soon(self.pump)

    def pump(self) -> None:
        """Send what may leave, tell what has happened, and set the timer."""
        self._soon = None
        batches = self.connection.packets_to_send(self._clock()) if not self._wire.full else []
        for batch in batches:
            if not self._wire.send_batch(batch, self.address):
                self.connection.too_large(batch.packet_bytes, self._clock())
        self._tell()
        if len(batches) >= BULK_BATCHES_PER_TURN_MAX:
            self.wake()
        self._set_timer()

    def _tell(self) -> None:
        for event in self.connection.events():
            if isinstance(event, Replied):
                self._settle(event.stream, event.data)
            elif isinstance(event, Failed):
                self._settle(event.stream, _error_of(event))
            elif isinstance(event, Requested):
                self._on_requested(self, event)
            elif isinstance(event, Cancelled):
                handler = self.handlers.get(event.stream)
                if handler is not None:
                    handler.cancel()
            elif isinstance(event, Closed):
                self._on_closed(self)

    def _settle(self, stream: int, result: memoryview | RemoteError) -> None:
        reply = self._replies.get(stream)
        if reply is None or reply.done():
            return
        if isinstance(result, RemoteError):
            reply.set_exception(result)
        else:
            reply.set_result(result)

    # --- time ---

    def _set_timer(self) -> None:
        """A timer that fires too early does no harm, so it is set anew only where it would be late."""
        wanted_s = self.connection.next_timer()
        if self._timer is not None:
            if wanted_s is not None and self._timer_s <= wanted_s:
                return
            self._timer.cancel()
            self._timer = None
        if wanted_s is not None:
            # Loops round timers: one that is due at once, or comes a little early, would be set again at once.
            self._timer_s = max(wanted_s, self._clock() + BULK_TIMER_S)
            self._timer = self._loop.call_at(self._timer_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.connection.handle_timer(self._clock())
        self.pump()

    def stop(self) -> None:
        """No turn and no timer any more."""
        for handle in (self._timer, self._soon):
            if handle is not None:
                handle.cancel()
        self._timer = self._soon = None


def _error_of(event: Failed) -> RemoteError:
    if event.code == "silent":
        return SilentError(event.detail)
    if event.code == LOST_CODE:
        return ConnectionLostError("failed", event.detail)
    return RemoteError(event.code, event.detail)
