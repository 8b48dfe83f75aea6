"""Messages: what one direction of a stream carries, as sender and as receiver see it.

A request is a head (kind, the topic's length, the most bytes of reply that its sender takes), the topic and the
data; a reply is its data alone. Messages are sent from the caller's memory, uncopied, and put together in a buffer
of their size.

Owns the bytes of one message. Never knows packets, acks or other streams.
"""

from __future__ import annotations

import struct
from typing import Final

from p2pkv.core.bulk.packets import Buffer
from p2pkv.core.bulk.ranges import RangeSet
from p2pkv.errors import RemoteError
from p2pkv.limits import BULK_REPLY_BYTES_MAX, BULK_TOPIC_BYTES_MAX

PUSH: Final = 1
PULL: Final = 2
CALL: Final = 3
KINDS: Final = frozenset({PUSH, PULL, CALL})
_HEAD: Final = struct.Struct(">BHI")
HEAD_BYTES: Final = _HEAD.size


def request_head(kind: int, topic: bytes, reply_bytes_max: int) -> bytes:
    """What stands before the data of a request."""
    assert len(topic) <= BULK_TOPIC_BYTES_MAX
    assert reply_bytes_max <= BULK_REPLY_BYTES_MAX
    return _HEAD.pack(kind, len(topic), reply_bytes_max) + topic


class Request:
    """A request whose head and topic have arrived."""

    __slots__ = ("data_at", "kind", "reply_bytes_max", "topic")

    def __init__(self, start: memoryview) -> None:
        """Raises RemoteError where it is none."""
        self.kind, length, self.reply_bytes_max = _HEAD.unpack_from(start)
        self.data_at = HEAD_BYTES + length
        if self.kind not in KINDS or length > BULK_TOPIC_BYTES_MAX:
            raise RemoteError("malformed", "no request of ours")
        if self.reply_bytes_max > BULK_REPLY_BYTES_MAX:
            raise RemoteError("malformed", "asks for too large a reply")
        self.topic = bytes(start[HEAD_BYTES : self.data_at])

    @staticmethod
    def bytes_needed(start: memoryview, received: RangeSet) -> bool:
        """Whether head and topic have arrived. Raises RemoteError where the message ends before they do."""
        if len(start) < HEAD_BYTES:
            raise RemoteError("malformed", "a request without a head")
        if not received.covers(0, HEAD_BYTES):
            return False
        end = HEAD_BYTES + _HEAD.unpack_from(start)[1]
        if end > len(start):
            raise RemoteError("malformed", "a topic longer than its request")
        return received.covers(0, end)


class Outgoing:
    """A message on its way out: bytes never sent, bytes to be sent again, bytes not yet acknowledged."""

    __slots__ = ("_again", "_body", "_head", "_next", "_unacked", "size")

    def __init__(self, head: bytes, body: Buffer) -> None:
        self._head = head
        self._body = memoryview(body).cast("B")
        self.size = len(head) + len(self._body)
        self._next = 0
        self._again = RangeSet()
        self._unacked = RangeSet()
        if self.size:
            self._unacked.add(0, self.size)

    @property
    def pending(self) -> bool:
        """Whether there is something to send."""
        return self._next < self.size or bool(self._again)

    @property
    def done(self) -> bool:
        """Whether all of it was acknowledged."""
        return not self._unacked

    def take(self, size: int) -> tuple[int, int]:
        """The next bytes to send, at most `size`: first those that were lost. Something must be pending."""
        if self._again:
            return self._again.take(size)
        start = self._next
        self._next = min(start + size, self.size)
        return start, self._next

    def piece(self, start: int, end: int) -> tuple[bytes, memoryview]:
        """Bytes of the message: of its head (copied, short) and of its body (a view)."""
        skip = len(self._head)
        if start >= skip:
            return b"", self._body[start - skip : end - skip]
        return self._head[start:end], self._body[: max(end - skip, 0)]

    def acked(self, start: int, end: int) -> None:
        self._unacked.remove(start, end)
        if self._again:
            self._again.remove(start, end)

    def lost(self, start: int, end: int) -> None:
        """Send these bytes again, as far as they were not acknowledged in the meantime."""
        for low, high in list(self._unacked):
            if low < end and high > start:
                self._again.add(max(low, start), min(high, end))


class Incoming:
    """A message being put together."""

    __slots__ = ("_missing", "received", "size", "view")

    def __init__(self, size: int) -> None:
        self.size = size
        self.view = memoryview(bytearray(size))
        self.received = RangeSet()
        self._missing = size

    @property
    def complete(self) -> bool:
        return not self._missing

    def write(self, offset: int, payload: memoryview) -> None:
        end = offset + len(payload)
        new = self.received.add(offset, end)
        if new:
            self._missing -= new
            self.view[offset:end] = payload
