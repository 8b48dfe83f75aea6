"""When a page that is opened with others is open: by a quorum of one mind, or by all who can be had."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Coroutine, Iterable, Sequence
from typing import TypeVar, cast

import pytest

from p2pkv.core.pages import PageName
from p2pkv.core.records import Version
from p2pkv.core.replication import digest_of
from p2pkv.core.views import Views
from p2pkv.ids import Place
from p2pkv.limits import BEYOND_QUORUM_S
from p2pkv.messages import FindRecords, FindRecordsReply
from p2pkv.simulation.loop import VirtualLoop
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.opening import Openings, Together
from p2pkv.swarm.opening_page import Page
from p2pkv.swarm.runs import Asked, Done
from p2pkv.swarm.sources import Source
from p2pkv.wire import NodeTuple
from tests.core.test_records import version

K = 8
CONTACTS = [Contact(bytes(19) + bytes([number]), "127.0.0.1", 1000 + number) for number in range(1, 17)]
REPLICAS, BEYOND = CONTACTS[:K], CONTACTS[K:]
OTHERS = [Contact(bytes(19) + bytes([128 + number]), "127.0.0.1", 1128 + number) for number in range(K)]
PLACE, OTHER_PLACE, ALSO_PLACE = Place(bytes(20)), Place(bytes(19) + b"\xff"), Place(bytes(19) + b"\x7f")
THE_PAGE, THE_OTHER = b"\0", b"\1"
HELD, NOTHING = [version()], list[Version]()
T = TypeVar("T")


def reply_of(
    contact: Contact,
    held: Sequence[Version],
    *,
    mine: bool | None = None,
    nodes: Sequence[NodeTuple] = (),
    batches: Sequence[bytes] = (),
    split: bool = False,
) -> FindRecordsReply:
    return FindRecordsReply(
        list(held),
        more=False,
        digest=digest_of(held),
        live=len(held),
        nodes=list(nodes),
        split=split,
        mine=contact not in BEYOND if mine is None else mine,
        batches=list(batches),
    )


class World:
    """A page, and who says what of it."""

    def __init__(self, silent: Collection[Contact] = ()) -> None:
        views = Views(PLACE, K, [contact.id for contact in REPLICAS])
        spares = [contact for contact in REPLICAS if contact not in silent]
        self.page = Page(FindRecords(PLACE), views, False, spares, {contact.id for contact in silent})
        self.doubted: set[Contact] = set()

    def ask(self, *contacts: Contact) -> None:
        for contact in contacts:
            self.page.waiting[contact] = cast(Asked, None)

    def hear(
        self,
        *contacts: Contact,
        held: Sequence[Version] = HELD,
        mine: bool | None = None,
        nodes: Sequence[NodeTuple] = (),
        batches: Sequence[bytes] = (),
    ) -> None:
        for contact in contacts:
            self.page.waiting.pop(contact, None)
            reply = reply_of(contact, held, mine=mine, nodes=nodes, batches=batches)
            self.page.hear(contact, cast(Source, contact), reply)
            self.page.judge()

    def conclude(self) -> list[Contact] | None:
        """Who is heard of the open page."""
        self.page.conclude(self.doubted.__contains__)
        opening = self.page.opening
        if opening is None:
            return None
        assert opening.everybody and len(opening.sources) == len(opening.replies) >= opening.quorum
        return cast(list[Contact], opening.sources)


def test_a_quorum_of_one_mind_opens_a_page() -> None:
    world = World()
    world.hear(*REPLICAS[:3])
    assert world.page.opening is None
    world.hear(REPLICAS[7])
    assert world.page.opening is not None and not world.page.opening.everybody


def test_a_quorum_that_has_nothing_does_not_open_a_page_until_all_were_asked() -> None:
    world = World()
    world.hear(*REPLICAS[:5], held=NOTHING)
    assert world.page.opening is None
    assert world.conclude() == REPLICAS[:5]


def test_a_quorum_that_differs_is_given_out_as_it_is() -> None:
    world = World()
    world.ask(*REPLICAS)
    world.hear(*REPLICAS[:3])
    world.hear(REPLICAS[4], held=NOTHING)
    assert world.page.opening is None
    assert world.conclude() == [*REPLICAS[:3], REPLICAS[4]], "the others are more than a quorum"


def test_nobody_stands_in_for_replicas_that_may_live() -> None:
    world = World()
    world.ask(*CONTACTS)
    world.hear(*REPLICAS[:3])
    world.hear(*BEYOND, held=NOTHING)
    world.doubted = set(REPLICAS[3:7])
    assert world.conclude() is None, "one of five may answer yet"
    world.doubted.add(REPLICAS[7])
    assert world.conclude() == [*REPLICAS[:3], *BEYOND[:5]], "the k nearest of those who live"


def test_those_who_are_not_among_the_nearest_that_live_do_not_stand_in() -> None:
    world = World()
    world.ask(*CONTACTS)
    world.hear(*REPLICAS[:3])
    world.hear(*BEYOND[5:], held=NOTHING)
    world.doubted = set(REPLICAS[3:])
    assert world.conclude() is None, "five nearer ones owe their answers"
    world.doubted |= {BEYOND[0]}
    assert world.conclude() == [*REPLICAS[:3], BEYOND[5]]


def test_all_replicas_are_never_replaced() -> None:
    world = World(silent=REPLICAS)
    world.hear(*BEYOND, held=NOTHING)
    assert world.conclude() is None


def test_who_was_silent_lately_is_not_waited_for() -> None:
    world = World(silent=REPLICAS[3:])
    world.hear(*REPLICAS[:3])
    world.hear(BEYOND[0], held=NOTHING)
    assert world.conclude() == [*REPLICAS[:3], BEYOND[0]]


def test_replicas_that_cannot_be_asked_so_leave_the_page_to_a_lookup() -> None:
    """They take no bulk transfer: neither silent, nor asked."""
    world = World()
    world.page.spares = REPLICAS[:3]
    world.hear(*REPLICAS[:3])
    world.hear(*BEYOND, held=NOTHING)
    assert world.conclude() is None


@pytest.mark.parametrize("contact", [REPLICAS[2], BEYOND[0]])
def test_what_waits_in_batches_is_left_to_a_lookup(contact: Contact) -> None:
    world = World()
    world.hear(*REPLICAS[:2])
    world.hear(contact, batches=[bytes(16)])
    world.hear(*REPLICAS[3:], held=NOTHING)
    assert world.conclude() is None


def test_a_quorum_of_another_view_must_be_heard_too() -> None:
    """Somebody takes three replicas for dead and has others in their place: these may have what it was told."""
    world = World()
    theirs = [contact for contact in [*REPLICAS[3:], *BEYOND[:3]] if contact is not REPLICAS[7]]
    nodes = [NodeTuple(contact.id, contact.ip, contact.port) for contact in theirs]
    world.hear(*REPLICAS[:3])
    world.hear(REPLICAS[7], nodes=nodes)
    assert world.page.opening is None and world.conclude() is None
    world.ask(*theirs)
    world.hear(*BEYOND[:3], mine=True)
    assert world.page.opening is not None


# --- how long others are waited for ---

QUICK_S, DOUBT_S = 0.001, 0.2


class Known(Openings):
    """Openings of a page whose replicas take their time, and of another one, whose are quick."""

    def __init__(
        self,
        takes_s: dict[Contact, float],
        newcomers: Collection[Contact],
        least_s: float = math.inf,
        also: Sequence[Contact] = (),
    ) -> None:
        """`least_s`: no doubt is said to be further away. `also`: the replicas of a third page."""
        self._least_s = least_s
        self._looked = 0
        self._pages = {PLACE: World().page, OTHER_PLACE: _page_at(OTHER_PLACE, OTHERS)}
        if also:
            self._pages[ALSO_PLACE] = _page_at(ALSO_PLACE, also)
        self._takes_s, self._newcomers = takes_s, newcomers
        self._began_s = asyncio.get_running_loop().time()
        self.doubt_s = DOUBT_S
        self.split = False  # do those who have nothing of the page say that it is split?
        self.told: dict[PageName, float] = {}  # when

    async def all(self, filling: Collection[PageName] = ()) -> tuple[Collection[Contact], float]:
        """Who is heard of the page, and after how long."""
        requests = {bytes([number]): page.request for number, page in enumerate(self._pages.values())}
        together = Together(self, requests, lambda name, _: self.told.update({name: self._after_s()}))
        await together.run(filling)
        opening = together.found().get(THE_PAGE)
        heard = cast(list[Contact], opening.sources) if opening else []
        return set(heard), self._after_s()

    def _after_s(self) -> float:
        return asyncio.get_running_loop().time() - self._began_s

    def page(self, request: FindRecords) -> Page:
        return self._pages[Place(request.place)]

    async def own(self, pages: list[Page]) -> None: ...
    def doubt(self, contact: Contact) -> None: ...
    def probe(self, contact: Contact) -> None: ...

    def keeps_waiting(self, contact: Contact) -> bool:
        return False

    def beyond(self, page: Page) -> list[Contact]:
        return BEYOND

    def remote(self, contact: Contact) -> Source:
        return cast(Source, contact)

    def patience_s(self, contacts: Iterable[Contact], *, heard: bool) -> float:
        return 0.02

    def doubted_in_s(self, contact: Contact, *, heard: bool) -> float:
        self._looked += 1
        assert self._looked < 10_000, "time does not pass"
        if self._takes_s.get(contact, QUICK_S) < math.inf:
            return math.inf
        left_s = self.doubt_s - self._after_s()
        return min(left_s, self._least_s) if left_s > 0 else left_s

    def begin(self, contact: Contact, request: FindRecords, done: Done) -> Asked:
        asked, seconds = Asked(request, done), self._takes_s.get(contact, QUICK_S)
        if seconds < math.inf:
            nothing = contact in self._newcomers or contact in BEYOND
            reply = reply_of(contact, NOTHING if nothing else HELD, split=nothing and self.split)
            asyncio.get_running_loop().call_later(seconds, asked.settle, reply)
        return asked


def _page_at(place: Place, replicas: Sequence[Contact]) -> Page:
    views = Views(place, K, [contact.id for contact in replicas])
    return Page(FindRecords(place), views, False, list(replicas), set())


def opened(
    takes_s: dict[Contact, float], newcomers: Collection[Contact], least_s: float = math.inf
) -> tuple[Collection[Contact], float]:
    async def run() -> tuple[Collection[Contact], float]:
        return await Known(takes_s, newcomers, least_s).all()

    return played(run())


def played(work: Coroutine[None, None, T]) -> T:
    """In virtual time."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


@pytest.mark.parametrize("slow_s", [0.05, 0.3])
def test_those_who_kept_a_page_are_waited_for_though_newcomers_answer_sooner(slow_s: float) -> None:
    """A quorum of those who have nothing, or a quorum that differs, would lack what only slower ones have."""
    for old in (REPLICAS[:3], REPLICAS[5:]):
        newcomers = [contact for contact in REPLICAS if contact not in old]
        heard, after_s = opened(dict.fromkeys(old, slow_s), newcomers)
        assert heard == {*REPLICAS} and after_s < slow_s + 0.1


@pytest.mark.parametrize("least_s", [math.inf, 1e-30])
def test_the_dead_are_waited_for_until_they_are_in_doubt(least_s: float) -> None:
    """Though a moment that is too short for the clock is left time and again."""
    heard, after_s = opened(dict.fromkeys(REPLICAS[3:], math.inf), [], least_s)
    assert heard == {*REPLICAS[:3], *BEYOND[:5]}
    assert DOUBT_S <= after_s < 2 * DOUBT_S


def test_those_beyond_a_quorum_are_not_waited_for_for_ever() -> None:
    heard, after_s = opened({REPLICAS[7]: 3600}, REPLICAS[:4])
    assert heard == {*REPLICAS[:7]} and after_s < 2 * BEYOND_QUORUM_S


def test_stand_ins_are_asked_beside_the_last_replicas_not_behind_them() -> None:
    """Where all others proved to be late, as they are by other pages."""
    takes_s = dict.fromkeys(REPLICAS[3:], math.inf) | dict.fromkeys(BEYOND[:5], 0.015)
    takes_s |= dict.fromkeys(OTHERS[4:], 0.01)

    async def run() -> tuple[Collection[Contact], float]:
        known = Known(takes_s, [], also=[*REPLICAS[4:], *OTHERS[4:]])
        known.doubt_s = 0.03
        return await known.all()

    heard, after_s = played(run())
    assert heard == {*REPLICAS[:3], *BEYOND[:5]} and 0.03 < after_s < 0.04


def test_a_page_that_fills_takes_one_round() -> None:
    """A quorum of those who have nothing opens no page: all would be asked behind it."""
    far = dict.fromkeys(REPLICAS, 0.015)

    async def run(filling: Collection[PageName]) -> tuple[Collection[Contact], float]:
        return await Known(far, REPLICAS).all(filling)

    heard, after_s = played(run({THE_PAGE}))
    assert heard == {*REPLICAS} and after_s < 0.016
    heard, after_s = played(run(()))
    assert heard == {*REPLICAS} and after_s > 0.029


def test_a_page_that_proves_to_be_split_is_told_before_others_are_open() -> None:
    async def run() -> dict[PageName, float]:
        known = Known(dict.fromkeys(OTHERS, 0.015), REPLICAS)
        known.split = True
        await known.all()
        return known.told

    told = played(run())
    assert set(told) == {THE_PAGE} and told[THE_PAGE] < 0.002


def test_what_is_open_is_told_before_somebody_is_waited_for() -> None:
    async def run() -> dict[PageName, float]:
        known = Known(dict.fromkeys(REPLICAS[3:], math.inf), [])
        await known.all()
        return known.told

    told = played(run())
    assert set(told) == {THE_OTHER} and told[THE_OTHER] < DOUBT_S
