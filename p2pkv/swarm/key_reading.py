"""Reads all pages of a key as one stream in order: pages in parallel, their sorted streams merged.

Theory of operation. Each page has a stream: a reading that fetches ahead, and a buffer. Every version that stands not
beyond the point to which all streams have come (the frontier) may be given out, in order. A stream that lags is fetched
first; one whose buffer is filled waits, so memory is bounded whatever the key's size. A child is read only as far as
the split pages above it have been read, because records move down: what had left the parent when the parent was read
is met in the child. A page that proves to be split in the middle goes on as a split page, and its children join from
the same position; a cursor is a position in the order and names no page.

Where a page cannot be read, what lies before its position is given out, then IncompleteError names it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Collection, Iterator
from operator import itemgetter
from typing import Any

from p2pkv.core.pages import ROOT, PageName, PageTree, children_of, path_of
from p2pkv.core.records import Cursor, Version, rank
from p2pkv.core.replication import position
from p2pkv.errors import IncompleteError
from p2pkv.limits import (
    OPENED_TOGETHER_MAX,
    OPENED_TOGETHER_RECORDS,
    PAGES_ASKED_AT_ONCE_MAX,
    PAGES_READ_AT_ONCE_MAX,
    READ_BUFFERED_RECORDS_MAX,
    READ_FIRST_RECORDS,
    READ_RUN_RECORDS_MAX,
    READ_RUN_RECORDS_MIN,
    READ_TURN_RECORDS,
    SPLIT_OPENED_RECORDS,
)
from p2pkv.messages import FindRecords
from p2pkv.swarm.leftovers import Leftovers
from p2pkv.swarm.mending import Mender
from p2pkv.swarm.names import NameReader
from p2pkv.swarm.opening import Openings
from p2pkv.swarm.page_reading import PageReading, PageSplitError, Query
from p2pkv.swarm.sources import Opening, Sources
from p2pkv.swarm.split_reading import SplitReading

FAILURES_NAMED_MAX = 8
Key = tuple[int, bytes, bytes]
"""A position, as Python compares quickest."""


def key_of(cursor: Cursor) -> Key:
    return cursor.clock, cursor.name, cursor.owner


class Stream:
    """One page on its way into the merge."""

    __slots__ = ("buffer", "covered", "failure", "opening", "page", "reading", "span", "task")

    def __init__(self, page: PageName, reading: PageReading | SplitReading, span: int) -> None:
        self.page = page
        self.reading = reading
        self.span = span  # versions fetched at a time
        self.buffer: deque[tuple[Key, Version]] = deque()
        self.covered: Key | None = key_of(reading.after) if reading.after else None
        self.task: asyncio.Task[list[Version]] | None = None
        self.opening = False  # is its page being opened with others?
        self.failure: IncompleteError | None = None

    @property
    def open(self) -> bool:
        return not self.reading.done

    @property
    def busy(self) -> bool:
        """Is something of it on its way?"""
        return self.opening or self.task is not None


Opened = tuple[Stream, FindRecords, Opening | IncompleteError | None]
"""A stream whose page was opened by a request, with others; None: it has to be opened by a lookup."""


class KeyReading:
    """One walk over a key, or over one of its pages with all below it."""

    def __init__(
        self,
        sources: Sources,
        openings: Openings,
        mender: Mender,
        names: NameReader,
        tree: PageTree,
        query: Query,
        *,
        limit: int | None = None,
        top: PageName = ROOT,
    ) -> None:
        self._sources = sources
        self._openings = openings
        self._mender = mender
        self._names = names
        self._tree = tree
        self._query = query
        self._limit = limit or READ_RUN_RECORDS_MAX
        self._top = top
        self._streams: dict[PageName, Stream] = {}
        self._slots = asyncio.Semaphore(PAGES_ASKED_AT_ONCE_MAX)  # of pages that are opened one by one
        self._opening: set[asyncio.Task[list[Opened]]] = set()
        self._told: list[Opened] = []  # pages of openings that go on
        self._stirred = asyncio.get_running_loop().create_future()  # it ends when there are some
        self._leftovers = Leftovers(query.order, reverse=query.reverse)
        self._frontier: Key | None = None  # up to which all streams had come when something was given out last

    async def runs(self, after: Cursor | None) -> AsyncGenerator[list[Version], None]:
        """Versions in order, dead ones among them. Raises IncompleteError, UnreachableError."""
        self._join(self._top, after)
        begun = False
        try:
            await self._begin()
            while True:
                ready = self._take()
                if ready and (parts := self._in_parts()):
                    ready = await self._standing(ready, parts)
                if begun or not ready:
                    self._fetch()  # the first is on its way to the user before anything further is asked for
                begun = begun or bool(ready)
                for start in range(0, len(ready), READ_TURN_RECORDS):
                    if start:
                        await self._go_on()
                    yield ready[start : start + READ_TURN_RECORDS]
                if ready:
                    await self._go_on()
                elif not await self._wait():
                    return
        finally:
            await self._end()

    def _join(self, top: PageName, after: Cursor | None) -> None:
        """Begin to read a page and all that are known below it. The root may hold stock values, closed or not."""
        for page in self._tree.below(top):
            if page in self._streams or (page in self._tree.closed and page != ROOT):
                continue
            span = READ_FIRST_RECORDS if self._tree.noticed or page else READ_RUN_RECORDS_MAX
            self._streams[page] = Stream(page, self._reading(page, after), min(span, self._limit))

    def _reading(self, page: PageName, after: Cursor | None) -> PageReading | SplitReading:
        if page in self._tree.noticed:
            return SplitReading(
                self._sources, self._mender, self._names, self._tree, self._query, page, after, self._leftovers
            )
        return PageReading(self._sources, self._mender, self._query, page, after)

    # --- fetching ---

    async def _begin(self) -> None:
        """The first run of a key of one page, which most keys are, needs no task."""
        if len(self._streams) == 1:
            (stream,) = self._streams.values()
            await self._arrived(stream, stream.reading.next(self._span_of(stream, READ_RUN_RECORDS_MAX)))

    def _span_of(self, stream: Stream, bound: int) -> int:
        """How much to fetch now; the next time it is more."""
        bound = min(bound, self._limit)
        span = min(stream.span, bound)
        stream.span = min(4 * stream.span, bound)
        return span

    def _fetch(self) -> None:
        """Read on where it is needed most, within the bounds."""
        streams = [stream for stream in self._streams.values() if stream.open]
        self._leftovers.pages = sum(isinstance(stream.reading, SplitReading) for stream in streams)
        in_the_way = [stream for stream in streams if stream.covered is None]
        if in_the_way:
            streams = in_the_way  # nothing can be given out before: what lies further must not hold them up
        slots = max(0, PAGES_READ_AT_ONCE_MAX - sum(stream.busy for stream in streams))
        if not slots and not self._opening:
            return
        span = max(READ_RUN_RECORDS_MIN, min(READ_RUN_RECORDS_MAX, READ_BUFFERED_RECORDS_MAX // (len(streams) or 1)))
        span = min(span, self._limit)
        waiting = [stream for stream in streams if self._hungry(stream, span) and self._may_read(stream)]
        if len(waiting) > slots:
            waiting.sort(key=self._urgency, reverse=self._query.reverse)
        if self._tree.noticed:
            room = OPENED_TOGETHER_MAX - sum(stream.opening for stream in streams)
            fresh = [stream for stream in waiting if stream.reading.fresh][: max(0, room)]
            if fresh:
                self._open_together(fresh)
            waiting = [stream for stream in waiting if not stream.busy and not stream.reading.fresh]
        for stream in waiting[:slots]:
            fetching = stream.reading.next(self._span_of(stream, span), self._until(stream))
            stream.task = asyncio.create_task(fetching)

    def _open_together(self, streams: list[Stream]) -> None:
        """Open pages of a key that has many: all at once, as far as that can be."""
        asked = {stream.page: (stream, self._first(stream)) for stream in streams}
        filling = {stream.page for stream in streams if any(above.open for above in self._split_above(stream))}
        for stream in streams:
            stream.opening = True
        self._opening.add(asyncio.create_task(self._opened(asked, filling)))

    def _first(self, stream: Stream) -> FindRecords:
        limit = SPLIT_OPENED_RECORDS if isinstance(stream.reading, SplitReading) else OPENED_TOGETHER_RECORDS
        return self._query.request(stream.page, stream.reading.read_to, self._until(stream), limit)

    async def _opened(
        self, asked: dict[PageName, tuple[Stream, FindRecords]], filling: Collection[PageName]
    ) -> list[Opened]:
        """What is not told before; all of it where this peer proves to be cut off."""
        told: set[PageName] = set()

        def tell(page: PageName, opening: Opening) -> None:
            told.add(page)
            self._told.append((*asked[page], opening))
            if not self._stirred.done():
                self._stirred.set_result(None)

        try:
            found = await self._openings.open({page: request for page, (_, request) in asked.items()}, filling, tell)
        except IncompleteError as error:
            return [(*of, error) for of in asked.values()]
        return [(*of, found.get(page)) for page, of in asked.items() if page not in told]

    def _read_opened(self, stream: Stream, request: FindRecords, opening: Opening | IncompleteError | None) -> None:
        """Take the first run of a page that was opened; what that does not settle takes a task."""
        stream.opening = False
        if isinstance(opening, IncompleteError):
            stream.failure = opening
            return
        if opening is None:
            stream.task = asyncio.create_task(self._next_alone(stream, request))
            return
        try:
            versions = stream.reading.open_with(opening, request.until)
        except PageSplitError as split:
            self._split(stream, split)
            return
        if versions is None:
            stream.task = asyncio.create_task(stream.reading.next(request.limit, request.until))
        else:
            self._take_in(stream, versions)

    async def _next_alone(self, stream: Stream, request: FindRecords) -> list[Version]:
        """The first run of a page that is opened by a lookup."""
        async with self._slots:
            return await stream.reading.next(self._span_of(stream, READ_FIRST_RECORDS), request.until)

    def _hungry(self, stream: Stream, span: int) -> bool:
        reading = stream.reading
        if isinstance(reading, SplitReading) and not reading.fresh and len(stream.buffer) < self._limit:
            span = READ_BUFFERED_RECORDS_MAX  # what it gives out is in memory already
        if stream.busy or stream.failure is not None:
            return False
        return 2 * len(stream.buffer) < span or not self._gives(stream)

    def _gives(self, stream: Stream) -> bool:
        """Has it something to give out as soon as the others have come so far? What replaced a record of a split page
        below may stand further on."""
        if stream.covered is None or not stream.buffer:
            return False
        first = stream.buffer[0][0]
        return first >= stream.covered if self._query.reverse else first <= stream.covered

    def _urgency(self, stream: Stream) -> tuple[bool, Key]:
        """Streams that have not come far come first, in the direction of reading."""
        begun = stream.covered is not None
        return begun != self._query.reverse, stream.covered or (0, b"", b"")

    def _above(self, stream: Stream) -> list[Stream]:
        """The streams of the split pages above a page that are not read to their ends, and from which records move."""
        return [above for above in self._split_above(stream) if above.reading.unread]

    def _split_above(self, stream: Stream) -> Iterator[Stream]:
        pages = (stream.page[:depth] for depth in range(len(stream.page)))
        lines = (self._streams.get(page) for page in pages if page not in self._tree.closed)
        return (above for above in lines if above is not None)

    def _may_read(self, stream: Stream) -> bool:
        """Have all pages above been read beyond the point that this one came to? What was read already may go on."""
        if isinstance(stream.reading, SplitReading) and not stream.reading.fresh:
            return True
        ends = [above.reading.read_to for above in self._above(stream)]
        return all(end is not None and end != stream.reading.read_to for end in ends)

    def _until(self, stream: Stream) -> Cursor | None:
        ends = [above.reading.read_to for above in self._above(stream)]
        cursors = [end for end in ends if end is not None]
        if not cursors:
            return None
        return max(cursors) if self._query.reverse else min(cursors)

    # --- giving out ---

    def _take(self) -> list[Version]:
        """What no stream can bring anything before any more, in order, each record once."""
        coming = [stream.covered for stream in self._streams.values() if stream.open]
        if None in coming:
            return []
        reverse = self._query.reverse
        covered = [key for key in coming if key is not None]
        frontier = self._frontier = (max(covered) if reverse else min(covered)) if covered else None
        ready: list[tuple[Key, Version]] = []
        for stream in self._streams.values():
            buffer = stream.buffer
            while buffer and (frontier is None or (buffer[0][0] >= frontier if reverse else buffer[0][0] <= frontier)):
                ready.append(buffer.popleft())
        ready.sort(key=itemgetter(0), reverse=reverse)
        given = [version for version in _distinct(ready) if not self._leftovers.outdate(version)]
        if frontier is not None:
            self._leftovers.pass_by(Cursor(*frontier))
        return given

    def _in_parts(self) -> set[PageName]:
        """The split pages of which more is to be read: a newer version of what comes before may stand there.

        In order of time only: in reverse it comes first, and in order of names at the same position.
        """
        if self._query.order != "time" or self._query.reverse:
            return set()
        splits = ((stream.page, stream.reading) for stream in self._streams.values())
        return {
            page
            for page, reading in splits
            if isinstance(reading, SplitReading) and reading.unread and reading.read_to is not None
        }

    async def _standing(self, versions: list[Version], parts: set[PageName]) -> list[Version]:
        """Those that no newer version outranks which is still to come from such pages."""
        frontier = self._frontier
        shares: dict[PageName, list[Version]] = {}
        for version in versions:
            path = path_of(version.name) if version.name else ROOT
            page = next((path[:depth] for depth in range(len(path)) if path[:depth] in parts), None)
            if page is not None:
                shares.setdefault(page, []).append(version)
        newer = await self._names.newer_from(self._query.key, self._tree, shares) if shares else {}
        coming = {identity for identity, v in newer.items() if frontier and key_of(position(v, "time")) > frontier}
        return [version for version in versions if version.identity not in coming]

    # --- waiting ---

    async def _go_on(self) -> None:
        """Let answers in while much is given out, and ask for more as soon as there is room for it."""
        await asyncio.sleep(0)
        self._take_opened()
        done = [stream for stream in self._streams.values() if stream.task is not None and stream.task.done()]
        for stream in done:
            task, stream.task = stream.task, None
            assert task is not None
            await self._arrived(stream, task)
        self._fetch()

    async def _wait(self) -> bool:
        """Wait for the next answer; False where all is read. Raises where a page stands in the way."""
        tasks = {stream.task: stream for stream in self._streams.values() if stream.task is not None}
        if not tasks and not self._opening:
            self._raise_failures()
            assert not any(stream.open for stream in self._streams.values()), "a read that waits for nothing"
            return False
        await asyncio.wait([*tasks, *self._opening, self._stirred], return_when=asyncio.FIRST_COMPLETED)
        self._take_opened()
        for task, stream in tasks.items():
            if task.done():
                stream.task = None
                await self._arrived(stream, task)
        return True

    def _take_opened(self) -> None:
        found, self._told = self._told, []
        if found:
            self._stirred = asyncio.get_running_loop().create_future()
        for opening in [opening for opening in self._opening if opening.done()]:
            self._opening.remove(opening)
            found += opening.result()
        for opened in found:
            self._read_opened(*opened)

    async def _arrived(self, stream: Stream, fetching: Awaitable[list[Version]]) -> None:
        try:
            versions = await fetching
        except PageSplitError as split:
            self._split(stream, split)
            return
        except IncompleteError as error:
            stream.failure = error
            return
        self._take_in(stream, versions)

    def _take_in(self, stream: Stream, versions: list[Version]) -> None:
        order, reverse = self._query.order, self._query.reverse
        found = [(key_of(position(version, order)), version) for version in versions]
        if isinstance(stream.reading, SplitReading):
            found = sorted([*stream.buffer, *found], key=itemgetter(0), reverse=reverse)
            stream.buffer.clear()
        stream.buffer += found
        stream.covered = key_of(stream.reading.after) if stream.reading.after else None

    def _split(self, stream: Stream, split: PageSplitError) -> None:
        """The page was split: what comes is on its way to the children, which join where it stands."""
        after = stream.reading.after
        self._tree.noticed.add(stream.page)
        stream.reading = self._reading(stream.page, after)
        same = stream.reading.read_to == after and split.until == self._until(stream)
        if split.opening is not None and same:
            stream.reading.open_with(split.opening, split.until)
            stream.task = asyncio.create_task(stream.reading.next(SPLIT_OPENED_RECORDS, split.until))
        for child in children_of(stream.page):
            self._join(child, after)

    def _raise_failures(self) -> None:
        failed = [stream for stream in self._streams.values() if stream.failure is not None]
        if not failed:
            return
        reasons = list(dict.fromkeys(str(stream.failure) for stream in failed))
        named = "; ".join(reasons[:FAILURES_NAMED_MAX])
        more = f"; and {len(reasons) - FAILURES_NAMED_MAX} more pages" if len(reasons) > FAILURES_NAMED_MAX else ""
        assert failed[0].failure is not None
        raise IncompleteError(named + more, failed[0].failure.mend) from failed[0].failure

    async def _end(self) -> None:
        reading = [stream.task for stream in self._streams.values() if stream.task is not None]
        tasks: list[asyncio.Task[Any]] = [*reading, *self._opening]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _distinct(found: list[tuple[Key, Version]]) -> list[Version]:
    """One version a position: the same record may come from a page and from the one below it."""
    versions: list[Version] = []
    last: Key | None = None
    for key, version in found:
        if key != last:
            versions.append(version)
        elif rank(version) > rank(versions[-1]):
            versions[-1] = version
        last = key
    return versions
