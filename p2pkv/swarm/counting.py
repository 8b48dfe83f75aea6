"""Counts the records of a key without fetching them: digests and counts of all pages, side by side.

Theory of operation. The pages are counted level by level, so that a split page is asked before its children, for the
reason that reads have; what lies below closed pages, which nothing leaves any more, is asked for at once. Where a level
has many, their replicas are asked for all of them at once (summaries.py); what is
not settled so is asked for page by page. A page whose read quorum agrees by digest counts as it says. Where replicas
differ, the page is read; where a split page still holds records, it is read with all below it, because only the merge
can tell which of them were moved already.

Owns nothing but the walk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import msgspec

from p2pkv import messages
from p2pkv.core.pages import ROOT, PageName, PageTree, children_of
from p2pkv.core.records import Version
from p2pkv.core.replication import digest_of
from p2pkv.limits import PAGES_ASKED_AT_ONCE_MAX, RECORDS_DIGEST_MAX, SUMMARIES_WORTH
from p2pkv.swarm.key_reading import KeyReading
from p2pkv.swarm.mending import Mender
from p2pkv.swarm.names import NameReader
from p2pkv.swarm.opening import Openings
from p2pkv.swarm.page_reading import Query, require_quorum
from p2pkv.swarm.sources import Opening, Sources
from p2pkv.swarm.summaries import Summing

_EMPTY = digest_of([])


class Count:
    """One count."""

    def __init__(
        self,
        sources: Sources,
        openings: Openings,
        summing: Summing | None,
        mender: Mender,
        names: NameReader,
        tree: PageTree,
        query: Query,
        alive: Callable[[Version], bool],
    ) -> None:
        self._sources = sources
        self._openings = openings
        self._summing = summing
        self._mender = mender
        self._names = names
        self._tree = tree
        self._query = query
        self._alive = alive
        self._slots = asyncio.Semaphore(PAGES_ASKED_AT_ONCE_MAX)

    async def run(self) -> int:
        """The live records of the key. Raises IncompleteError, UnreachableError."""
        if ROOT in self._tree.closed:
            root, total = await asyncio.gather(self._ask(ROOT), self._count(children_of(ROOT)))
            if _is_hollow(root):
                return total
        return await self._count([ROOT])

    async def _count(self, pages: Iterable[PageName]) -> int:
        """The live records of pages, and of those that are to be counted beside them."""
        total, level = 0, self._open(pages)
        while level:
            sums = await self._sum_up([page for page in level if page not in self._tree.noticed])
            parts = await asyncio.gather(*(self._one(page) for page in level if page not in sums))
            total += sum(sums.values()) + sum(count for count, _ in parts)
            level = self._open(child for _, children in parts for child in children)
        return total

    def _open(self, pages: Iterable[PageName]) -> list[PageName]:
        """The pages, and in the place of closed ones those below. The root may hold stock values, closed or not."""
        asked: list[PageName] = []
        for page in pages:
            if page in self._tree.closed and page != ROOT:
                asked += self._open(children_of(page))
            else:
                asked.append(page)
        return asked

    async def _sum_up(self, pages: Sequence[PageName]) -> dict[PageName, int]:
        """The pages of which many replicas can speak at once, as far as they agree."""
        if self._summing is None or self._query.prefix or len(pages) < SUMMARIES_WORTH:
            return {}
        return await self._summing.count(self._query.key, pages)

    async def _one(self, page: PageName) -> tuple[int, list[PageName]]:
        """The live records of a page, and the pages that are to be counted beside it."""
        opening = await self._ask(page)
        replies = [reply for reply in opening.replies if isinstance(reply, messages.FindRecordsReply)]
        if opening.split:
            self._tree.noticed.add(page)
            self._mender.tell_split(self._query.key, page, opening.unaware)
            if _is_hollow(opening):
                if not self._query.prefix and not opening.unaware:
                    self._tree.close(page)
                return 0, children_of(page)
        elif len({reply.digest for reply in replies}) == 1 and not replies[0].more:
            return replies[0].live, []
        return await self._read(page), []

    async def _ask(self, page: PageName) -> Opening:
        request = self._query.request(page, None, None, RECORDS_DIGEST_MAX)
        request = msgspec.structs.replace(request, digest_only=True)
        async with self._slots:
            opening = await self._sources.open(self._query.key, request)
            if len(opening.sources) < opening.quorum or _nothing(opening):
                opening = await self._sources.open_all(self._query.key, request, opening)
        require_quorum(opening, page)
        return opening

    async def _read(self, page: PageName) -> int:
        """In the order of names, where a record that is replaced meanwhile stays in its place and counts once."""
        query = replace(self._query, order="name")
        reading = KeyReading(self._sources, self._openings, self._mender, self._names, self._tree, query, top=page)
        total = 0
        async for versions in reading.runs(None):
            total += sum(map(self._alive, versions))
        return total


def _is_hollow(opening: Opening) -> bool:
    """Is the page split, and holds nothing any more?"""
    return opening.split and all(
        getattr(reply, "digest", _EMPTY) == _EMPTY and not getattr(reply, "more", False) for reply in opening.replies
    )


def _nothing(opening: Opening) -> bool:
    """Does no replica hold anything of the page?"""
    return not opening.split and all(getattr(reply, "digest", _EMPTY) == _EMPTY for reply in opening.replies)
