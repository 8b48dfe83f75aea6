"""Coordinates reads: hears a quorum of a page's replicas, merges what they say, and mends those that lag.

Theory of operation. A read opens a page with the first run from a read quorum. Where they agree (equal digests), their
answer stands; where they do not, or where nobody holds anything, every replica is asked. A longer page is read on from
one replica, while others of a quorum confirm each run by its digest alone, so a complete answer costs little more than
one copy of the data. A run in dispute is read from all of them and settled record by record, where only a version
whose signature holds may win. An answer that could lack something raises IncompleteError; it never ends short in
silence.

Owns no bytes of the wire and no rule of merging: those are `messages` and `core.replication`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

from p2pkv import messages
from p2pkv.core.records import Cursor, Version, rank
from p2pkv.core.replication import (
    MergedRuns,
    Run,
    Settlement,
    digest_of,
    merge_runs,
    position,
    settle,
    within,
    without_echoes,
)
from p2pkv.errors import RemoteError
from p2pkv.ids import place_of_key
from p2pkv.limits import NAMES_ASKED_MAX, REPAIRS_PENDING_MAX
from p2pkv.outcomes import Order
from p2pkv.swarm.environment import Environment
from p2pkv.swarm.replica import genuine, stock_bytes_of
from p2pkv.swarm.sources import Opening, Source, Sources


class Mender:
    """Brings replicas that a read found lagging up to date, behind the read's back. Owns the tasks that do it."""

    def __init__(self) -> None:
        self.mended = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def mend(self, key: bytes, sources: Sequence[Source], settlements: Sequence[Settlement]) -> None:
        """Start bringing the settled versions to the replicas that lack them; bounded, never waited for."""
        for index, source in enumerate(sources):
            versions = [settled.version for settled in settlements if index in settled.stale]
            for version in versions:
                if len(self._tasks) >= REPAIRS_PENDING_MAX:
                    return
                task = asyncio.create_task(self._store(source, messages.StoreRecords(key, [version], force=True)))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _store(self, source: Source, request: messages.StoreRecords) -> None:
        try:
            await source.mend(request)
            self.mended += 1
        except RemoteError:
            return  # it lags on; background repair comes by

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Reader:
    """This peer's reads of records."""

    def __init__(self, sources: Sources, env: Environment) -> None:
        self.mender = Mender()
        self._sources = sources
        self._env = env

    async def read(
        self,
        key: bytes,
        *,
        order: Order = "time",
        prefix: bytes = b"",
        after: Cursor | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> AsyncIterator[Version]:
        """Live versions of a key in order, every owner's. Raises IncompleteError, UnreachableError."""
        reading = PageReading(self._sources, self.mender, key, order=order, prefix=prefix, reverse=reverse, limit=limit)
        left = limit
        async for versions in reading.runs(after):
            for version in versions:
                if version.dead or version.expired(self._env.now_s()):
                    continue
                if left is not None:
                    if left <= 0:
                        return
                    left -= 1
                yield version

    async def read_name(self, key: bytes, name: bytes) -> list[Version]:
        """Live versions under one name, the highest rank first."""
        held = await self.read_name_raw(key, name)
        now_s = self._env.now_s()
        return [version for version in held if not version.dead and not version.expired(now_s)]

    async def read_name_raw(self, key: bytes, name: bytes) -> list[Version]:
        """As `read_name`, tombstones and expired versions included."""
        request = messages.FindNames(place_of_key(key), [name])
        opening = await self._sources.open(request)
        holdings = [reply.versions for reply in opening.replies]
        if not any(holdings) or any(held != holdings[0] for held in holdings):
            opening = await self._sources.open_all(request, opening)
            holdings = [reply.versions for reply in opening.replies]
        opening.require_quorum()
        if len(set(map(digest_of, holdings))) > 1:
            holdings = [[version for version in held if genuine(key, version)] for held in holdings]
        settlements = settle(holdings)
        self.mender.mend(key, opening.sources, settlements)
        return sorted((settled.version for settled in settlements), key=rank, reverse=True)

    async def count(self, key: bytes, *, prefix: bytes = b"") -> int:
        """How many live records a key has, without moving them."""
        reading = PageReading(self._sources, self.mender, key, order="time", prefix=prefix)
        return await reading.count(lambda version: not version.dead and not version.expired(self._env.now_s()))


class PageReading:
    """One walk over one page."""

    def __init__(
        self,
        sources: Sources,
        mender: Mender,
        key: bytes,
        *,
        order: Order,
        prefix: bytes = b"",
        reverse: bool = False,
        limit: int | None = None,
    ) -> None:
        self._opener = sources
        self._mender = mender
        self._key = key
        self._order = order
        self._reverse = reverse
        self._request = messages.FindRecords(
            place=place_of_key(key), by_name=order == "name", reverse=reverse, prefix=prefix, limit=limit or 1000
        )
        self._opening: Opening | None = None

    async def runs(self, after: Cursor | None) -> AsyncIterator[list[Version]]:
        """Merged runs in order, dead versions among them."""
        runs = await self._open(after)
        while True:
            merged = merge_runs(runs, self._order, reverse=self._reverse)
            versions = merged.agreed
            if merged.disputed:
                settled = await self._settle(merged, after)
                versions = sorted([*versions, *settled], key=self._position, reverse=self._reverse)
            yield without_echoes(versions, stock_bytes_of(versions))
            if merged.end is None:
                return
            after = merged.end
            runs = await self._next(after)

    async def count(self, alive: Callable[[Version], bool]) -> int:
        """The live records of the page: by digests where the replicas agree, by reading where they do not."""
        total = 0
        after: Cursor | None = None
        await self._open(after, digest_only=True)
        while True:
            counted = await self._confirmed(after, digest_only=True)
            if counted is None:
                async for versions in self.runs(after):
                    total += sum(alive(version) for version in versions)
                return total
            total += counted.live
            if not counted.more:
                return total
            after = counted.end

    def _position(self, version: Version) -> Cursor:
        return position(version, self._order)

    async def _open(self, after: Cursor | None, *, digest_only: bool = False) -> list[Run]:
        """Find the replicas and hear a quorum of them; all of them where they differ or know nothing."""
        request = msgspec.structs.replace(self._request, after=after, digest_only=digest_only)
        opening = await self._opener.open(request)
        if len(opening.sources) < opening.quorum or not _agreed(opening) or _empty(opening):
            opening = await self._opener.open_all(request, opening)
        opening.require_quorum()
        self._opening = opening
        return _runs(opening)

    async def _next(self, after: Cursor) -> list[Run]:
        """The next run: one replica's, confirmed by a quorum, or else every source's own."""
        page = await self._confirmed(after)
        if page is not None:
            return [Run(page.versions, page.more)]
        return await self._open(after)

    async def _confirmed(self, after: Cursor | None, *, digest_only: bool = False) -> messages.FindRecordsReply | None:
        """A run that a whole read quorum has just so; None where they differ or one of them fails."""
        assert self._opening is not None
        first, *others = self._opening.sources[: self._opening.quorum]
        try:
            page = await first.find(msgspec.structs.replace(self._request, after=after, digest_only=digest_only))
        except RemoteError:
            return None
        until = page.end if page.more else None
        check = msgspec.structs.replace(self._request, after=after, until=until, digest_only=True, limit=1 << 20)
        replies = await asyncio.gather(*(other.find(check) for other in others), return_exceptions=True)
        for reply in replies:
            if isinstance(reply, BaseException) and not isinstance(reply, RemoteError):
                raise reply
            if isinstance(reply, BaseException) or reply.digest != page.digest:
                return None
        return page

    async def _settle(self, merged: MergedRuns, after: Cursor | None) -> list[Version]:
        """Decide the disputed records of a run by asking every source for them by name."""
        assert self._opening is not None
        disputed = set(merged.disputed)
        names = sorted({name for name, _ in disputed})
        settled: list[Version] = []
        while names:
            answered, settlements = await self._ask_names(names[:NAMES_ASKED_MAX])
            names = names[answered:]
            wanted = [s for s in settlements if s.version.identity in disputed]
            self._mender.mend(self._key, self._opening.sources, wanted)
            settled += [settlement.version for settlement in wanted]
        return [
            version for version in settled if within(version, self._order, after, merged.end, reverse=self._reverse)
        ]

    async def _ask_names(self, names: list[bytes]) -> tuple[int, list[Settlement]]:
        """What every source holds under the names that all of them could answer for."""
        assert self._opening is not None
        request = messages.FindNames(self._request.place, names)
        replies: list[messages.FindNamesReply] = []
        for source in list(self._opening.sources):
            try:
                replies.append(await source.find_names(request))
            except RemoteError as error:
                self._opening.sources.remove(source)
                self._opening.failures.append(str(error))
        self._opening.require_quorum()
        answered = min(reply.answered for reply in replies)
        covered = set(names[:answered])
        holdings = [
            [version for version in reply.versions if version.name in covered and genuine(self._key, version)]
            for reply in replies
        ]
        return answered, settle(holdings)


def _runs(opening: Opening) -> list[Run]:
    return [
        Run(reply.versions, reply.more) for reply in opening.replies if isinstance(reply, messages.FindRecordsReply)
    ]


def _digests(opening: Opening) -> list[tuple[bytes, bool]]:
    return [(reply.digest, reply.more) for reply in opening.replies if isinstance(reply, messages.FindRecordsReply)]


def _agreed(opening: Opening) -> bool:
    return len(set(_digests(opening))) == 1


def _empty(opening: Opening) -> bool:
    return all(reply.versions == [] and getattr(reply, "end", None) is None for reply in opening.replies)
