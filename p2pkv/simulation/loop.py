"""An event loop in virtual time: where nothing is ready, the clock jumps to the next timer.

Owns virtual time. It watches no file, runs no thread (an executor's work is done at once, in order) and never sleeps,
so a run depends on nothing but the program and its seeds.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from itertools import count
from typing import Any, TypeVar

T = TypeVar("T")


class StalledError(RuntimeError):
    """The program waits for something that can never come: nothing is ready and no timer is set."""

    def __init__(self, now_s: float) -> None:
        super().__init__(
            f"the simulation stalled at {now_s:.3f} s of virtual time: it waits, but nothing is scheduled. "
            "Something awaits a future that nobody will resolve, or real IO"
        )


class _VirtualClock(selectors.BaseSelector):
    """What the loop waits with: instead of waiting it moves the time on. Files are noted and never ready."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._keys: dict[int, selectors.SelectorKey] = {}

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise StalledError(self.now_s)
        self.now_s += max(0.0, timeout)
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        number = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        self._keys[number] = selectors.SelectorKey(fileobj, number, events, data)
        return self._keys[number]

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


class _NumberedTask(asyncio.Task[T]):
    """A task that sets order by its number, not by its address in memory: `asyncio.wait` gives sets of tasks."""

    def __init__(self, number: int, *args: Any, **options: Any) -> None:
        self._number = number  # first: the task is put into a set when it is made
        super().__init__(*args, **options)

    def __hash__(self) -> int:
        return self._number


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio in virtual time, which begins at 0 s."""

    def __init__(self) -> None:
        self._virtual = _VirtualClock()
        self._task_numbers = count()
        super().__init__(self._virtual)
        self.set_task_factory(self._numbered_task)

    def _numbered_task(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        return _NumberedTask(next(self._task_numbers), coro, loop=loop, **options)

    def time(self) -> float:
        """Seconds of virtual time."""
        return self._virtual.now_s

    def run_in_executor(self, executor: Executor | None, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Done at once, in this thread: no order depends on the machine."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future
