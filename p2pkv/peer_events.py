"""What happens in a peer, told to whoever listens: the dashboard, the event stream, a watching program.

Owns bounded queues; a listener that does not keep up loses events and is told how many, the peer never waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

from p2pkv.limits import EVENTS_QUEUED_MAX
from p2pkv.outcomes import PutOutcome, TransferOutcome

Event = dict[str, Any]
"""`event` says what happened, the rest depends on it: docs/http.md lists them."""


class Listener(AsyncIterator[Event]):
    """Events from its making on, until it is closed or dropped. One that was lost is told by `{"event": "lost"}`."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Event] = asyncio.Queue(EVENTS_QUEUED_MAX)
        self._lost = 0
        self._closed = False

    def offer(self, event: Event) -> None:
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self._lost += 1

    async def __anext__(self) -> Event:
        if self._closed:
            raise StopAsyncIteration
        if self._lost and not self._queue.full():
            lost, self._lost = self._lost, 0
            return {"event": "lost", "count": lost}
        return await self._queue.get()

    async def aclose(self) -> None:
        self._closed = True


class Events:
    """A fan-out of events."""

    def __init__(self) -> None:
        self._listeners: WeakSet[Listener] = WeakSet()

    def listen(self) -> Listener:
        listener = Listener()
        self._listeners.add(listener)
        return listener

    def emit(self, kind: str, **details: object) -> None:
        """Tell every listener; costs nothing where there is none."""
        for listener in self._listeners:
            listener.offer({"event": kind, **details})

    def put(self, key: bytes, outcome: PutOutcome) -> None:
        """One record was written by this peer."""
        if self._listeners:
            fields = {name: getattr(outcome, name) for name in ("name", "stored", "asked", "reached")}
            self.emit("put", key=shown(key), **fields)

    @contextmanager
    def transfer(self, kind: str, name: str) -> Iterator[None]:
        """An upload or download begins; where it fails or is cancelled, that is told too."""
        self.emit(kind, name=name, phase="began")
        try:
            yield
        except BaseException as error:
            cancelled = isinstance(error, asyncio.CancelledError)
            self.emit(kind, name=name, phase="cancelled" if cancelled else "failed", reason=str(error))
            raise

    def done(self, kind: str, outcome: TransferOutcome) -> None:
        """A transfer succeeded."""
        fields = {name: getattr(outcome, name) for name in ("name", "size", "seconds", "replicas", "files")}
        self.emit(kind, phase="done", **fields)


def shown(key: bytes) -> str:
    """A key for people to read: its text, other bytes escaped."""
    return key.decode(errors="backslashreplace")
