"""The checker finds what it is to find: histories made by hand, each wrong in one way, and some that are right."""

from __future__ import annotations

import pytest

from tests.histories.checker import check, linearizable
from tests.histories.history import Call, History, Op, Told


def call(
    op: Op,
    began_s: float,
    *,
    name: str = "n",
    value: bytes = b"",
    told: Told = "done",
    version: str = "",
    expected: bytes = b"",
    seen: dict[str, tuple[bytes, str]] | None = None,
    counted: int = -1,
    took_s: float = 1.0,
) -> Call:
    made = Call(1, op, "k", name, began_s, value, expected)
    made.ended_s, made.told, made.version = began_s + took_s, told, version
    made.seen, made.counted = seen or {}, counted
    if told == "unknown":
        made.ended_s = float("inf")
    return made


ADD = call("add", 0, value=b"a", version="1")
PUT = call("put", 0, value=b"a", version="1")
LATER = call("put", 2, value=b"b", version="2")
DELETE = call("delete", 4)
ONCE = call("once", 0, value=b"a", version="1")
SEEN_A, SEEN_B = {"n": (b"a", "1")}, {"n": (b"b", "2")}

WRONG = {
    "lost": [ADD, call("list", 2)],
    "invented": [ADD, call("list", 2, seen={"n": (b"a", "1"), "m": (b"x", "1")})],
    "miscounted": [ADD, call("count", 2, counted=0)],
    "miscounted | above": [ADD, call("count", 2, counted=2)],
    "lost | a put": [PUT, call("read", 2)],
    "stale": [PUT, LATER, call("read", 4, seen=SEEN_A)],
    "changed": [PUT, call("read", 2, seen={"n": (b"a", "9")})],
    "back": [PUT, DELETE, call("read", 6, seen=SEEN_A)],
    "two winners": [ONCE, call("once", 2, value=b"b", version="2")],
    "lost | write-once": [ONCE, call("read", 2)],
    "write-once": [ONCE, call("once", 2, value=b"b", told="refused"), call("read", 4, seen=SEEN_B)],
    "refused for nothing": [call("once", 0, value=b"a", told="refused")],
    "no order": [PUT, call("cas", 2, value=b"b", expected=b"x", version="2")],
    "no order | of reads": [PUT, call("cas", 2, value=b"b", expected=b"a", version="2"), call("read", 4, seen=SEEN_A)],
}
RIGHT = {
    "an add": [ADD, call("list", 2, seen=SEEN_A), call("count", 4, counted=1)],
    "an add of unknown fate": [
        call("add", 0, value=b"a", told="unknown"),
        call("list", 2),
        call("count", 3, counted=1),
    ],
    "a list of unknown fate": [ADD, call("list", 2, told="unknown")],
    "a replacement": [PUT, LATER, call("read", 4, seen=SEEN_B)],
    "a read at the same time": [PUT, LATER, call("read", 2.5, seen=SEEN_A)],
    "a deletion": [PUT, DELETE, call("read", 6)],
    "one winner": [ONCE, call("once", 2, value=b"b", told="refused"), call("read", 4, seen=SEEN_A)],
    "compare and set": [PUT, call("cas", 2, value=b"b", expected=b"a", version="2"), call("read", 4, seen=SEEN_B)],
    "compare and set in vain": [PUT, call("cas", 2, value=b"b", expected=b"x", told="refused")],
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_is_wrong_is_found(fault: str) -> None:
    sentences = check(History(list(WRONG[fault])))
    assert any(sentence.startswith(fault.partition(" |")[0]) for sentence in sentences)


@pytest.mark.parametrize("what", RIGHT)
def test_what_is_right_is_let_pass(what: str) -> None:
    assert check(History(list(RIGHT[what]))) == []


def test_racing_compare_and_sets_have_one_winner() -> None:
    start = call("put", 0, value=b"0", version="1")
    race = [call("cas", 2, value=value, expected=b"0", version="2") for value in (b"1", b"2")]
    assert not linearizable([start, *race])
    race[1].told = "refused"
    assert linearizable([start, *race])


def test_only_answers_soon_after_a_cut_are_left_out() -> None:
    history = History([ADD, call("list", 5), call("list", 30)], cuts_s=[4.0])
    assert [c.began_s for c in history.but_at_cuts(10).calls] == [0, 30]
