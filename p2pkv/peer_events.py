"""What happens in a peer, told to whoever listens: the dashboard, the event stream, a watching program.

Owns bounded queues; a listener that does not keep up loses events and is told how many, the peer never waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from p2pkv.limits import EVENTS_QUEUED_MAX

Event = dict[str, object]


class Events:
    """A fan-out of events."""

    def __init__(self) -> None:
        self._queues: dict[int, asyncio.Queue[Event]] = {}
        self._lost: dict[int, int] = {}
        self._next = 0

    def emit(self, kind: str, **details: object) -> None:
        """Tell every listener; costs nothing where there is none."""
        for number, queue in self._queues.items():
            try:
                queue.put_nowait({"event": kind, **details})
            except asyncio.QueueFull:
                self._lost[number] += 1

    async def listen(self) -> AsyncIterator[Event]:
        """Events from now on, until the listener leaves."""
        number, self._next = self._next, self._next + 1
        queue = self._queues[number] = asyncio.Queue(EVENTS_QUEUED_MAX)
        self._lost[number] = 0
        try:
            while True:
                event = await queue.get()
                lost, self._lost[number] = self._lost[number], 0
                if lost:
                    yield {"event": "lost", "count": lost}
                yield event
        finally:
            del self._queues[number], self._lost[number]
