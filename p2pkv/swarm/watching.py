"""Watches keys: records as they become durable, pushed by the replicas, and read where pushes may have been lost.

Theory of operation. Reading is the truth, pushing makes it quick. A watch first takes leases (`subscription`), then
reads once what stands; from then on pushes bring whatever is new, and `core.watching` tells each version once, however
often and in whatever order it comes. It reads again where a round of leases was not sound or a push was lost, once more
a while after that (a put that was under way while the leases began may have been passed over by both), and rarely where
all is well. What is pushed meanwhile is told beside what is read: a read of a key whose pages split takes seconds. A
consumer that is slow fills a bounded inbox; what does not fit is read later.

Owns the watches of this peer and their tasks. The leases that other peers hold here are `leases`'.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Protocol

from p2pkv import messages
from p2pkv.core.clock import HybridClock
from p2pkv.core.records import Cursor, Flag, Version, check_shape
from p2pkv.core.watching import START, Frontier, WatchCursor, cursor_of, decode_watch_cursor
from p2pkv.errors import IncompleteError, P2pkvError, RemoteError, UnreachableError
from p2pkv.limits import (
    RPC_DEADLINE_S,
    WATCH_INBOX_MAX,
    WATCH_PATIENCE_S,
    WATCH_READ_AHEAD_MAX,
    WATCH_S,
    WATCH_SETTLE_S,
    WATCH_SWEEP_S,
)
from p2pkv.swarm.contact import Sender
from p2pkv.swarm.environment import Environment
from p2pkv.swarm.signing import genuine
from p2pkv.swarm.subscription import Network, Subscriptions

WATCH_BYTES = 8
Seal = tuple[bytes, int, bytes, bytes]
"""What tells two pushed versions apart without hashing: a forged one never stands for a genuine one."""


class KeyReader(Protocol):
    """What is needed of reading."""

    def read(
        self, key: bytes, *, after: Cursor | None = None, reverse: bool = False, limit: int | None = None
    ) -> AsyncGenerator[Version, None]: ...


class Inbox:
    """Versions that were pushed and are not told yet; bounded."""

    def __init__(self) -> None:
        self.versions: dict[Seal, Version] = {}
        self.ready = asyncio.Event()
        self.lost = False  # something was not taken: read

    def lose(self) -> None:
        self.lost = True
        self.ready.set()

    def put(self, versions: Sequence[Version], frontier: Frontier) -> bool:
        """Take what may be new; False where there is no room."""
        for version in versions:
            if frontier.knows(version):
                continue
            if len(self.versions) >= WATCH_INBOX_MAX:
                self.lose()
                return False
            self.versions.setdefault((version.name, version.clock, version.signature, version.body), version)
        if self.versions:
            self.ready.set()
        return True

    def pop(self) -> Version:
        """The one that came first."""
        return self.versions.pop(next(iter(self.versions)))


class _Reading:
    """A read under way, beside the telling; a little of what it found waits here until it is told."""

    def __init__(
        self,
        versions: AsyncGenerator[Version, None],
        arrived: asyncio.Event,
        *,
        began_s: float,
        covered: bool,
        after_loss: bool,
    ) -> None:
        """`arrived` is set where there is something new to look at."""
        self.began_s = began_s  # by the wall clock
        self.covered = covered  # leases of all pages stood when it began
        self.after_loss = after_loss
        self.position = START  # everything up to here was told
        self._found: deque[Version] = deque()
        self._arrived = arrived
        self._room = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run(versions))

    async def _run(self, versions: AsyncGenerator[Version, None]) -> None:
        try:
            async with aclosing(versions):
                async for version in versions:
                    self._found.append(version)
                    self._arrived.set()
                    if len(self._found) >= WATCH_READ_AHEAD_MAX:
                        self._room.clear()
                        await self._room.wait()
        finally:
            self._arrived.set()

    def pop(self) -> Version | None:
        """The next that was found; None where nothing waits."""
        if not self._found:
            return None
        version = self._found.popleft()
        self.position = Cursor(version.clock, *version.identity)
        self._room.set()
        return version

    @property
    def waits(self) -> bool:
        """Is there something to look at: a version, or the end?"""
        return bool(self._found) or self._task.done()

    @property
    def over(self) -> bool:
        """Has everything that was found been told?"""
        return self._task.done() and not self._found

    def result(self) -> None:
        """Raise what kept it from being complete."""
        self._task.result()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class Watch:
    """One watch of one key."""

    def __init__(self, network: Network, reader: KeyReader, env: Environment, key: bytes, name: bytes) -> None:
        self.inbox = Inbox()
        self._env = env
        self._key = key
        self._reader = reader
        self._subscriptions = Subscriptions(network, key, name, self.take)
        self._frontier = Frontier(None, 0.0)
        self._due_s = 0.0  # when to read next, by the loop's clock
        self._read_s = 0.0  # when the last complete read began, by the wall clock
        self._sound_s = 0.0  # when the last sound round of leases began: whatever was acknowledged before was pushed
        self._reading: _Reading | None = None
        self._failing_since_s: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()  # leases are to be renewed soon
        self._closed = False

    # --- life ---

    async def begin(self, after: str | None) -> None:
        """Take leases, then find out what was told. Raises InvalidError, and what keeps the key from being read."""
        resumed = decode_watch_cursor(after) if after else None
        await self._subscriptions.renew()
        if after is None:
            resumed = await self._newest()
        self._frontier = Frontier(resumed, self._env.now_s())
        self._due_s = asyncio.get_running_loop().time()
        self._task = asyncio.get_running_loop().create_task(self._renew_regularly())

    async def _newest(self) -> WatchCursor | None:
        """What stands now was told."""
        async with aclosing(self._reader.read(self._key, reverse=True, limit=1)) as versions:
            async for version in versions:
                return cursor_of(version)
        return None

    async def close(self) -> None:
        self._closed = True
        self.inbox.ready.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._reading is not None:
            await self._reading.close()
        self._subscriptions.end()

    @property
    def begun(self) -> bool:
        """Everything that stood when it began was looked at: whatever is put now is told."""
        return self._frontier.begun

    # --- leases ---

    async def _renew_regularly(self) -> None:
        while True:
            wait_s = self._subscriptions.interval_s if self._subscriptions.whole else self._subscriptions.pause_s
            await self._rest(wait_s * self._env.random.uniform(0.8, 1.0))
            began_s = self._env.now_s()
            if await self._subscriptions.renew():
                self._sound_s = began_s
            else:
                self.inbox.lose()

    async def _rest(self, wait_s: float) -> None:
        """Until the next round: sooner where pushes were lost, for their leases rest until they are renewed."""
        await asyncio.sleep(min(wait_s, WATCH_S))
        try:
            async with asyncio.timeout(max(0.0, wait_s - WATCH_S)):
                await self._hurry.wait()
        except TimeoutError:
            pass
        self._hurry.clear()

    def take(self, versions: Sequence[Version], *, lost: bool = False) -> bool:
        """A replica pushes."""
        if lost:
            self.inbox.lose()
        markers = [version for version in versions if version.flags & Flag.SPLIT]
        for marker in markers:
            self._subscriptions.notice(marker.meta)
        taken = self.inbox.put([version for version in versions if not version.flags & Flag.SPLIT], self._frontier)
        if lost or markers or not taken:
            self._hurry.set()
        return taken

    # --- telling ---

    async def arrivals(self) -> AsyncGenerator[tuple[Version, str]]:
        """Until `close`: versions, and where to resume behind each. Raises what keeps it from being read for long."""
        try:
            while not self._closed:
                if self._reading is None and self._must_read():
                    self._begin_to_read()
                self._frontier.doubt_beyond(self._sure_to())
                version = self._next()
                if version is not None:
                    yield version, self._frontier.cursor
                elif self._reading is not None and self._reading.over:
                    self._end_reading()
                else:
                    await self._wait()
        finally:
            if self._reading is not None:
                await self._reading.close()

    def _sure_to(self) -> Cursor | None:
        """How far back nothing is lacking, where something may be that was not pushed: as far as was read."""
        reading = self._reading
        if reading is not None and (reading.after_loss or not reading.covered or not self._frontier.begun):
            return reading.position
        return None if self._subscriptions.whole and not self.inbox.lost else START

    def _must_read(self) -> bool:
        """What was lost is read at once, unless reading fails anyhow: then when it is due."""
        lost = self.inbox.lost and self._failing_since_s is None
        return lost or asyncio.get_running_loop().time() >= self._due_s

    def _next(self) -> Version | None:
        """Something to tell that is here: what was pushed and what was read in turns, so that neither holds the other
        up."""
        while True:
            pushed = self.inbox.pop() if self._frontier.begun and self.inbox.versions else None
            if pushed is not None and self._acceptable(pushed) and self._frontier.take(pushed, self._env.now_s()):
                return pushed
            read = self._reading.pop() if self._reading is not None else None
            if read is not None and not self._frontier.begun:
                self._frontier.settle(read, self._env.now_s())
            if read is not None and self._frontier.take(read, self._env.now_s()):
                return read
            if pushed is None and read is None:
                return None

    async def _wait(self) -> None:
        """Until something was pushed or found, or a read is due."""
        reading = self._reading
        if self._closed or (self._frontier.begun and self.inbox.versions):
            return
        if reading.waits if reading is not None else self._must_read():
            return
        self.inbox.ready.clear()
        try:
            async with asyncio.timeout_at(self._due_s if reading is None else None):
                await self.inbox.ready.wait()
        except TimeoutError:
            return

    def _acceptable(self, version: Version) -> bool:
        """Would a replica keep it? Whoever pushed it may be anybody's."""
        try:
            check_shape(version)
        except RemoteError:
            return False
        return HybridClock.trusts(version.clock, self._env.now_s()) and genuine(self._key, version)

    # --- reading ---

    def _begin_to_read(self) -> None:
        covered, after_loss = self._subscriptions.whole, self.inbox.lost
        self.inbox.lost = False
        self._reading = _Reading(
            self._reader.read(self._key, after=self._read_from(covered, after_loss)),
            self.inbox.ready,
            began_s=self._env.now_s(),
            covered=covered,
            after_loss=after_loss,
        )

    def _read_from(self, covered: bool, after_loss: bool) -> Cursor | None:
        if not self._frontier.begun:
            begin = self._frontier.floor
        elif after_loss:  # what was on its way to be pushed when a round began may have been lost since
            begin = self._frontier.read_from(max(self._read_s, self._sound_s - RPC_DEADLINE_S), far=False)
        else:
            begin = self._frontier.read_from(self._read_s, far=covered)
        return begin if begin.clock else None

    def _end_reading(self) -> None:
        """Everything that was found is told. Bears for a while that it was not complete; not at the beginning."""
        reading, self._reading = self._reading, None
        assert reading is not None
        try:
            reading.result()
        except (IncompleteError, UnreachableError) as error:
            self._bear(error)
            self._due_in(WATCH_S)
            self.inbox.lost = self.inbox.lost or reading.after_loss
            return
        self._was_read(reading)

    def _was_read(self, reading: _Reading) -> None:
        """A read is complete: when to read next?"""
        self._failing_since_s = None
        self._read_s = reading.began_s
        if self._subscriptions.grown:
            self._hurry.set()
        if not reading.covered:
            self._due_in(self._subscriptions.pause_s)
        elif reading.after_loss or not self._frontier.begun:
            self._due_in(WATCH_SETTLE_S)
        else:
            self._due_in(WATCH_SWEEP_S)
        self._frontier.begun = True

    def _due_in(self, seconds: float) -> None:
        self._due_s = asyncio.get_running_loop().time() + seconds

    def _bear(self, error: P2pkvError) -> None:
        now_s = asyncio.get_running_loop().time()
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        if not self._frontier.begun or now_s - self._failing_since_s >= WATCH_PATIENCE_S:
            raise error


class Watching:
    """The watches of this peer."""

    def __init__(self, network: Network, reader: KeyReader, env: Environment) -> None:
        self._network = network
        self._reader = reader
        self._env = env
        self._watches: dict[bytes, Watch] = {}

    async def watch(self, key: bytes, after: str | None = None) -> AsyncGenerator[tuple[Version, str]]:
        """Live versions of a key from now on, or behind a cursor, each once; with where to resume behind each.

        Until this peer stops. Raises InvalidError; IncompleteError and UnreachableError where the key cannot be read
        at first, or for longer than WATCH_PATIENCE_S.
        """
        name = self._env.random_bytes(WATCH_BYTES)
        watch = self._watches[name] = Watch(self._network, self._reader, self._env, key, name)
        try:
            await watch.begin(after)
            async with aclosing(watch.arrivals()) as arrivals:
                async for arrival in arrivals:
                    yield arrival
        finally:
            del self._watches[name]
            await watch.close()

    @property
    def watches(self) -> list[Watch]:
        """Those that somebody listens to."""
        return list(self._watches.values())

    def on_push(self, sender: Sender, request: messages.Push) -> messages.PushReply:
        """A replica says what became durable there."""
        watch = self._watches.get(request.watch)
        if watch is None:
            return messages.PushReply(known=False, taken=False)
        return messages.PushReply(known=True, taken=watch.take(request.versions, lost=request.lost))

    async def close(self) -> None:
        """End the tasks of all watches, whether or not somebody still listens."""
        await asyncio.gather(*(watch.close() for watch in self.watches))
