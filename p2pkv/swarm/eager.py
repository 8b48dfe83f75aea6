"""Begins a coroutine at once, without a task: most handlers finish in their first step and need none.

What is begun so must not ask for its task before it first waits (no `asyncio.timeout`, no task group): there is none.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any


class Begun:
    """A coroutine after its first step: done, with a result, or waiting; then it is awaited, by a task."""

    __slots__ = ("_waits_for", "_work", "done", "result")

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        """Raises what the first step raises."""
        self.done = False
        self.result: Any = None
        self._work = work
        try:
            self._waits_for = work.send(None)
        except StopIteration as stop:
            self.done = True
            self.result = stop.value

    def close(self) -> None:
        """Give it up."""
        self._work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        """The rest of it: whatever it waits for is handed to the task, and what comes of that handed back."""
        waits_for = self._waits_for
        try:
            while True:
                try:
                    brought = yield waits_for
                except BaseException as error:
                    waits_for = self._work.throw(error)
                else:
                    waits_for = self._work.send(brought)
        except StopIteration as stop:
            return stop.value
