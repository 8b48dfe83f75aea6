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
_Waiting = tuple[messages.FindRecords, asyncio.Future[Reply]]


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
        return await self.begin(contact, request)

    def begin(self, contact: Contact, request: messages.FindRecords) -> asyncio.Future[Reply]:
        """Ask a contact that takes bulk transfer. The future fails with RemoteError; cancelled, nothing is asked."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        queue = self._queues.get(contact)
        if queue is None:
            queue = self._queues[contact] = _Queue()
        if len(queue.waiting) >= RUNS_WAITING_MAX:
            future.set_exception(RemoteError("busy", "too many requests wait here"))
            return future
        queue.waiting.append((request, future))
        if not queue.soon:
            queue.soon = True
            self._loop.call_soon(self._turn, contact, queue)
        return future

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
            for _, future in queue.waiting:
                _fail(future, _stopping())
            queue.waiting.clear()
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

    async def _call(self, contact: Contact, queue: _Queue, part: list[_Waiting]) -> None:
        asked_s = self._loop.time()
        try:
            replies = await self._ask(contact, [request for request, _ in part])
            queue.doubted = False
            for (_, future), reply in zip(part, replies, strict=False):
                _settle(future, reply)
            queue.waiting.extendleft(reversed(part[len(replies) :]))
        except RemoteError as error:
            if isinstance(error, SilentError):
                self._lookups.silent(contact, asked_s)
                part += queue.waiting
                queue.waiting.clear()
            for _, future in part:
                _fail(future, error)
        except asyncio.CancelledError:
            for _, future in part:
                _fail(future, _stopping())
            raise
        except Exception as error:
            for _, future in part:
                _fail(future, RemoteError("failed", repr(error)))
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
        self.waiting: deque[_Waiting] = deque()
        self.calls = 0  # under way
        self.heard_s = 0.0  # when a call was answered, or the first one sent
        self.soon = False  # a turn is coming
        self.doubted = False  # it may be dead


def _next_part(waiting: deque[_Waiting]) -> list[_Waiting]:
    """What goes into one message, taken out: the first that are still wanted. A long run is asked for alone."""
    part: list[_Waiting] = []
    while waiting and len(part) < RUNS_ASKED_MAX:
        request, future = waiting[0]
        long = request.limit > RUN_RECORDS_MAX and not request.digest_only
        if part and long:
            break
        waiting.popleft()
        if not future.done():
            part.append((request, future))
            if long:
                break
    return part


def _stopping() -> RemoteError:
    return RemoteError("failed", "the peer stops")


def _settle(future: asyncio.Future[Reply], reply: Reply) -> None:
    if future.done():
        return
    try:
        future.set_result(checked(reply))
    except RemoteError as error:
        _fail(future, error)


def _fail(future: asyncio.Future[Reply], error: RemoteError) -> None:
    """Each gets an error of its own: many may raise it."""
    if not future.done():
        future.set_exception(error.again())
        future.exception()  # seen, where nobody waits any more


def checked(reply: Reply) -> Reply:
    """A run whose fields fit together. Raises RemoteError."""
    if reply.more and reply.end is None:
        raise RemoteError("misbehaved", "a run that goes on without an end")
    check_batches(reply.batches)
    return reply


def check_batches(batches: list[bytes]) -> None:
    if len(batches) > ATOMIC_BATCHES_PER_PAGE_MAX or any(len(batch) != BATCH_ID_BYTES for batch in batches):
        raise RemoteError("misbehaved", "too many batches, or ids that are none")
