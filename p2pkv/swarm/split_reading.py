"""Reads what a split page still holds, on its way to the children.

Theory of operation. The replicas of a split page hold different parts of it, as each moves its own share on; so there
is nothing to agree on: each of a read quorum tells its whole share, and all is united; of what one has told already the
others tell a digest, and the rest only where that differs. The shares come first, and at once:
the reader must know which records of the children are out of date. A record found here may have been replaced below
meanwhile, so the pages below are asked for what is newer (`names.py`), and the higher rank stands. This goes on in
the order of reading, beside the reading of the children: the first records are given out soon. How far the first
answers of a quorum go is the first part, so that nobody waits for the whole shares of a page that was split just now.
Mostly the page is empty, and that for good: then it is remembered as closed.

Never mends: a split page is to become empty.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import NamedTuple

import msgspec

from p2pkv.core.pages import PageName, PageTree
from p2pkv.core.records import Cursor, Version, merge
from p2pkv.core.replication import Run, covered_end, digest_of, position, within, without_echoes
from p2pkv.errors import RemoteError
from p2pkv.limits import (
    RECORDS_JUDGED_AT_ONCE,
    SPLIT_CHECKED_FIRST,
    SPLIT_CHECKED_GROWTH,
    SPLIT_OPENED_RECORDS,
    SPLIT_SHARES_RETRIES_MAX,
    SPLIT_STRETCH_RECORDS,
)
from p2pkv.messages import FindRecords, FindRecordsReply
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.leftovers import Leftovers
from p2pkv.swarm.mending import Mender
from p2pkv.swarm.names import NameReader
from p2pkv.swarm.page_reading import Query, require_quorum
from p2pkv.swarm.replica import stock_bytes_of
from p2pkv.swarm.signing import genuine
from p2pkv.swarm.sources import Opening, RemoteSource, Reply, Source, Sources


class _Stretch(NamedTuple):
    """A stretch of a split page as one replica has it."""

    request: FindRecords  # for just this stretch
    versions: list[Version]
    more: bool  # it was cut


class SplitReading:
    """One walk over a split page, with the same face as `PageReading`.

    `read_to` is how far its shares were read, and `unread` whether there is more of them; `after` how far what was read
    was looked for below, too, and given out.
    """

    def __init__(
        self,
        sources: Sources,
        mender: Mender,
        names: NameReader,
        tree: PageTree,
        query: Query,
        page: PageName,
        after: Cursor | None,
        leftovers: Leftovers,
    ) -> None:
        """`leftovers` is told at once of all that is found."""
        # In reverse order of time a newer version stands before the one that it replaces: what lies before the position
        # is not given out, but must be known.
        self._rewound = after is not None and query.reverse and query.order == "time"
        self.read_to = None if self._rewound else after
        self.after = self._begin = after
        self.unread = True
        self._sources = sources
        self._mender = mender
        self._names = names
        self._tree = tree
        self._query = query
        self._page = page
        self._leftovers = leftovers
        self._offered: Opening | None = None
        self._begun = False  # the first part was read
        self._found: list[Version] = []  # in order, and not given out yet
        self._span = SPLIT_CHECKED_FIRST

    @property
    def done(self) -> bool:
        return not self.unread and not self._found

    @property
    def fresh(self) -> bool:
        """Is the page to be opened next? It is opened anew for every part of its shares."""
        return self.unread and not self._found

    def open_with(self, opening: Opening, until: Cursor | None) -> list[Version] | None:
        """As `PageReading.open_with`, but that it never is settled by the first answers alone."""
        self._offered = opening
        return None

    async def next(self, limit: int, until: Cursor | None = None) -> list[Version]:
        """Read the shares, or give out the next of what they hold, and what replaced it below; in no order.

        Of a page that is far beyond its bound only a part is read at once. Raises as `PageReading.next`.
        """
        if not self._found:
            await self._read(until)
            while self._lags() and self.read_to != until:  # further than `until` it may not go
                await self._read(until)
            if not self._found:
                self.after = self.read_to
            return []
        some = self._found[: self._span]
        newer = await self._names.newer(self._query.key, self._tree, self._page, some)
        for version in newer.values():
            self._leftovers.add(version)
        given = [version for version in some if version.identity not in newer]
        given += filter(self._comes, newer.values())
        self._found = self._found[self._span :]
        self._span *= SPLIT_CHECKED_GROWTH
        self.after = position(some[-1], self._query.order) if self._found else self.read_to
        return given

    def _comes(self, version: Version) -> bool:
        """Is the reading not past its position yet, which met it there?

        In reverse order of time only: a newer version stands before the one that is left here. Dead ones are told.
        """
        order, reverse = self._query.order, self._query.reverse
        return version.dead or within(version, order, self.after, None, reverse=reverse)

    def _lags(self) -> bool:
        """Have the shares not been read up to where this walk began?"""
        begin, read_to = self._begin, self.read_to
        return self._rewound and begin is not None and read_to is not None and read_to >= begin

    # --- reading the shares ---

    async def _read(self, until: Cursor | None) -> None:
        whole = self.read_to is None and until is None and not self._query.prefix
        opening, runs = await self._shares(until)
        order, reverse = self._query.order, self._query.reverse
        end = covered_end(runs, order, reverse=reverse)
        found = await self._united(runs)
        if end is not None:
            found = [version for version in found if within(version, order, self.read_to, end, reverse=reverse)]
        if whole and end is None and not opening.unaware and not any(version.name for version in found):
            self._tree.close(self._page)
        for version in found:
            self._leftovers.add(version)
        if self._rewound:
            found = [version for version in found if within(version, order, self._begin, None, reverse=reverse)]
        found = without_echoes(found, stock_bytes_of(found))
        self._found = sorted(found, key=lambda version: position(version, order), reverse=reverse)
        self.read_to = end or until
        self.unread = self.read_to is not None

    async def _shares(self, until: Cursor | None) -> tuple[Opening, list[Run]]:
        """What each of a read quorum holds; where some fail in the middle, others are found in their place.

        Of a page that was opened with others, the first time, only what was answered then.
        """
        share_max = self._leftovers.share_max
        request = self._query.request(self._page, self.read_to, until, min(SPLIT_STRETCH_RECORDS, share_max))
        told: dict[Contact | None, tuple[Source, Reply, Run]] = {}
        failed: set[Contact | None] = set()
        begun, self._begun = self._begun or self._rewound or self._offered is None, True
        opening = await self._open(msgspec.structs.replace(request, limit=SPLIT_OPENED_RECORDS))
        if not begun and (first := _first_part(opening)):
            return opening, first
        for left in reversed(range(SPLIT_SHARES_RETRIES_MAX + 1)):
            asked = {
                _whose(source): (source, reply) for source, reply in zip(opening.sources, opening.replies, strict=True)
            }
            asked = {who: of for who, of in asked.items() if who not in told and who not in failed}
            runs = await self._told(list(asked.values()), request, share_max)
            for (who, (source, reply)), run in zip(asked.items(), runs, strict=True):
                if isinstance(run, Run):
                    told[who] = source, reply, run
                elif run is not None:
                    failed.add(who)
            if not left or len(told) >= opening.quorum:
                break
            opening = await self._sources.open_all(self._query.key, request, opening)
        opening.sources = [source for source, _, _ in told.values()]
        opening.replies = [reply for _, reply, _ in told.values()]
        require_quorum(opening, self._page)
        return opening, [run for _, _, run in told.values()]

    async def _told(
        self, asked: Sequence[tuple[Source, Reply]], request: FindRecords, share_max: int
    ) -> list[Run | RemoteError | None]:
        """What each of some replicas holds, or its failure; None where it was not asked because another one failed.

        One gives its whole share, stretch by stretch; the others, of each stretch, what they have in its place.
        """
        giver = self._giver(asked)
        if giver is None:
            return [Run(reply.versions, more=False) for _, reply in asked]
        comparing: list[list[asyncio.Task[list[Version]]]] = [[] for _ in asked]
        share, more = list[Version](), True
        try:
            while more and len(share) < share_max:
                stretch = await self._stretch(asked[giver][0], request)
                share += stretch.versions
                more = stretch.more
                for index, (source, _) in enumerate(asked):
                    if index != giver:
                        comparing[index].append(asyncio.create_task(self._compared(source, stretch)))
                request = msgspec.structs.replace(request, after=stretch.request.until)
            return [await _joined(tasks, more=more) if tasks else Run(share, more) for tasks in comparing]
        except RemoteError as error:
            return [error if index == giver else None for index in range(len(asked))]
        finally:
            tasks = [task for of in comparing for task in of]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _giver(self, asked: Sequence[tuple[Source, Reply]]) -> int | None:
        """Who is to tell first: of those that hold more than they were asked for, whose answer reaches least far. So
        none of the others has much more up to there. None where all was told."""
        ends = {index: end for index, (_, reply) in enumerate(asked) if (end := _end_of(reply)) is not None}
        others = {index: end for index, end in ends.items() if isinstance(asked[index][0], RemoteSource)}
        choose = max if self._query.reverse else min
        return choose(others or ends, key=ends.__getitem__, default=None)

    async def _stretch(self, source: Source, request: FindRecords) -> _Stretch:
        """The next stretch of a share."""
        reply = await source.find(request)
        if reply.more and reply.end == request.after:
            raise RemoteError("misbehaved", "a run that goes on and brings nothing")
        until = reply.end if reply.more else request.until
        return _Stretch(msgspec.structs.replace(request, until=until), reply.versions, reply.more)

    async def _compared(self, source: Source, given: _Stretch) -> list[Version]:
        """What a replica has in a stretch that another one gave: mostly the same, which its digest tells."""
        check = await source.find(msgspec.structs.replace(given.request, digest_only=True))
        if check.digest == digest_of(given.versions) and not check.more:
            return given.versions
        versions, request, more = list[Version](), given.request, True
        while more:
            stretch = await self._stretch(source, request)
            versions += stretch.versions
            request, more = msgspec.structs.replace(request, after=stretch.request.until), stretch.more
        return versions

    async def _open(self, request: FindRecords) -> Opening:
        opening, self._offered = self._offered, None
        if opening is None:
            opening = await self._sources.open(self._query.key, request)
        if len(opening.sources) < opening.quorum:
            opening = await self._sources.open_all(self._query.key, request, opening)
        require_quorum(opening, self._page)
        self._mender.tell_split(self._query.key, self._page, opening.unaware)
        return opening

    async def _united(self, runs: Sequence[Run]) -> list[Version]:
        """Every record of the runs, at the highest rank that any of them has. What not all have must be genuine."""
        first, *others = [{version.identity: version for version in run.versions} for run in runs]
        united = {identity: v for identity, v in first.items() if all(other.get(identity) == v for other in others)}
        doubtful = {v for held in (first, *others) for identity, v in held.items() if identity not in united}
        for number, version in enumerate(doubtful, 1):
            if number % RECORDS_JUDGED_AT_ONCE == 0:
                await asyncio.sleep(0)
            if genuine(self._query.key, version):
                united[version.identity] = merge(united.get(version.identity), version)
        return list(united.values())


def _first_part(opening: Opening) -> list[Run]:
    """The first answers as they are, where they hold something and are not the whole; else none."""
    runs = [Run(reply.versions, reply.more) for reply in opening.replies if isinstance(reply, FindRecordsReply)]
    cut = [run for run in runs if run.more]
    return runs if cut and all(run.versions for run in cut) else []


async def _joined(stretches: Sequence[Awaitable[list[Version]]], *, more: bool) -> Run | RemoteError:
    """A share whose stretches were compared."""
    try:
        return Run([version for versions in stretches for version in await versions], more)
    except RemoteError as error:
        return error


def _end_of(reply: Reply) -> Cursor | None:
    """Where an answer ends that could have gone on."""
    return reply.end if isinstance(reply, FindRecordsReply) and reply.more else None


def _whose(source: Source) -> Contact | None:
    """The peer that a share is of; None for this one."""
    return source.contact if isinstance(source, RemoteSource) else None
