"""When a peer takes itself for cut off, and when no longer."""

from __future__ import annotations

import pytest

from p2pkv.errors import IncompleteError
from p2pkv.limits import CUT_OFF_CHECK_S, CUT_OFF_WITHIN_S, LOST_S, RETURNED_S
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.isolation import Isolation, majority

K = 8


class Table:
    def __init__(self, count: int) -> None:
        self.known = [Contact(bytes([number]) * 20, "127.0.0.1", number + 1) for number in range(count)]
        self.former: list[Contact] = []
        self.silent: set[bytes] = set()
        self.now_s = 1000.0
        self.isolation = Isolation(self, self, K)

    def contacts(self) -> list[Contact]:
        return self.known

    def __len__(self) -> int:
        return len(self.silent)

    def is_silent(self, contact: Contact) -> bool:
        return contact.id in self.silent

    def evict(self, count: int) -> None:
        for contact in self.known[:count]:
            contact.failed_s = self.now_s
        self.former += self.known[:count]
        self.known = self.known[count:]

    def cut_off(self) -> bool:
        self.now_s += CUT_OFF_CHECK_S
        try:
            self.isolation.require_majority(self.former, self.now_s)
        except IncompleteError:
            return True
        return False


@pytest.mark.parametrize(("silent", "cut_off"), [(0, False), (5, False), (6, True), (11, True)])
def test_the_side_of_half_or_less_is_cut_off(silent: int, cut_off: bool) -> None:
    table = Table(11)
    table.silent = {contact.id for contact in table.known[:silent]}
    assert table.cut_off() is cut_off


def test_those_that_were_evicted_count_as_silent() -> None:
    table = Table(11)
    table.evict(6)
    assert table.cut_off()


def test_it_lasts_until_most_are_heard_again() -> None:
    table = Table(11)
    table.silent = {contact.id for contact in table.known[:8]}
    assert table.cut_off()
    table.silent = {contact.id for contact in table.known[:6]}
    assert table.cut_off()
    table.silent.clear()
    assert not table.cut_off()


def test_where_some_stay_silent_it_lasts_a_while_longer() -> None:
    """Until nearly all are known again, others may be taken for the replicas of a page than who they are."""
    table = Table(11)
    table.silent = {contact.id for contact in table.known[:8]}
    assert table.cut_off()
    table.silent = {contact.id for contact in table.known[:3]}
    assert table.cut_off()
    table.now_s += RETURNED_S - 2 * CUT_OFF_CHECK_S
    assert table.cut_off()
    table.now_s += CUT_OFF_CHECK_S
    assert not table.cut_off()


def test_deaths_that_come_slowly_are_deaths() -> None:
    table = Table(20)
    for _ in range(4):
        table.evict(4)
        assert not table.cut_off()
        table.now_s += CUT_OFF_WITHIN_S + 1


def test_who_is_gone_for_an_hour_is_dead() -> None:
    table = Table(11)
    table.evict(8)
    assert table.cut_off()
    table.now_s += LOST_S
    table.cut_off()
    assert not table.cut_off()


def test_small_swarms_count_the_silent_by_themselves() -> None:
    table = Table(K)
    table.evict(6)
    assert not table.cut_off()


def test_no_two_sides_are_both_a_majority() -> None:
    for others in range(1, 40):
        for heard in range(others + 1):
            assert not (majority(heard, others) and majority(others - heard - 1, others))
