"""Puts of one key that run side by side travel together.

Theory of operation. A few puts of a key go out at once, each by itself, as quickly as one alone. Those that come while
so many are under way wait for the first of them to end, and then go out as one batch, which costs the replicas little
more than one put. So a key takes as many records from a thousand tasks that put one each as from one that puts many.

Owns who waits. Knows no replicas, pages or outcomes; what is done with a batch is its maker's to say.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

from p2pkv.errors import UnreachableError
from p2pkv.limits import BATCH_RECORDS_MAX, PUTS_APART_MAX

Line = TypeVar("Line", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")


class _Waiting(Generic[Item, Result]):
    """What is under way of one line, and what waits for it."""

    def __init__(self) -> None:
        self.under_way = 0
        self.queue: deque[tuple[Item, asyncio.Future[Result]]] = deque()

    def take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        """The next of those whose callers still wait."""
        taken: list[tuple[Item, asyncio.Future[Result]]] = []
        while self.queue and len(taken) < BATCH_RECORDS_MAX:
            item, future = self.queue.popleft()
            if not future.done():
                taken.append((item, future))
        return taken


class Gathering(Generic[Line, Item, Result]):
    """Carries items out line by line (of a key, say): some apart, what else comes meanwhile together."""

    def __init__(self, carry_out: Callable[[Line, Sequence[Item]], Awaitable[Sequence[Result]]]) -> None:
        """`carry_out` gives one result for each item."""
        self._carry_out = carry_out
        self._lines: dict[Line, _Waiting[Item, Result]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def do(self, line: Line, item: Item) -> Result:
        """Carry out one item. Raises what kept it, or those that went with it, from being carried out."""
        waiting = self._lines.setdefault(line, _Waiting())
        if waiting.under_way >= PUTS_APART_MAX:
            future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
            waiting.queue.append((item, future))
            return await future
        waiting.under_way += 1
        try:
            return (await self._carry_out(line, [item]))[0]
        finally:
            self._ended(line)

    def _ended(self, line: Line) -> None:
        """Something of a line has ended: what waits goes out in its place."""
        waiting = self._lines[line]
        together = waiting.take()
        if together:
            task = asyncio.create_task(self._do_together(line, together))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        waiting.under_way -= 1
        if not waiting.under_way:
            del self._lines[line]

    async def _do_together(self, line: Line, together: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        futures = [future for _, future in together]
        try:
            results = await self._carry_out(line, [item for item, _ in together])
            for future, result in zip(futures, results, strict=True):
                if not future.done():
                    future.set_result(result)
        except Exception as error:
            _fail(futures, error)
        except asyncio.CancelledError:
            _fail(futures, UnreachableError("the peer stops", "ask another peer, or start it again"))
            raise
        finally:
            self._ended(line)

    async def close(self) -> None:
        """End what is under way, and tell who waits for it."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)


def _fail(futures: Iterable[asyncio.Future[Result]], error: Exception) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)
