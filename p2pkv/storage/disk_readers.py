"""A few threads that answer questions to the database, each on its own connection.

Like a ThreadPoolExecutor, but answers that are ready together wake the event loop once: a question costs 65 us there
and back instead of 92. Owns the threads and their connections; knows nothing of the questions.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from p2pkv.limits import STORE_QUESTIONS_QUEUED_MAX, STORE_READER_THREADS
from p2pkv.storage.disk_groups import store_error
from p2pkv.storage.disk_schema import connect
from p2pkv.storage.interface import StoreFailedError
from p2pkv.storage.room import Room

T = TypeVar("T")
Question = Callable[[sqlite3.Connection], T]
_Waiting = tuple[Question[Any], asyncio.Future[Any]]


class Readers:
    """Runs questions in the order they come."""

    def __init__(self, folder: Path, threads: int = STORE_READER_THREADS) -> None:
        self._folder = folder
        self._loop = asyncio.get_running_loop()
        self._room = Room(STORE_QUESTIONS_QUEUED_MAX)
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._answers: deque[tuple[asyncio.Future[Any], object, Exception | None]] = deque()
        self._waking = False
        self._stopping = False
        self._threads = [threading.Thread(target=self._work, name="p2pkv-read", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    async def ask(self, question: Question[T]) -> T:
        """Raises StoreFailedError where the disk cannot be read."""
        await self._room.enter()
        try:
            if self._stopping:
                raise StoreFailedError("the store is closed")
            future: asyncio.Future[T] = self._loop.create_future()
            self._queue.put((question, future))
            return await future
        finally:
            self._room.leave()

    async def stop(self) -> None:
        """Answer what is asked already, then end the threads."""
        if self._stopping:
            return
        self._stopping = True
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _work(self) -> None:
        connection: sqlite3.Connection | None = None
        while (waiting := self._queue.get()) is not None:
            question, future = waiting
            if future.cancelled():
                continue
            try:
                connection = connection or connect(self._folder, reader=True)
                self._answer(future, question(connection), None)
            except (sqlite3.Error, OSError) as error:
                self._answer(future, None, store_error(error))
            except Exception as error:
                self._answer(future, None, error)
        if connection is not None:
            connection.close()

    def _answer(self, future: asyncio.Future[Any], result: object, error: Exception | None) -> None:
        self._answers.append((future, result, error))
        if not self._waking:
            self._waking = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # the loop was closed before the store: nobody waits any more
                return

    def _deliver(self) -> None:
        # First the flag, then the answers: one that comes in between is delivered now and wakes the loop once in vain.
        self._waking = False
        while self._answers:
            future, result, error = self._answers.popleft()
            if future.done():
                continue
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)
