"""Opens many pages of a key at once, without a lookup for each.

Theory of operation. A peer that has met its swarm knows the k replicas of every page. So it asks a read quorum of each
page's and a spare one for the page's first run, all pages in a few messages to each contact (`runs.py`). Where that
brings no quorum soon, because a datagram was lost or a peer has died, all replicas of the page are asked. Such a page
is opened as one would be by a lookup that found the same replicas; a page is left to its lookup where

- an answerer is none of its replicas, or has another opinion of who they are,
- versions wait in batches, which must be settled first,
- no quorum says the same, or others hold what that quorum does not have.

A split page needs no agreement: what a quorum says of it is united, whatever it is.

Owns the choice of whom to ask, and when to ask more of them. Changes nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial

import msgspec

from p2pkv.core.pages import PageName
from p2pkv.core.replication import read_quorum, within
from p2pkv.ids import Place
from p2pkv.limits import OPENING_PATIENCE_S, OPENING_QUIET_S, OPENING_SPARES, OPENING_TURN_S
from p2pkv.messages import FindRecords, FindRecordsReply
from p2pkv.outcomes import Order
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.lookup import Lookups
from p2pkv.swarm.neighbourhood import Neighbourhood
from p2pkv.swarm.replica import Replica
from p2pkv.swarm.runs import Runs
from p2pkv.swarm.sources import LocalSource, Opening, Source, Sources

Requests = Mapping[PageName, FindRecords]
Found = dict[PageName, Opening]


class Openings:
    """Opens pages whose replicas are known."""

    def __init__(
        self, sources: Sources, runs: Runs, lookups: Lookups, replica: Replica, neighbourhood: Neighbourhood
    ) -> None:
        self._sources = sources
        self._runs = runs
        self._lookups = lookups
        self._replica = replica
        self._neighbourhood = neighbourhood

    async def open(self, requests: Requests) -> Found:
        """First answers of the pages' replicas; pages that must be opened one by one are left out.

        Raises UnreachableError and IncompleteError where this peer is cut off.
        """
        self._lookups.require_swarm()
        together = _Together(self, requests)
        await together.run()
        self._lookups.require_swarm()  # again: the silence of most may have shown just now
        return together.found()

    # --- what it needs to know and to ask ---

    def page(self, request: FindRecords) -> Page | None:
        """A page that can be opened so; None where too few of its replicas are known, or take bulk transfer."""
        place = Place(request.place)
        view, contacts = self._neighbourhood.view(place)
        here, k = self._neighbourhood.keeps(place), self._neighbourhood.k
        if len(contacts) + here < k:
            return None  # who counts as a replica in so small a swarm, only a lookup can tell
        silent = self._lookups.silences.is_silent
        able = [contact for contact in contacts if contact.bulk and not silent(contact)]
        if len(able) + here < read_quorum(k):
            return None
        return Page(msgspec.structs.replace(request, view=view), able, here, k)

    def quick(self, contact: Contact) -> bool:
        return not self._runs.keeps_waiting(contact)

    def begin(self, contact: Contact, request: FindRecords) -> asyncio.Future[FindRecordsReply]:
        return self._runs.begin(contact, request)

    def remote(self, contact: Contact) -> Source:
        return self._sources.remote(contact)

    async def own(self, pages: list[Page]) -> None:
        """What this peer itself holds of them."""
        here = LocalSource(self._replica)
        while pages:
            replies = await self._replica.find_runs([page.request for page in pages])
            for page, reply in zip(pages, replies, strict=False):
                page.heard.append((here, reply))
            pages = pages[len(replies) :]


class Page:
    """One page being opened."""

    __slots__ = ("done", "heard", "here", "k", "opening", "request", "spares", "waiting")

    def __init__(self, request: FindRecords, spares: list[Contact], here: bool, k: int) -> None:
        self.request = request
        self.spares = spares  # replicas that are not asked yet
        self.here = here
        self.k = k
        self.heard: list[tuple[Source, FindRecordsReply]] = []
        self.waiting: set[asyncio.Future[FindRecordsReply]] = set()
        self.opening: Opening | None = None
        self.done = False

    def judge(self) -> None:
        """Is it open, or can it not be opened so?"""
        if any(reply.batches for _, reply in self.heard):
            self.done = True
            return
        quorum = read_quorum(self.k)
        if len(self.heard) < quorum:
            return
        split = any(reply.split for _, reply in self.heard)
        agreeing = self.heard if split else self._agreeing(quorum)
        if agreeing:
            sources, replies = [source for source, _ in agreeing], [reply for _, reply in agreeing]
            self.opening = Opening(sources, list(replies), self.k, quorum)
            self.done = True

    def _agreeing(self, quorum: int) -> list[tuple[Source, FindRecordsReply]]:
        """A quorum that says the same, where nobody else has anything beside it."""
        groups: dict[tuple[bytes, bool], list[tuple[Source, FindRecordsReply]]] = {}
        for source, reply in self.heard:
            groups.setdefault((reply.digest, reply.more), []).append((source, reply))
        group = max(groups.values(), key=len)
        if len(group) < quorum:
            return []
        others = [reply for _, reply in self.heard if not any(reply is agreed for _, agreed in group)]
        return [] if any(self._beside(group[0][1], other) for other in others) else group

    def _beside(self, agreed: FindRecordsReply, other: FindRecordsReply) -> bool:
        """Does the other hold something, as far as the agreed run goes, that is not in it?"""
        order: Order = "name" if self.request.by_name else "time"
        end = agreed.end if agreed.more else None
        known = set(agreed.versions)
        return any(
            version not in known and within(version, order, None, end, reverse=self.request.reverse)
            for version in other.versions
        )


def _trusted(reply: FindRecordsReply) -> bool:
    """Is it a replica's, and is that of the same opinion who the others are? Where it knows some of them to be dead,
    writers have others in their places, which a quorum of these need not meet."""
    return reply.mine and not reply.nodes


class _Together:
    """One opening of many pages."""

    def __init__(self, openings: Openings, requests: Requests) -> None:
        self._openings = openings
        self._pages = {name: page for name, request in requests.items() if (page := openings.page(request)) is not None}
        self._left = set(self._pages)
        self._loads: Counter[bytes] = Counter()
        self._began_s = asyncio.get_running_loop().time()
        self._first_s = self._heard_s = 0.0  # when the first answer came, and the last
        self._finished = asyncio.Event()

    def found(self) -> Found:
        return {name: page.opening for name, page in self._pages.items() if page.opening is not None}

    async def run(self) -> None:
        await self._openings.own([page for page in self._pages.values() if page.here])
        try:
            for name, page in self._pages.items():
                self._ask(name, page, read_quorum(page.k) - page.here + OPENING_SPARES)
            self._look()
            if not await self._wait_while_answers_come(OPENING_PATIENCE_S):
                self._ask_all(list(self._left))
                await self._wait_while_answers_come(OPENING_QUIET_S)
        finally:
            for page in self._pages.values():
                for future in page.waiting:
                    future.cancel()

    async def _wait_while_answers_come(self, patience_s: float) -> bool:
        """Until all is over, or nobody has answered for so long, and as long as the first answer took; is it over?"""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        while not self._finished.is_set():
            quiet_s = loop.time() - max(self._heard_s, began_s)
            left_s = max(patience_s, self._first_s - self._began_s if self._first_s else 0) - quiet_s
            if left_s < OPENING_TURN_S:
                return False
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._finished.wait()
        return True

    def _ask_all(self, names: Iterable[PageName]) -> None:
        for name in names:
            page = self._pages[name]
            self._ask(name, page, len(page.spares))
            self._finish_where_nobody_is_left(name, page)

    def _ask(self, name: PageName, page: Page, count: int) -> None:
        """Some of the replicas that were not asked yet: those that answer quickly, and that have least to do."""
        page.spares.sort(key=lambda contact: (not self._openings.quick(contact), self._loads[contact.id]))
        asked, page.spares = page.spares[:count], page.spares[count:]
        for contact in asked:
            self._loads[contact.id] += 1
            future = self._openings.begin(contact, page.request)
            page.waiting.add(future)
            future.add_done_callback(partial(self._answered, name, page, contact))

    def _answered(self, name: PageName, page: Page, contact: Contact, future: asyncio.Future[FindRecordsReply]) -> None:
        page.waiting.discard(future)
        self._heard_s = asyncio.get_running_loop().time()
        self._first_s = self._first_s or self._heard_s
        if page.done or future.cancelled():
            return
        if future.exception() is None and _trusted(future.result()):
            page.heard.append((self._openings.remote(contact), future.result()))
            page.judge()
        self._finish_where_nobody_is_left(name, page)

    def _finish_where_nobody_is_left(self, name: PageName, page: Page) -> None:
        """A page is over when it is open, or when all have spoken; those that were not asked yet are asked first."""
        if not page.done and not page.waiting:
            self._ask(name, page, len(page.spares))
            page.done = not page.waiting
        if page.done:
            self._left.discard(name)
            self._look()

    def _look(self) -> None:
        if not self._left:
            self._finished.set()
