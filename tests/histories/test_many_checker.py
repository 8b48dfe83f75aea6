"""The checker of keys of many records finds what it is to find: histories made by hand, wrong in one way, and right."""

from __future__ import annotations

from typing import Any

import pytest

from tests.histories.many_checker import check
from tests.histories.many_history import NEVER, Answer, History, Seen, Write


def put(name: str, began_s: float, *, clock: int, value: bytes = b"", done: bool = True) -> Write:
    value = value or name.encode()
    return Write(name, value, began_s, began_s + 1 if done else NEVER, done, _version(clock) if done else "")


def deletion(name: str, began_s: float, *, done: bool = True) -> Write:
    return Write(name, b"", began_s, began_s + 1 if done else NEVER, done)


def read(began_s: float, *seen: Seen, complete: bool = True, **options: Any) -> Answer:
    return Answer(began_s, began_s + 1, complete, seen=list(seen), **options)


def seen(name: str, clock: int, value: bytes = b"") -> Seen:
    return Seen(name, value or name.encode(), _version(clock))


def _version(clock: int) -> str:
    return f"{clock:016x}-00"


A, B, C = put("a", 0, clock=1), put("b", 0, clock=2), put("c", 0, clock=3)
SA, SB, SC = seen("a", 1), seen("b", 2), seen("c", 3)
A2, SA2 = put("a", 2, clock=9, value=b"a2"), seen("a", 9, b"a2")

Case = tuple[list[Write], list[Answer]]
WRONG: dict[str, Case] = {
    "lost": ([A, B], [read(2, SA)]),
    "lost | by name": ([A, B], [read(2, name="b")]),
    "lost | by prefix": ([A, B], [read(2, prefix="b")]),
    "lost | before the limit": ([A, B, C], [read(2, SA, SC, limit=2)]),
    "lost | a short answer within the limit": ([A, B, C], [read(2, SA, SB, limit=5)]),
    "lost | before an answer broke off": ([A, B, C], [read(2, SA, SC, complete=False)]),
    "lost | before an answer in reverse broke off": ([A, B, C], [read(2, SC, SA, complete=False, reverse=True)]),
    "doubled": ([A, B], [read(2, SA, SA, SB)]),
    "out of order": ([A, B], [read(2, SB, SA)]),
    "out of order | in reverse": ([A, B], [read(2, SA, SB, reverse=True)]),
    "out of order | by name": ([A, A2, B], [read(4, SB, SA2, order="name")]),
    "too many": ([A, B], [read(2, SA, SB, limit=1)]),
    "invented": ([A], [read(2, SA, seen("x", 2))]),
    "invented | another prefix": ([A, B], [read(2, SA, SB, prefix="b")]),
    "changed": ([A], [read(2, seen("a", 7))]),
    "stale": ([A, A2], [read(4, SA)]),
    "back": ([A, deletion("a", 2)], [read(4, SA)]),
    "back | of the whole key": ([A, deletion("", 2)], [read(4, SA)]),
    "miscounted": ([A, B], [read(2, counted=1)]),
    "miscounted | above": ([A, B], [read(2, counted=3)]),
    "miscounted | the deleted": ([A, B, deletion("a", 2)], [read(4, counted=2)]),
}
RIGHT: dict[str, Case] = {
    "whole": ([A, B, C], [read(2, SA, SB, SC), read(2, SC, SB, SA, reverse=True), read(2, counted=3)]),
    "up to the limit": ([A, B, C], [read(2, SA, SB, limit=2), read(2, SC, limit=1, reverse=True)]),
    "broken off": ([A, B, C], [read(2, SA, SB, complete=False), read(2, complete=False)]),
    "put at the same time": ([A, put("b", 2, clock=2)], [read(2.5, SA), read(2.5, SA, SB), read(2.5, counted=1)]),
    "of unknown fate": ([A, put("b", 0, clock=2, done=False)], [read(5, SA), read(6, SA, SB), read(7, counted=2)]),
    "deleted": ([A, B, deletion("a", 2)], [read(4, SB), read(4, counted=1)]),
    "a deletion of unknown fate": ([A, deletion("", 2, done=False)], [read(9), read(9, SA), read(9, counted=0)]),
    "put anew behind the deletion": ([A, deletion("a", 1.5), put("a", 3, clock=9, value=b"a2")], [read(5, SA2)]),
    "replaced meanwhile, in two places": ([A, B, A2], [read(2.5, SA, SB, SA2)]),
    "replaced meanwhile, and passed by": ([A, B, A2], [read(2.5, SB, reverse=True)]),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_is_wrong_is_found(fault: str) -> None:
    sentences = check(History(*WRONG[fault]))
    assert any(sentence.startswith(fault.partition(" |")[0]) for sentence in sentences), sentences


@pytest.mark.parametrize("what", RIGHT)
def test_what_is_right_is_let_pass(what: str) -> None:
    assert check(History(*RIGHT[what])) == []


def test_a_put_that_failed_is_known_by_its_value() -> None:
    history = History([Write("", b"x", 0)], [read(5, seen("made up", 1, b"x"))])
    assert check(history) == []


def test_what_happened_soon_behind_a_cut_is_uncertain() -> None:
    history = History([A, put("b", 22, clock=2)], [read(25, SA), read(50, SA)], cuts_s=[20.0])
    judged = history.but_at_cuts(10)
    assert [answer.began_s for answer in judged.answers] == [50]
    assert check(judged) == []
    assert check(history) != []
