"""Group commit: one thread that takes all the work queued, does it under one fsync, and then says so.

Owns the thread, its queue and the way back to the event loop (one wake-up a group). Knows nothing of what the work is.
"""

from __future__ import annotations

import asyncio
import errno
import sqlite3
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from p2pkv.storage.interface import QuotaExceededError, StoreFailedError
from p2pkv.storage.room import Room

W = TypeVar("W")


class Job(Generic[W]):
    """A piece of work, and what became of it: `result`, unless `error` is set."""

    __slots__ = ("error", "future", "result", "weight", "work")

    def __init__(self, work: W, weight: int, future: asyncio.Future[object]) -> None:
        self.work = work
        self.weight = weight
        self.future = future
        self.result: object = None
        self.error: Exception | None = None

    def settle(self) -> None:
        """Tell the waiter, unless it has gone."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


def store_error(error: Exception) -> Exception:
    """What a fault of the disk means to the caller of the store."""
    if isinstance(error, (QuotaExceededError, StoreFailedError)):
        return error
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    full = full or (isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL)
    return QuotaExceededError("the disk is full") if full else StoreFailedError(f"{type(error).__name__}: {error}")


class GroupThread(Generic[W]):
    """Runs `handle(jobs)` in its own thread on everything queued, up to a total weight.

    `handle` sets each job's result or error and returns when all are durable; what it raises is every job's error.
    `settled(jobs)` then runs on the event loop, before the waiters do.
    """

    def __init__(
        self,
        name: str,
        handle: Callable[[list[Job[W]]], None],
        settled: Callable[[list[Job[W]]], None],
        weight_max: int,
        queued_max: int,
    ) -> None:
        self._handle = handle
        self._settled = settled
        self._weight_max = weight_max
        self._queue: SimpleQueue[Job[W] | None] = SimpleQueue()
        self._room = Room(queued_max)
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._stopping = False
        # A daemon: a program that ends without closing its store must not hang; what was acknowledged is on disk.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, work: W, weight: int = 1) -> object:
        """Queue the work, wait until it is durable and return its result."""
        await self._room.enter()
        try:
            if self._stopping:
                raise StoreFailedError("the store is closed")
            future: asyncio.Future[object] = self._loop.create_future()
            self._queue.put(Job(work, weight, future))
            return await future
        finally:
            self._room.leave()

    async def stop(self) -> None:
        """End the thread when all that is queued is done."""
        if not self._stopping:
            self._stopping = True
            self._queue.put(None)
        await asyncio.shield(self._ended)
        self._thread.join()

    def _work(self) -> None:
        while True:
            jobs, last = self._take()
            if jobs:
                self._do(jobs)
            if last:
                self._report(self._end)
                return

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _take(self) -> tuple[list[Job[W]], bool]:
        """Wait for work, then take what is there. Work whose caller has gone is not begun."""
        jobs: list[Job[W]] = []
        weight = 0
        job = self._queue.get()
        while job is not None:
            if not job.future.cancelled():
                jobs.append(job)
                weight += job.weight
            if weight >= self._weight_max:
                return jobs, False
            try:
                job = self._queue.get_nowait()
            except Empty:
                return jobs, False
        return jobs, True

    def _do(self, jobs: list[Job[W]]) -> None:
        try:
            self._handle(jobs)
        except Exception as error:  # whatever it was, nothing of the group is promised
            for job in jobs:
                job.error = store_error(error)
        self._report(lambda: self._settle(jobs))

    def _settle(self, jobs: list[Job[W]]) -> None:
        self._settled(jobs)
        for job in jobs:
            job.settle()

    def _report(self, callback: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop was closed before the store: nobody waits any more
            return
