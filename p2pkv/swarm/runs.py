"""Asks other peers for runs of pages, many in one message where many are wanted.

Theory of operation. A read of a key of many pages asks every peer for runs of dozens of them. What is asked of one
contact in one turn of the event loop, or while its earlier calls are under way, travels together by bulk transfer; an
answer brings as many runs as it has room for, and the rest is asked for again. A short request that is alone goes by
RPC, and so does everything to contacts that take no bulk transfer. Each contact has its own queue, so a slow one holds
up nobody else.

Owns what waits to be asked. Knows nothing of pages, quorums or replicas.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

from p2pkv import messages
from p2pkv.core.records import BATCH_ID_BYTES
from p2pkv.errors import RemoteError, SilentError
from p2pkv.limits import (
    ATOMIC_BATCHES_PER_PAGE_MAX,
    RUN_RECORDS_MAX,
    RUNS_ASKED_MAX,
    RUNS_CALLS_AT_ONCE_MAX,
    RUNS_DOUBT_S,
    RUNS_SHORT_RECORDS,
    RUNS_WAITING_MAX,
)
from p2pkv.swarm.bulk_calls import BulkCalls
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.lookup import Lookups
from p2pkv.swarm.protocol import PeerProtocol

Reply = messages.FindRecordsReply
Done = Callable[[Reply | RemoteError], None]
"""Takes the answer, or what went wrong; called once, and never at once."""


class Asked:
    """A question on its way. Its outcome comes by a function: an opening of many pages has a thousand of them."""

    __slots__ = ("_done", "request")

    def __init__(self, request: messages.FindRecords, done: Done) -> None:
        self.request = request
        self._done: Done | None = done

    @property
    def over(self) -> bool:
        return self._done is None

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        self._done = None

    def settle(self, outcome: Reply | RemoteError) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(outcome)


class Runs:
    """Runs of pages, from any contact."""

    def __init__(self, protocol: PeerProtocol, calls: BulkCalls, lookups: Lookups) -> None:
        self._protocol = protocol
        self._calls = calls
        self._lookups = lookups
        self._queues: dict[Contact, _Queue] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._loop = asyncio.get_running_loop()

    async def find(self, contact: Contact, request: messages.FindRecords) -> Reply:
        """One run of a contact. Raises RemoteError."""
        if not contact.bulk:
            return checked(await self._protocol.call(contact, messages.FIND_RECORDS, request))
        future: asyncio.Future[Reply] = self._loop.create_future()
        asked = self.begin(contact, request, partial(_into, future))
        try:
            return await future
        finally:
            asked.cancel()

    def begin(self, contact: Contact, request: messages.FindRecords, done: Done) -> Asked:
        """Ask a contact that takes bulk transfer. What is cancelled before it is sent is not asked."""
        asked = Asked(request, done)
        queue = self._queues.get(contact)
        if queue is None:
            queue = self._queues[contact] = _Queue()
        if len(queue.waiting) >= RUNS_WAITING_MAX:
            self._loop.call_soon(asked.settle, RemoteError("busy", "too many requests wait here"))
            return asked
        queue.waiting.append(asked)
        if not queue.soon:
            queue.soon = True
            self._loop.call_soon(self._turn, contact, queue)
        return asked

    def keeps_waiting(self, contact: Contact) -> bool:
        """Has it owed an answer for so long, or while so many others answered, that it may be dead?"""
        queue = self._queues.get(contact)
        if queue is None or not queue.calls:
            return False
        return queue.doubted or self._loop.time() - queue.heard_s > RUNS_DOUBT_S

    def doubt(self, contact: Contact) -> None:
        """Others have answered what this one owes: until it answers something, it is asked where nobody else can be."""
        queue = self._queues.get(contact)
        if queue is not None:
            queue.doubted = queue.calls > 0

    def _turn(self, contact: Contact, queue: _Queue) -> None:
        """Send what waits, as far as calls may be under way."""
        queue.soon = False
        if self._closed:
            _fail(queue.take_all(), _stopping())
        while queue.waiting and queue.calls < RUNS_CALLS_AT_ONCE_MAX:
            part = _next_part(queue.waiting)
            if not part:
                break
            if not queue.calls:
                queue.heard_s = self._loop.time()
            queue.calls += 1
            task = self._loop.create_task(self._call(contact, queue, part))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if not queue.waiting and not queue.calls:
            self._queues.pop(contact, None)

    async def _call(self, contact: Contact, queue: _Queue, part: list[Asked]) -> None:
        asked_s = self._loop.time()
        try:
            replies = await self._ask(contact, [asked.request for asked in part])
            queue.doubted = False
            queue.waiting.extendleft(reversed(part[len(replies) :]))
            for asked, reply in zip(part, replies, strict=False):
                asked.settle(_judged(reply))
        except RemoteError as error:
            if isinstance(error, SilentError):
                self._lookups.silent(contact, asked_s)
                part += queue.take_all()
            _fail(part, error)
        except asyncio.CancelledError:
            _fail(part, _stopping())
            raise
        except Exception as error:
            _fail(part, RemoteError("failed", repr(error)))
            raise
        finally:
            queue.calls -= 1
            queue.heard_s = self._loop.time()
            self._turn(contact, queue)

    async def _ask(self, contact: Contact, requests: list[messages.FindRecords]) -> list[Reply]:
        """Replies to the first of the requests, at least to one."""
        if len(requests) == 1 and (requests[0].digest_only or requests[0].limit <= RUNS_SHORT_RECORDS):
            return [await self._protocol.call(contact, messages.FIND_RECORDS, requests[0])]
        reply = await self._calls.call(contact, messages.FIND_RUNS, messages.FindRuns(requests))
        if not 0 < len(reply.replies) <= len(requests):
            raise RemoteError("misbehaved", "a wrong number of runs")
        return reply.replies

    async def close(self) -> None:
        """End all calls; whoever waits for them, or asks from now on, is told so."""
        self._closed = True
        await asyncio.sleep(0)  # a task that is cancelled before its first step would tell nobody
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Queue:
    """What is to be asked of one contact."""

    __slots__ = ("calls", "doubted", "heard_s", "soon", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Asked] = deque()
        self.calls = 0  # under way
        self.heard_s = 0.0  # when a call was answered, or the first one sent
        self.soon = False  # a turn is coming
        self.doubted = False  # it may be dead

    def take_all(self) -> list[Asked]:
        """All that waits, taken out."""
        waiting = list(self.waiting)
        self.waiting.clear()
        return waiting


def _next_part(waiting: deque[Asked]) -> list[Asked]:
    """What goes into one message, taken out: the first that are still wanted. A long run is asked for alone."""
    part: list[Asked] = []
    while waiting and len(part) < RUNS_ASKED_MAX:
        asked = waiting[0]
        long = asked.request.limit > RUN_RECORDS_MAX and not asked.request.digest_only
        if part and long:
            break
        waiting.popleft()
        if not asked.over:
            part.append(asked)
            if long:
                break
    return part


def _stopping() -> RemoteError:
    return RemoteError("failed", "the peer stops")


def _into(future: asyncio.Future[Reply], outcome: Reply | RemoteError) -> None:
    """Wake up whoever awaits the answer."""
    if future.done():
        return
    if isinstance(outcome, RemoteError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _judged(reply: Reply) -> Reply | RemoteError:
    try:
        return checked(reply)
    except RemoteError as error:
        return error


def _fail(part: Iterable[Asked], error: RemoteError) -> None:
    """Each gets an error of its own: many may raise it."""
    for asked in part:
        asked.settle(error.again())


def checked(reply: Reply) -> Reply:
    """A run whose fields fit together. Raises RemoteError."""
    if reply.more and reply.end is None:
        raise RemoteError("misbehaved", "a run that goes on without an end")
    check_batches(reply.batches)
    return reply


def check_batches(batches: list[bytes]) -> None:
    if len(batches) > ATOMIC_BATCHES_PER_PAGE_MAX or any(len(batch) != BATCH_ID_BYTES for batch in batches):
        raise RemoteError("misbehaved", "too many batches, or ids that are none")
