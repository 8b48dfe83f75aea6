"""Opens many pages of a key at once, without a lookup for each.

Theory of operation. A peer that has met its swarm knows the k replicas of every page. So it asks a read quorum of each
page's for the page's first run, all pages in a few messages to each contact (`runs.py`). Where somebody does not answer
while others do, because a datagram was lost or it has died, others are asked in its place, and from then on it is asked
last. Answerers whose opinion of the replicas differs name them: then a read quorum of theirs must be heard as well
(`core/views.py`), as writers of that opinion may have counted those. A page is left to its lookup where

- too few of the replicas that anybody names can be asked, or answer,
- versions wait in batches, which must be settled first,
- no such quorum says the same, or others hold what it does not have.

A split page needs no agreement: what is heard of it is united, whatever it is. Who says that it is none of the
replicas, or knows too few peers to tell, is not heard at all.

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
from p2pkv.core.views import Views
from p2pkv.errors import RemoteError
from p2pkv.ids import Place
from p2pkv.limits import (
    OPENING_DISTANCES,
    OPENING_FEW_PAGES,
    OPENING_MOST_S,
    OPENING_ONE_S,
    OPENING_PATIENCE_S,
    OPENING_QUIET_S,
    OPENING_SPARES,
    OPENING_TURN_S,
    OPENING_WORK_S,
)
from p2pkv.messages import FindRecords, FindRecordsReply
from p2pkv.outcomes import Order
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.lookup import Lookups
from p2pkv.swarm.neighbourhood import Neighbourhood
from p2pkv.swarm.replica import Replica
from p2pkv.swarm.runs import Asked, Done, Runs
from p2pkv.swarm.sources import LocalSource, Opening, Source, Sources, view_of
from p2pkv.wire import NodeTuple

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
        await self._lookups.ready()
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
        able = [contact for contact in contacts if self._able(contact)]
        if len(able) + here < read_quorum(k):
            return None
        own = [contact.id for contact in contacts] + [self._neighbourhood.node_id] * here
        return Page(msgspec.structs.replace(request, view=view), Views(place, k, own), able, here)

    def _able(self, contact: Contact) -> bool:
        return contact.bulk and not self._lookups.silences.is_silent(contact)

    def named(self, nodes: Iterable[NodeTuple]) -> list[Contact]:
        """Those of the named that can be asked."""
        return [contact for _, contact in self._lookups.contacts_of(nodes) if self._able(contact)]

    def keeps_waiting(self, contact: Contact) -> bool:
        return self._runs.keeps_waiting(contact)

    def doubt(self, contact: Contact) -> None:
        self._runs.doubt(contact)

    def patience_s(self, contacts: Iterable[Contact], *, heard: bool) -> float:
        """How long to wait until the quickest of some contacts has answered.

        Where most others were `heard`, it can only be far away: what it took in busier moments counts no more.
        """
        usual_s = [self._lookups.patience_s(contact) for contact in contacts]
        if heard:
            away_s = (OPENING_DISTANCES * self._lookups.quickest_s(contact) for contact in contacts)
            usual_s = list(map(min, usual_s, away_s))
        return max(OPENING_PATIENCE_S, min(usual_s, default=0.0))

    def begin(self, contact: Contact, request: FindRecords, done: Done) -> Asked:
        return self._runs.begin(contact, request, done)

    def remote(self, contact: Contact) -> Source:
        return self._sources.remote(contact)

    async def own(self, pages: list[Page]) -> None:
        """What this peer itself holds of them."""
        here = LocalSource(self._replica)
        while pages:
            replies = await self._replica.find_runs([page.request for page in pages])
            for page, reply in zip(pages, replies, strict=False):
                page.heard[self._neighbourhood.node_id] = here, reply
                page.waits = bool(reply.batches)
            pages = pages[len(replies) :]


class Page:
    """One page being opened."""

    __slots__ = (
        "asked",
        "done",
        "heard",
        "here",
        "opening",
        "quorum",
        "request",
        "spares",
        "views",
        "waiting",
        "waits",
    )

    def __init__(self, request: FindRecords, views: Views, spares: list[Contact], here: bool) -> None:
        self.request = request
        self.views = views
        self.spares = spares  # those who are not asked yet
        self.here = here
        self.asked: set[bytes] = set()
        self.heard: dict[bytes, tuple[Source, FindRecordsReply]] = {}
        self.waiting: dict[Contact, Asked] = {}
        self.opening: Opening | None = None
        self.quorum = read_quorum(views.k)
        self.waits = False  # do versions wait in batches?
        self.done = False

    def hear(self, contact: Contact, source: Source, reply: FindRecordsReply) -> bool:
        """Take an answer. True where it shows another view of the replicas than those that were known.

        Somebody who is none of the replicas, or knows too few peers to tell, is not heard, but that view counts.
        """
        view = view_of(contact.id, reply)
        if view and len(view) != self.views.k:
            return False
        if reply.mine:
            self.heard[contact.id] = source, reply
            self.waits = self.waits or bool(reply.batches)
        return bool(view) and self.views.add(view)

    def judge(self) -> bool:
        """Is it open, or can it not be opened so? False where more answers must be had, whatever they say."""
        if self.waits:
            self.done = True
            return True
        quorum = self.quorum
        if len(self.heard) < quorum or self.views.unmet(self.heard.keys()):
            return False
        split = any(reply.split for _, reply in self.heard.values())
        agreeing = list(self.heard) if split else self.views.cover(self._agreeing())
        if agreeing:
            sources, replies = zip(*(self.heard[node_id] for node_id in agreeing), strict=True)
            self.opening = Opening(list(sources), list(replies), self.views.k, quorum, enough=list(sources))
            self.done = True
        return True

    def _agreeing(self) -> list[bytes]:
        """Those who say the same as most do, where nobody else has anything beside it."""
        groups: dict[tuple[bytes, bool], list[bytes]] = {}
        for node_id, (_, reply) in self.heard.items():
            groups.setdefault((reply.digest, reply.more), []).append(node_id)
        if len(groups) == 1:
            return list(self.heard)
        group = max(groups.values(), key=len)
        agreed = self.heard[group[0]][1]
        others = [reply for node_id, (_, reply) in self.heard.items() if node_id not in group]
        return [] if any(self._beside(agreed, other) for other in others) else group

    def _beside(self, agreed: FindRecordsReply, other: FindRecordsReply) -> bool:
        """Does the other hold something, as far as the agreed run goes, that is not in it?"""
        order: Order = "name" if self.request.by_name else "time"
        end = agreed.end if agreed.more else None
        known = set(agreed.versions)
        return any(
            version not in known and within(version, order, None, end, reverse=self.request.reverse)
            for version in other.versions
        )


class _Together:
    """One opening of many pages."""

    def __init__(self, openings: Openings, requests: Requests) -> None:
        self._openings = openings
        self._pages = {name: page for name, request in requests.items() if (page := openings.page(request)) is not None}
        self._left = set(self._pages)
        self._loads: Counter[bytes] = Counter()
        self._owing: Counter[Contact] = Counter()  # answers
        self._late: set[Contact] = set()  # those who owed theirs while nobody answered any more
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._first_s = self._heard_s = 0.0  # when the first answer came, and the last
        self._stirred = asyncio.Event()  # somebody has answered all, or no page is left

    def found(self) -> Found:
        return {name: page.opening for name, page in self._pages.items() if page.opening is not None}

    async def run(self) -> None:
        await self._openings.own([page for page in self._pages.values() if page.here])
        spares = OPENING_SPARES if len(self._pages) <= OPENING_FEW_PAGES else 0
        try:
            for name, page in self._pages.items():
                self._ask_enough(name, page, spares)
            while not await self._wait_while_answers_come():
                if not self._ask_others():
                    one_by_one_s = OPENING_ONE_S * len(self._left)
                    await self._wait_while_answers_come(
                        min(one_by_one_s, OPENING_QUIET_S) if self._most_heard else OPENING_QUIET_S
                    )
                    break
        finally:
            for contact in self._owing:
                self._openings.doubt(contact)
            for page in self._pages.values():
                for asked in page.waiting.values():
                    asked.cancel()

    async def _wait_while_answers_come(self, patience_s: float = 0.0) -> bool:
        """Until all is over, or nobody has answered for so long, and as long as the first answer took; is it over?

        While most owe their answers, so long as it takes to answer all that was asked, and as peers may have other work
        in hand: if all are at it, none is dead.
        """
        began_s = self._loop.time()
        while self._left:
            quiet_s = self._loop.time() - max(self._heard_s, began_s)
            heard = self._most_heard
            busy_s = max(OPENING_MOST_S, OPENING_WORK_S * self._owing.total())
            usual_s = self._first_s - self._began_s if heard else busy_s
            left_s = max(patience_s, usual_s, self._openings.patience_s(self._owing, heard=heard)) - quiet_s
            if left_s < OPENING_TURN_S:
                return False
            self._stirred.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._stirred.wait()
        return True

    @property
    def _most_heard(self) -> bool:
        """Have more than half of those who were asked answered all?"""
        return 2 * len(self._owing) < len(self._loads)

    def _ask_others(self) -> bool:
        """Ask others in the place of all who are late; is there anybody?"""
        self._late.update(self._owing)
        left = [(name, page) for name, page in self._pages.items() if name in self._left]
        return sum(self._ask_enough(name, page, 0) for name, page in left) > 0

    def _ask_enough(self, name: PageName, page: Page, more: int) -> int:
        """As many as there must be for a quorum of every view, and some more; how many were asked?

        Those first who answer quickly, whom most views name, and who have least to do.
        """
        counted = {*page.heard, *(contact.id for contact in page.waiting if contact not in self._late)}
        order = self._in_order(page)
        if page.views.agree:
            chosen = order[: max(0, page.quorum - len(counted)) + more]
            if chosen and self._waits(chosen[-1]):
                chosen = order  # those who are left may all be dead: they are not tried one after the other
            for contact in chosen:
                self._ask(name, page, contact)
            return len(chosen)
        asked = 0
        for contact in order:
            unmet = page.views.unmet(counted)
            if not any(contact.id in view for view in unmet):
                if more <= 0:
                    continue
                more -= 1
            counted.add(contact.id)
            self._ask(name, page, contact)
            asked += 1
        return asked

    def _in_order(self, page: Page) -> list[Contact]:
        loads, views = self._loads, page.views
        if views.agree:
            return sorted(page.spares, key=lambda contact: (self._waits(contact), loads[contact.id]))
        return sorted(
            page.spares, key=lambda contact: (self._waits(contact), -views.naming(contact.id), loads[contact.id])
        )

    def _waits(self, contact: Contact) -> bool:
        """May it be dead?"""
        return contact in self._late or self._openings.keeps_waiting(contact)

    def _ask(self, name: PageName, page: Page, contact: Contact) -> None:
        page.spares.remove(contact)
        page.asked.add(contact.id)
        self._loads[contact.id] += 1
        self._owing[contact] += 1
        page.waiting[contact] = self._openings.begin(
            contact, page.request, partial(self._answered, name, page, contact)
        )

    def _answered(self, name: PageName, page: Page, contact: Contact, outcome: FindRecordsReply | RemoteError) -> None:
        del page.waiting[contact]
        self._heard_s = self._loop.time()
        self._first_s = self._first_s or self._heard_s
        self._owing[contact] -= 1
        if not self._owing[contact]:
            del self._owing[contact]
            self._stirred.set()
        self._late.discard(contact)
        if page.done:
            return
        if isinstance(outcome, RemoteError):
            self._ask_enough(name, page, 0)
        else:
            self._take(name, page, contact, outcome)
        self._finish_where_nobody_is_left(name, page)

    def _take(self, name: PageName, page: Page, contact: Contact, reply: FindRecordsReply) -> None:
        widened = page.hear(contact, self._openings.remote(contact), reply)
        if widened:
            known = {*page.asked, *(other.id for other in page.spares)}
            page.spares += [other for other in self._openings.named(reply.nodes) if other.id not in known]
        if page.judge():
            if not page.done:  # they disagree
                self._ask_enough(name, page, len(page.spares))
        elif widened or contact.id not in page.heard:
            self._ask_enough(name, page, 0)

    def _finish_where_nobody_is_left(self, name: PageName, page: Page) -> None:
        """A page is over when it is open, or when all have spoken; those that were not asked yet are asked first."""
        if not page.done and not page.waiting:
            self._ask_enough(name, page, len(page.spares))
            page.done = not page.waiting
        if page.done:
            self._left.discard(name)
            if not self._left:
                self._stirred.set()
