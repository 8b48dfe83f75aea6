"""Doing several things at once, bounded, with an owner for each task.

Owns no policy: how many run at once is the caller's word.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Protocol, TypeVar

S = TypeVar("S")
T = TypeVar("T")
Job = Callable[[], Coroutine[Any, Any, T]]


class Offload(Protocol):
    """Runs a blocking function. In a simulation it runs at once, so that virtual time stays reproducible."""

    def __call__(self, function: Callable[..., T], *args: Any) -> Awaitable[T]: ...


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """Run in the loop's thread pool. When cancelled, still wait for the thread: it may be using a file of ours."""
    future = asyncio.get_running_loop().run_in_executor(None, function, *args)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # seen; the cancellation outranks it
        raise


async def at_once(function: Callable[..., T], *args: Any) -> T:
    return function(*args)


async def each_job(work: Callable[[S], Coroutine[Any, Any, T]], items: Iterable[S]) -> AsyncGenerator[Job[T], None]:
    """One job an item."""
    for item in items:
        yield partial(work, item)


async def run_jobs(jobs: AsyncIterator[Job[T]], *, limit: int, ordered: bool) -> AsyncGenerator[T, None]:
    """Run up to `limit` jobs at once and yield their results, in the order of the jobs or as they come.

    The first failure ends all. However the caller leaves (use `contextlib.aclosing`), no task outlives it.
    """
    running: list[asyncio.Task[T]] = []
    try:
        async for job in jobs:
            running.append(asyncio.create_task(job()))
            while len(running) >= limit:
                for result in await _finished(running, ordered=ordered):
                    yield result
        while running:
            for result in await _finished(running, ordered=ordered):
                yield result
    finally:
        await _cancel(running)


async def _finished(running: list[asyncio.Task[T]], *, ordered: bool) -> list[T]:
    """Wait until something can be yielded, take it out of `running` and return it."""
    waiting = [task for task in running if not task.done()]
    if waiting and not any(task.done() for task in (running[:1] if ordered else running)):
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    results: list[T] = []
    for task in list(running):
        if task.done():
            failed = task.exception()
            if failed is not None:
                raise failed
    while running and (ready := next((task for task in (running[:1] if ordered else running) if task.done()), None)):
        running.remove(ready)
        results.append(ready.result())
    return results


async def _cancel(tasks: list[asyncio.Task[T]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.gather(*tasks, return_exceptions=True)
