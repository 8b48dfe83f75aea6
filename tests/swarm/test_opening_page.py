"""When a page that is opened with others is open: by a quorum of one mind, or by all who can be had."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import cast

import pytest

from p2pkv.core.records import Version
from p2pkv.core.replication import digest_of
from p2pkv.core.views import Views
from p2pkv.ids import Place
from p2pkv.messages import FindRecords, FindRecordsReply
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.opening_page import Page
from p2pkv.swarm.runs import Asked
from p2pkv.swarm.sources import Source
from p2pkv.wire import NodeTuple
from tests.core.test_records import version

K = 8
CONTACTS = [Contact(bytes(19) + bytes([number]), "127.0.0.1", 1000 + number) for number in range(1, 17)]
REPLICAS, BEYOND = CONTACTS[:K], CONTACTS[K:]
HELD, NOTHING = [version()], list[Version]()


class World:
    """A page, and who says what of it."""

    def __init__(self, silent: Collection[Contact] = ()) -> None:
        views = Views(bytes(20), K, [contact.id for contact in REPLICAS])
        spares = [contact for contact in REPLICAS if contact not in silent]
        self.page = Page(FindRecords(Place(bytes(20))), views, False, spares, {contact.id for contact in silent})
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
            reply = FindRecordsReply(
                list(held),
                more=False,
                digest=digest_of(held),
                live=len(held),
                nodes=list(nodes),
                mine=contact in REPLICAS if mine is None else mine,
                batches=list(batches),
            )
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
