"""Opens many pages of a key at once, without a lookup for each.

Theory of operation. A peer that has met its swarm knows the k replicas of every page. So it asks a read quorum of each
page's for the page's first run, all pages in a few messages to each contact (`runs.py`). Where somebody does not answer
while others do, because a datagram was lost or it has died, others are asked in its place, and from then on it is asked
last. Answerers whose opinion of the replicas differs name them: then a read quorum of theirs must be heard as well
(`core/views.py`), as writers of that opinion may have counted those. A page is left to its lookup where

- too few of the replicas that anybody names can be asked, or answer, and the others are not in doubt yet,
- versions wait in batches, which must be settled first.

What makes a page open is told in `opening_page.py`. Who is in doubt, pings tell, which are answered at once by whoever
lives, while runs of hundreds of pages take their time. A split page needs no agreement: what is heard of it is united,
whatever it is. Who knows too few peers to tell whether it is a replica is not heard at all.

Owns the choice of whom to ask, and when to ask more of them. Changes nothing.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from functools import partial

import msgspec

from p2pkv.core.pages import PageName
from p2pkv.core.views import Views
from p2pkv.errors import RemoteError
from p2pkv.ids import Place
from p2pkv.limits import (
    BEYOND_QUORUM_S,
    OPENING_DISTANCES,
    OPENING_FEW_PAGES,
    OPENING_MOST_S,
    OPENING_PATIENCE_S,
    OPENING_PROBES_MAX,
    OPENING_SPARES,
    OPENING_TURN_S,
    OPENING_WORK_S,
)
from p2pkv.messages import FindRecords, FindRecordsReply
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.lookup import Lookups
from p2pkv.swarm.neighbourhood import Neighbourhood
from p2pkv.swarm.opening_page import Page
from p2pkv.swarm.replica import Replica
from p2pkv.swarm.runs import Asked, Done, Runs
from p2pkv.swarm.sources import LocalSource, Opening, Source, Sources
from p2pkv.wire import NodeTuple

Requests = Mapping[PageName, FindRecords]
Found = dict[PageName, Opening]
Tell = Callable[[PageName, Opening], None]
"""Takes a page that is open, while others are being opened."""


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

    async def open(self, requests: Requests, filling: Collection[PageName], tell: Tell) -> Found:
        """First answers of the pages' replicas; pages that must be opened one by one are left out.

        `filling`: of these, what should be there may be on its way yet. `tell` is told before the end, once a page, of
        those that prove to be split, as those below can be opened meanwhile, and of all others that are open where
        somebody is waited for until he is in doubt.
        Raises UnreachableError and IncompleteError where this peer is cut off.
        """
        await self._lookups.ready()
        together = Together(self, requests, tell)
        await together.run(filling)
        self._lookups.require_swarm()  # again: the silence of most may have shown just now
        return together.found()

    # --- what it needs to know and to ask ---

    def page(self, request: FindRecords) -> Page | None:
        """A page that can be opened so; None where too few of its replicas are known, or none can be asked."""
        place = Place(request.place)
        view, contacts = self._neighbourhood.view(place)
        here, k = self._neighbourhood.keeps(place), self._neighbourhood.k
        if len(contacts) + here < k:
            return None  # who counts as a replica in so small a swarm, only a lookup can tell
        able = [contact for contact in contacts if self._able(contact)]
        if len(able) + here == 0:
            return None
        own = [contact.id for contact in contacts] + [self._neighbourhood.node_id] * here
        silent = {contact.id for contact in contacts if self._lookups.silences.is_silent(contact)}
        return Page(msgspec.structs.replace(request, view=view), Views(place, k, own), here, able, silent)

    def beyond(self, page: Page) -> list[Contact]:
        """The next contacts behind its replicas, nearest first, that can be asked."""
        return [contact for contact in self._neighbourhood.beyond(page.request.place) if self._able(contact)]

    def _able(self, contact: Contact) -> bool:
        return contact.bulk and not self._lookups.silences.is_silent(contact)

    def named(self, nodes: Iterable[NodeTuple]) -> tuple[list[Contact], set[bytes]]:
        """Those of the named that can be asked, and the ids of those that are silent."""
        contacts = self._lookups.contacts_of(nodes)
        silent = {node.node_id for node in nodes} - {node_id for node_id, _ in contacts}
        return [contact for _, contact in contacts if self._able(contact)], silent

    def keeps_waiting(self, contact: Contact) -> bool:
        return self._runs.keeps_waiting(contact)

    def doubt(self, contact: Contact) -> None:
        self._runs.doubt(contact)

    def probe(self, contact: Contact) -> None:
        self._lookups.probe(contact)

    def doubted_in_s(self, contact: Contact, *, heard: bool) -> float:
        """How much longer it has to be silent to be in doubt. `heard`: as below."""
        return self._lookups.doubted_in_s(contact, self._away_s(contact) if heard else math.inf)

    def patience_s(self, contacts: Iterable[Contact], *, heard: bool) -> float:
        """How long to wait until the quickest of some contacts has answered.

        Where most others were `heard`, it can only be far away: what it took in busier moments counts no more.
        """
        usual_s = (min(self._lookups.patience_s(c), self._away_s(c) if heard else math.inf) for c in contacts)
        return max(OPENING_PATIENCE_S, min(usual_s, default=0.0))

    def _away_s(self, contact: Contact) -> float:
        return OPENING_DISTANCES * self._lookups.quickest_s(contact)

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


class Together:
    """One opening of many pages."""

    def __init__(self, openings: Openings, requests: Requests, tell: Tell) -> None:
        self._openings = openings
        self._tell = tell
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

    async def run(self, filling: Collection[PageName]) -> None:
        await self._openings.own([page for page in self._pages.values() if page.here])
        spares = OPENING_SPARES if len(self._pages) <= OPENING_FEW_PAGES else 0
        try:
            self._probe_few({contact for page in self._pages.values() for contact in page.spares})
            await asyncio.sleep(0)  # the pings leave first
            for name, page in self._pages.items():
                # Of a page that fills, a quorum mostly has nothing, or differs: then all would be asked behind it.
                self._ask_enough(name, page, len(page.spares) if name in filling else spares)
                self._ask_beyond(name, page)
            self._probe_few(self._owing)
            while not await self._wait_while_answers_come():
                if not self._ask_others():
                    await self._wait_for_doubt()
                    break
            for name in list(self._left):
                self._conclude(name, self._pages[name])
        finally:
            for contact in self._owing:
                self._openings.doubt(contact)
            for page in self._pages.values():
                for asked in page.waiting.values():
                    asked.cancel()

    async def _wait_while_answers_come(self) -> bool:
        """Until all is over, or nobody has answered for so long, and as long as the first answer took; is it over?

        Those who were late before are not waited for here. While most owe their answers, so long as it takes to answer
        all that was asked, and as peers may have other work in hand: if all are at it, none is dead.
        """
        began_s = self._loop.time()
        while self._left:
            if self._late.issuperset(self._owing):
                return False
            quiet_s = self._loop.time() - max(self._heard_s, began_s)
            heard = self._most_heard
            busy_s = max(OPENING_MOST_S, OPENING_WORK_S * self._owing.total())
            usual_s = self._first_s - self._began_s if heard else busy_s
            left_s = max(usual_s, self._openings.patience_s(self._owing, heard=heard)) - quiet_s
            if left_s < OPENING_TURN_S:
                return False
            await self._wait(left_s)
        return True

    async def _wait_for_doubt(self) -> None:
        """Until all who owe answers about pages that are left have given them, or are in doubt: those too who are more
        than a quorum, as the others may have just come to a page that these have kept."""
        for name, opening in self.found().items():
            if not opening.split:  # else it was told when it opened
                self._tell(name, opening)
        until_s = self._loop.time() + BEYOND_QUORUM_S
        while self._left:
            owing = {contact for name in self._left for contact in self._pages[name].waiting}
            left_s = min(max(map(self._doubted_in_s, owing), default=0.0), until_s - self._loop.time())
            if left_s <= 0:
                return
            await self._wait(max(left_s, OPENING_TURN_S))  # time that rounds to nothing does not pass

    async def _wait(self, seconds: float) -> None:
        """Until somebody has answered all, or no page is left, or for so long."""
        self._stirred.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stirred.wait()

    @property
    def _most_heard(self) -> bool:
        """Have more than half of those who were asked answered all?"""
        return 2 * len(self._owing) < len(self._loads)

    def _conclude(self, name: PageName, page: Page) -> None:
        page.conclude(lambda contact: self._doubted_in_s(contact) <= 0)
        page.done = True
        self._left.discard(name)

    def _doubted_in_s(self, contact: Contact) -> float:
        return self._openings.doubted_in_s(contact, heard=self._most_heard)

    def _probe_few(self, contacts: Collection[Contact]) -> None:
        if len(contacts) <= OPENING_PROBES_MAX:
            self._probe(contacts)

    def _probe(self, contacts: Iterable[Contact]) -> None:
        for contact in contacts:
            self._openings.probe(contact)

    def _ask_others(self) -> bool:
        """Ask others in the place of all who are late, and those beyond where too few are left; is there anybody?"""
        most_heard = self._most_heard  # else those who are late are rather busy than dead
        self._late.update(self._owing)
        self._probe(self._owing)
        left = [(name, page) for name, page in self._pages.items() if name in self._left]
        asked = sum(self._ask_enough(name, page, 0) for name, page in left)
        if most_heard:
            asked += sum(self._ask_beyond(name, page) for name, page in left)
        return asked > 0

    def _ask_beyond(self, name: PageName, page: Page) -> int:
        """Ask those who may stand in for replicas, where too few of these are left that seem to live; how many?"""
        if not page.views.unmet(self._counted(page)):
            return 0
        known = {*page.asked, *(contact.id for contact in page.spares)}
        chosen = [contact for contact in self._openings.beyond(page) if contact.id not in known]
        self._probe(chosen)
        page.spares += chosen
        for contact in chosen:
            self._ask(name, page, contact)
        return len(chosen)

    def _ask_enough(self, name: PageName, page: Page, more: int) -> int:
        """As many as there must be for a quorum of every view, and some more; how many were asked?

        Those first who answer quickly, whom most views name, and who have least to do.
        """
        counted = self._counted(page)
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

    def _counted(self, page: Page) -> set[bytes]:
        """Those who have answered, and those who will unless they have died just now; ids."""
        return {*page.heard, *(contact.id for contact in page.waiting if not self._waits(contact))}

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
            named, silent = self._openings.named(reply.nodes)
            page.spares += [other for other in named if other.id not in known]
            page.silent |= silent
        if page.judge():
            if not page.done:  # they disagree
                self._ask_enough(name, page, len(page.spares))
        elif widened or contact.id not in page.heard:
            self._ask_enough(name, page, 0)

    def _finish_where_nobody_is_left(self, name: PageName, page: Page) -> None:
        """A page is over when it is open, or when all have spoken; those that were not asked yet are asked first."""
        if not page.done and not page.waiting:
            self._ask_enough(name, page, len(page.spares))
            if not page.waiting:
                self._conclude(name, page)
        if page.done:
            self._left.discard(name)
            if not self._left:
                self._stirred.set()
            if page.opening is not None and page.opening.split:
                self._tell(name, page.opening)
