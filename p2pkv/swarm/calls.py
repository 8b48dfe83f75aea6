"""Calls that wait for their answer, and the one timer that sends them again.

Theory of operation. A call is sent at once, then again after the contact's retransmission time-out, half as long again
each time and jittered, always with the same message id, until it is answered, its resends are used up and the last of
them has had its time, or its deadline comes. That is gentler than RFC 6298, section 5.5: a call is one datagram, and
one that was lost three times should not cost its user ten round trips. All calls share a heap ordered by their next
moment and one timer of the loop; calls that are over stay in the heap until they reach its top, which costs less than
removing them. A call tells its outcome by a function and not by a future: a lookup takes it in the very turn in which
the answer came.

Owns moments and the heap. Never sends: it says which calls are due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random

from p2pkv.errors import RemoteError
from p2pkv.limits import RPC_BACKOFF_S_MAX
from p2pkv.swarm.contact import Contact
from p2pkv.wire import Decode

BACKOFF = 1.5  # each wait for an answer is this times the one before
JITTER = 0.1  # resends vary by this part, so that calls lost together do not come together again

Done = Callable[[object, RemoteError | None], None]
"""Takes the decoded answer, or what went wrong; called once, unless the call is cancelled before."""

LAG_S = 0.01  # a timer this late tells that the loop was busy or the machine asleep


class Call:
    """One request on its way."""

    __slots__ = (
        "contact",
        "datagram",
        "deadline_s",
        "decode",
        "done",
        "message_id",
        "over",
        "proving",
        "resends",
        "resends_left",
        "rto_s",
        "rto_s_max",
        "sent_s",
        "withdraw",
    )

    def __init__(
        self,
        message_id: bytes,
        contact: Contact,
        datagram: bytes,
        decode: Decode,
        done: Done,
        withdraw: Callable[[Call], None],
        now_s: float,
        deadline_s: float,
        resends_max: int,
        rto_s: float,
    ) -> None:
        self.message_id = message_id
        self.contact = contact
        self.datagram = datagram
        self.decode = decode
        self.done = done
        self.withdraw = withdraw
        self.over = False  # answered, given up or cancelled
        self.proving = False
        self.sent_s = now_s
        self.deadline_s = now_s + deadline_s
        self.resends = 0
        self.resends_left = resends_max
        self.rto_s = rto_s
        self.rto_s_max = max(rto_s, RPC_BACKOFF_S_MAX)

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        self.withdraw(self)

    def next_moment_s(self, now_s: float, random: Random) -> float:
        """When to look at this call again, having just sent it. Lengthens the time-out of the time after."""
        wait_s = self.rto_s * (1 + JITTER * random.random()) if self.resends else self.rto_s
        self.rto_s = min(BACKOFF * self.rto_s, self.rto_s_max)
        return min(now_s + wait_s, self.deadline_s)


class CallTimer:
    """Calls by their next moment."""

    def __init__(self, on_due: Callable[[Call, float], None]) -> None:
        self._on_due = on_due
        self._heap: list[tuple[float, int, Call]] = []
        self._count = 0  # breaks ties, so that calls are never compared
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0
        self._let_read = False
        self._firing = False

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, call: Call, moment_s: float, loop: asyncio.AbstractEventLoop) -> None:
        self._count += 1
        heappush(self._heap, (moment_s, self._count, call))
        if not self._firing and (self._timer is None or moment_s < self._timer_s):
            self._arm(moment_s, loop)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._heap.clear()

    def _arm(self, moment_s: float, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = moment_s
        self._timer = loop.call_at(moment_s, self._fire, loop)

    def _fire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        # The loop may fire up to its clock's resolution early.
        now_s = max(loop.time(), self._timer_s)
        if now_s - self._timer_s > LAG_S and not self._let_read:
            # This process stood still; the answers may lie in the socket. Let the loop read them first.
            self._let_read = True
            self._arm(now_s + LAG_S / 10, loop)
            return
        self._let_read = False
        self._firing = True  # what is added now may be due behind others: the timer is set when all is known
        try:
            self._take_due(now_s)
        finally:
            self._firing = False
            if self._heap:
                self._arm(self._heap[0][0], loop)

    def _take_due(self, now_s: float) -> None:
        heap = self._heap
        while heap and (heap[0][2].over or heap[0][0] <= now_s):
            call = heappop(heap)[2]
            if not call.over:
                self._on_due(call, now_s)
