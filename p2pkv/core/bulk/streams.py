"""The streams of one connection: each is one request, and its reply the other way.

Theory of operation. The initiator's stream numbers are even and the responder's odd, each side's in order, so a
number tells whose request it is and whether it is new. Our requests wait for credit; then they are sent by turns of
one batch each, some large ones at a time, and short messages pass by at every other turn, so that a question never
waits behind megabytes. A request of the peer is offered as soon as its head is known, and can be refused before its
data has come. A stream ends at its requester with the whole reply, at its responder with the reply's last ack, at
both with a reset.

Owns streams and their memory. Never knows packet numbers, time-outs or congestion.
"""

from __future__ import annotations

from collections import deque

from p2pkv.core.bulk import messages
from p2pkv.core.bulk.credit import Budget, ReceiveCredit, SendCredit, cost_of
from p2pkv.core.bulk.events import Admit, Cancelled, Event, Failed, Reject, Replied, Requested
from p2pkv.core.bulk.messages import Incoming, Outgoing, Request
from p2pkv.core.bulk.packets import Buffer, Data
from p2pkv.core.bulk.ranges import RangeSet
from p2pkv.errors import RemoteError
from p2pkv.limits import (
    BULK_FINISHED_RANGES_MAX,
    BULK_SHORT_BYTES,
    BULK_STREAMS_QUEUED_MAX,
    BULK_STREAMS_SENDING_MAX,
)

_REPLY_HEAD = b"\0"  # a reply is never without a byte


class Stream:
    """One request and its reply. `cost` is what the requester's credit was charged."""

    __slots__ = (
        "cost",
        "held",
        "incoming",
        "number",
        "ours",
        "outgoing",
        "queued",
        "reply_bytes_max",
        "request",
        "seen_s",
    )

    def __init__(self, number: int, *, ours: bool) -> None:
        self.number = number
        self.ours = ours
        self.outgoing: Outgoing | None = None
        self.incoming: Incoming | None = None
        self.request: Request | None = None  # of the peer, once its head has come
        self.reply_bytes_max = 0
        self.cost = 0
        self.held = 0  # bytes of the budget
        self.queued = False  # waits for its turn to send
        self.seen_s = 0.0  # when the peer's request last got further


class Streams:
    """All streams of a connection, and whose turn it is to send."""

    def __init__(self, *, initiator: bool, admit: Admit, budget: Budget) -> None:
        self._next = 0 if initiator else 1
        self._parity = self._next
        self._admit = admit
        self._budget = budget
        self._all: dict[int, Stream] = {}
        self._waiting: deque[Stream] = deque()  # requests of ours without credit
        self._short: deque[Stream] = deque()
        self._long: deque[Stream] = deque()
        self._short_next = True
        self._finished = RangeSet()  # of the peer's streams: number // 2
        self.send_credit = SendCredit()
        self.receive_credit = ReceiveCredit()
        self.resets: deque[tuple[int, str, str, int]] = deque()  # stream, code, detail, cost: to be sent
        self.events: list[Event] = []

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, number: int) -> bool:
        return number in self._all

    # --- our requests ---

    def request(self, kind: int, topic: bytes, data: Buffer, reply_bytes_max: int) -> int:
        """Begin a request; its number. Raises RemoteError("busy") where too many are open."""
        if len(self._all) >= BULK_STREAMS_QUEUED_MAX:
            raise RemoteError("busy", "too many transfers with this peer")
        stream = Stream(self._next, ours=True)
        self._next += 2
        stream.outgoing = Outgoing(messages.request_head(kind, topic, reply_bytes_max), data)
        stream.reply_bytes_max = reply_bytes_max
        stream.cost = cost_of(stream.outgoing.size, reply_bytes_max)
        self._all[stream.number] = stream
        self._waiting.append(stream)
        self.start_waiting()
        return stream.number

    def start_waiting(self) -> None:
        """Let requests go that have credit now."""
        while self._waiting and self.send_credit.take(self._waiting[0].cost):
            self._queue(self._waiting.popleft())

    def cancel(self, number: int) -> None:
        """Lose interest in a request of ours. No event follows."""
        stream = self._all.pop(number, None)
        if stream is None:
            return
        if stream in self._waiting:
            self._waiting.remove(stream)
            stream.cost = 0  # it was never charged
        self._unqueue(stream)
        self.resets.append((number, "failed", "cancelled", stream.cost))

    # --- the peer's requests ---

    def reply(self, number: int, data: Buffer) -> None:
        """Answer a request of the peer; nothing where it lost interest."""
        stream = self._all.get(number)
        if stream is None or stream.outgoing is not None:
            return
        size = len(memoryview(data).cast("B"))
        if size > stream.reply_bytes_max:
            self.refuse(number, "failed", f"a reply of {size} bytes, {stream.reply_bytes_max} wanted")
            return
        if not self._hold(stream, size):
            self.refuse(number, "busy", "the peer has no memory to spare")
            return
        stream.outgoing = Outgoing(_REPLY_HEAD, data)
        self._queue(stream)

    def refuse(self, number: int, code: str, detail: str) -> None:
        """Answer a request of the peer with an error."""
        stream = self._all.pop(number, None)
        if stream is not None:
            self._end_theirs(stream)
            self.resets.append((number, code, detail, 0))

    def _end_theirs(self, stream: Stream) -> None:
        self._unqueue(stream)
        self._hold(stream, 0)
        self.receive_credit.ended(stream.cost)
        self._finish(stream.number)

    def _finish(self, number: int) -> None:
        self._finished.add(number // 2, number // 2 + 1)
        self._finished.forget(0, BULK_FINISHED_RANGES_MAX)

    def _hold(self, stream: Stream, size_bytes: int) -> bool:
        """Change what a stream takes of the budget."""
        if size_bytes > stream.held and not self._budget.take(size_bytes - stream.held):
            return False
        if size_bytes < stream.held:
            self._budget.give_back(stream.held - size_bytes)
        stream.held = size_bytes
        return True

    # --- what comes in ---

    def on_data(self, packet: Data, now: float) -> bool:
        """Take in bytes; whether a message has become whole. Raises RemoteError where the peer breaks the protocol."""
        stream = self._all.get(packet.stream)
        if stream is None:
            stream = self._begin(packet)
            if stream is None:
                return False
        incoming = stream.incoming
        if incoming is None:
            incoming = stream.incoming = self._expect_reply(stream, packet)
        if incoming.size != packet.size:
            raise RemoteError("misbehaved", "a message changed its size")
        if incoming.complete:
            return False
        incoming.write(packet.offset, packet.payload)
        if stream.ours:
            return self._reply_progress(stream, incoming)
        stream.seen_s = now
        return self._request_progress(stream, incoming)

    def _begin(self, packet: Data) -> Stream | None:
        """A new request of the peer; None where the packet is late or the request is refused."""
        number = packet.stream
        if number & 1 == self._parity or number // 2 in self._finished:
            return None  # of a stream that has ended here
        stream = Stream(number, ours=False)
        stream.cost = cost_of(packet.size, 0)
        self._all[number] = stream
        if not self._hold(stream, packet.size):
            self.refuse(number, "busy", "the peer has no memory to spare")
            return None
        stream.incoming = Incoming(packet.size)
        return stream

    @staticmethod
    def _expect_reply(stream: Stream, packet: Data) -> Incoming:
        if packet.size > stream.reply_bytes_max + len(_REPLY_HEAD):
            raise RemoteError("misbehaved", "a reply larger than asked for")
        return Incoming(packet.size)

    def _reply_progress(self, stream: Stream, incoming: Incoming) -> bool:
        if not incoming.complete:
            return False
        del self._all[stream.number]
        self._unqueue(stream)
        self.events.append(Replied(stream.number, incoming.view[len(_REPLY_HEAD) :].toreadonly()))
        return True

    def _request_progress(self, stream: Stream, incoming: Incoming) -> bool:
        if stream.request is None and Request.bytes_needed(incoming.view, incoming.received):
            self._offer(stream, Request(incoming.view))
        request = stream.request
        if request is None or not incoming.complete or stream.number not in self._all:
            return incoming.complete
        data = incoming.view[request.data_at :].toreadonly()
        stream.incoming = Incoming(0)  # late packets of it find it complete
        stream.incoming.size = incoming.size
        self.events.append(Requested(stream.number, request.kind, request.topic, data))
        return True

    def _offer(self, stream: Stream, request: Request) -> None:
        stream.request, stream.reply_bytes_max = request, request.reply_bytes_max
        assert stream.incoming is not None
        stream.cost = cost_of(stream.incoming.size, request.reply_bytes_max)
        verdict = self._admit(request.kind, request.topic, stream.incoming.size - request.data_at)
        if isinstance(verdict, Reject):
            self.refuse(stream.number, verdict.code, verdict.detail)

    def on_reset(self, number: int, code: str, detail: str, cost: int) -> None:
        """The peer gave up its request, or refused ours."""
        stream = self._all.pop(number, None)
        if number & 1 == self._parity:
            if stream is not None:
                self._unqueue(stream)
                self.events.append(Failed(number, code, detail))
        elif stream is not None:
            self._end_theirs(stream)
            self.events.append(Cancelled(number))
        elif number // 2 not in self._finished:
            self.receive_credit.ended(cost)
            self._finish(number)

    # --- what goes out ---

    def _queue(self, stream: Stream) -> None:
        if not stream.queued:
            assert stream.outgoing is not None
            stream.queued = True
            (self._short if stream.outgoing.size <= BULK_SHORT_BYTES else self._long).append(stream)

    def _unqueue(self, stream: Stream) -> None:
        if stream.queued:
            stream.queued = False
            for queue in (self._short, self._long):
                if stream in queue:
                    queue.remove(stream)

    @property
    def pending(self) -> bool:
        """Whether any stream has bytes to send."""
        return bool(self._short or self._long)

    def next_to_send(self) -> Stream | None:
        """Whose turn it is. `sent` must follow."""
        first, second = (self._short, self._long) if self._short_next else (self._long, self._short)
        queue = first or second
        return queue[0] if queue else None

    def sent(self, stream: Stream) -> None:
        """A stream had its turn."""
        assert stream.outgoing is not None
        short = stream.outgoing.size <= BULK_SHORT_BYTES
        queue, self._short_next = (self._short, False) if short else (self._long, True)
        queue.popleft()
        stream.queued = stream.outgoing.pending
        if stream.queued:
            queue.insert(BULK_STREAMS_SENDING_MAX - 1, stream)

    def on_acked(self, stream: Stream, start: int, end: int) -> None:
        outgoing = stream.outgoing
        assert outgoing is not None
        outgoing.acked(start, end)
        if outgoing.done and not stream.ours and self._all.pop(stream.number, None) is not None:
            self._end_theirs(stream)

    def on_lost(self, stream: Stream, start: int, end: int) -> None:
        outgoing = stream.outgoing
        if outgoing is not None and self._all.get(stream.number) is stream:
            outgoing.lost(start, end)
            if outgoing.pending:
                self._queue(stream)

    # --- the end ---

    def give_up_stalled(self, before_s: float) -> None:
        """Refuse requests of the peer that got no further since then."""
        stalled = [s for s in self._all.values() if not s.ours and s.seen_s < before_s]
        for stream in stalled:
            if stream.incoming is not None and not stream.incoming.complete:
                self.refuse(stream.number, "silent", "the request did not come any further")

    def end(self, code: str, detail: str) -> None:
        """The connection is no more."""
        for stream in list(self._all.values()):
            if stream.ours:
                self.events.append(Failed(stream.number, code, detail))
            else:
                self._end_theirs(stream)
                self.events.append(Cancelled(stream.number))
        self._all.clear()
        self._waiting.clear()
        self._short.clear()
        self._long.clear()
