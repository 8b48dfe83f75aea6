"""Counts the records of a key without fetching them: digests and counts of all pages, side by side.

Theory of operation. A page whose read quorum agrees by digest counts as it says. Where replicas differ, the page is
read; where a split page still holds records, it is read with all below it, because only the merge can tell which of
them were moved already. A split page is asked before its children, for the reason that reads have.

Owns nothing but the walk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from p2pkv import messages
from p2pkv.core.pages import ROOT, PageName, PageTree, children_of
from p2pkv.core.records import Version
from p2pkv.core.replication import digest_of
from p2pkv.limits import PAGES_ASKED_AT_ONCE_MAX, RECORDS_DIGEST_MAX
from p2pkv.swarm.key_reading import KeyReading
from p2pkv.swarm.mending import Mender
from p2pkv.swarm.names import NameReader
from p2pkv.swarm.page_reading import Query, require_quorum
from p2pkv.swarm.sources import Opening, Sources

_EMPTY = digest_of([])


class Count:
    """One count."""

    def __init__(
        self,
        sources: Sources,
        mender: Mender,
        names: NameReader,
        tree: PageTree,
        query: Query,
        alive: Callable[[Version], bool],
    ) -> None:
        self._sources = sources
        self._mender = mender
        self._names = names
        self._tree = tree
        self._query = query
        self._alive = alive
        self._slots = asyncio.Semaphore(PAGES_ASKED_AT_ONCE_MAX)

    async def run(self, page: PageName = ROOT) -> int:
        """The live records of a page and all below it. Raises IncompleteError, UnreachableError."""
        if page in self._tree.closed and page != ROOT:
            return await self._children(page)
        opening = await self._ask(page)
        replies = [reply for reply in opening.replies if isinstance(reply, messages.FindRecordsReply)]
        if opening.split:
            self._tree.noticed.add(page)
            self._mender.tell_split(self._query.key, page, opening.unaware)
            if all(reply.digest == _EMPTY and not reply.more for reply in replies):
                return await self._children(page)
        elif len({reply.digest for reply in replies}) == 1 and not replies[0].more:
            return replies[0].live
        return await self._read(page)

    async def _ask(self, page: PageName) -> Opening:
        request = self._query.request(page, None, None, RECORDS_DIGEST_MAX)
        request = msgspec.structs.replace(request, digest_only=True)
        async with self._slots:
            opening = await self._sources.open(request)
            if len(opening.sources) < opening.quorum or _nothing(opening):
                opening = await self._sources.open_all(request, opening)
        require_quorum(opening, page)
        return opening

    async def _children(self, page: PageName) -> int:
        return sum(await asyncio.gather(*(self.run(child) for child in children_of(page))))

    async def _read(self, page: PageName) -> int:
        reading = KeyReading(self._sources, self._mender, self._names, self._tree, self._query, top=page)
        total = 0
        async for versions in reading.runs(None):
            total += sum(map(self._alive, versions))
        return total


def _nothing(opening: Opening) -> bool:
    """Does no replica hold anything of the page?"""
    return not opening.split and all(getattr(reply, "digest", _EMPTY) == _EMPTY for reply in opening.replies)
