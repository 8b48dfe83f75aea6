"""What a watcher is told: every version once, whatever the order and repetition of pushes, reads and resumptions."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pkv.core import watching
from p2pkv.core.clock import clock_of
from p2pkv.core.records import Cursor, Flag, Version, decode_cursor, encode_cursor, merge
from p2pkv.core.watching import Frontier, Tail, Told, cursor_of, decode_watch_cursor
from p2pkv.errors import InvalidError
from p2pkv.limits import CLOCK_DRIFT_S_MAX, WATCH_CURSOR_CHARS_MAX, WATCH_MARKS_MAX, WATCH_OVERLAP_S

NOW_S = 1e9
AUTHOR = bytes(32)


def version(name: str, at_s: float, **changes: object) -> Version:
    base = Version(name.encode(), clock_of(NOW_S + at_s), AUTHOR, 0, 0, 0, b"")
    return msgspec.structs.replace(base, **changes)


@dataclass
class Model:
    """A key, a watcher of it that is pushed to and reads and is killed, and what it was told."""

    standing: dict[tuple[bytes, bytes], Version] = field(default_factory=dict)
    put: list[Version] = field(default_factory=list)
    told: list[Version] = field(default_factory=list)
    cursor: str = ""

    def __post_init__(self) -> None:
        self.frontier = Frontier(None, NOW_S)
        self.read()

    def write(self, item: Version) -> None:
        self.put.append(item)
        self.standing[item.identity] = merge(self.standing.get(item.identity), item)

    def push(self, index: int) -> None:
        """Any version that was ever put, again too. Before the first read pushes wait."""
        if self.put:
            self.offer(self.put[index % len(self.put)])

    def offer(self, item: Version) -> None:
        if self.frontier.take(item, NOW_S):
            self.told.append(item)
            self.cursor = self.frontier.cursor

    def read(self) -> None:
        for item in sorted(self.standing.values(), key=lambda held: (held.clock, held.identity)):
            if Cursor(item.clock, *item.identity) <= self.frontier.floor or item.dead:
                continue
            if not self.frontier.begun:
                self.frontier.settle(item, NOW_S)
            self.offer(item)
        self.frontier.begun = True

    def resume(self) -> None:
        """The watcher is killed; another begins where it stood."""
        self.frontier = Frontier(decode_watch_cursor(self.cursor) if self.cursor else None, NOW_S)
        self.read()


late_s = st.floats(1 - WATCH_OVERLAP_S, 3.0)  # a watch that resumes finds what is as late as that
steps = st.one_of(
    st.tuples(st.just("write"), st.sampled_from("abcdefghij"), late_s, st.booleans()),
    st.tuples(st.just("push"), st.integers(0, 99)),
    st.tuples(st.just("read")),
    st.tuples(st.just("resume")),
)


@given(st.lists(steps, max_size=60))
def test_every_version_that_stands_is_told_once(plan: list[tuple[object, ...]]) -> None:
    model = Model()
    for number, step in enumerate(plan):
        match step:
            case ("write", str(name), float(at_s), bool(again)):
                model.write(version(name if again else f"{name}{number}", at_s))
            case ("push", int(index)):
                model.push(index)
            case ("read",):
                model.read()
            case _:
                model.resume()
    model.read()
    told = [(item.identity, item.clock) for item in model.told]
    assert len(set(told)) == len(told), "none is told twice"
    assert {(item.identity, item.clock) for item in model.standing.values()} <= set(told), "none is missed"
    latest: dict[tuple[bytes, bytes], int] = {}
    for identity, clock in told:
        assert clock > latest.get(identity, -1), "a record never goes back in time"
        latest[identity] = clock


def test_what_stood_before_the_watch_is_not_told_and_what_is_older_and_came_later_is() -> None:
    stood, late, new = version("stood", -1), version("late", -100), version("new", 1)
    frontier = Frontier(cursor_of(stood), NOW_S)
    frontier.settle(stood, NOW_S)
    assert [frontier.take(item, NOW_S) for item in (stood, late, new, late)] == [False, True, True, False]


def test_dead_and_expired_versions_are_not_told_but_end_older_ones() -> None:
    frontier = Frontier(None, NOW_S)
    grave = version("a", 2, flags=Flag.TOMBSTONE)
    assert not frontier.take(grave, NOW_S)
    assert not frontier.take(version("a", 1), NOW_S), "it was deleted before it came"
    assert frontier.take(version("a", 3), NOW_S), "it was put again"
    assert not frontier.take(version("b", 1, expires_ms=1), NOW_S)


def test_a_write_once_version_outranks_a_newer_one() -> None:
    frontier = Frontier(None, NOW_S)
    assert frontier.take(version("a", 1, flags=Flag.ONCE), NOW_S)
    assert not frontier.take(version("a", 2), NOW_S)


def test_memory_is_bounded_and_what_gives_way_is_not_told_again() -> None:
    told = Told(size_max=10)
    items = [version(f"{number:03d}", number) for number in range(100)]
    for item in items:
        assert not told.knows(item)
        told.learn(item)
    assert len(told) == 10
    assert all(told.knows(item) for item in items)
    for at_s in range(1000, 2000):
        told.learn(version("same", at_s))
    assert len(told) == 10
    assert len(told._heap) < 100


def test_a_cursor_is_short_whatever_was_told() -> None:
    frontier = Frontier(None, NOW_S)
    for number in range(3 * WATCH_MARKS_MAX):
        frontier.take(version(f"{number:04d}" + "n" * 1020, number / 1e6 - 1), NOW_S)
    cursor = frontier.cursor
    assert len(cursor) < WATCH_CURSOR_CHARS_MAX
    again = Frontier(decode_watch_cursor(cursor), NOW_S)
    for number in range(3 * WATCH_MARKS_MAX):
        held = version(f"{number:04d}" + "n" * 1020, number / 1e6 - 1)
        again.settle(held, NOW_S)
        assert not again.take(held, NOW_S)


@given(st.integers(0, 3 * WATCH_MARKS_MAX), st.integers(0, 3 * WATCH_MARKS_MAX), st.integers(1, 50))
def test_a_cursor_of_doubtful_times_has_nothing_missed(before: int, beyond: int, lacking: int) -> None:
    """Pushes were lost, more came behind them, and the watcher is killed before a read has brought the lost ones."""
    items = [version(f"{number:05d}", number / 1e6 - 60) for number in range(before + lacking + beyond)]
    lost = items[before : before + lacking]
    frontier = Frontier(None, NOW_S)
    assert all(frontier.take(item, NOW_S) for item in items[:before])
    frontier.doubt_beyond(Cursor(items[before - 1].clock, *items[before - 1].identity) if before else watching.START)
    assert all(frontier.take(item, NOW_S) for item in items[before + lacking :])

    again = Frontier(decode_watch_cursor(frontier.cursor) if frontier.cursor else None, NOW_S)
    told = [item for item in items if not again.settle(item, NOW_S) and again.take(item, NOW_S)]
    assert set(lost) <= set(told), "none is missed"
    assert not set(items[:before]) & set(told), "what was sure is not told again"
    assert len(told) <= lacking + max(0, beyond - WATCH_MARKS_MAX), "nor what the cursor had room for"

    frontier.doubt_beyond(None)
    assert all(frontier.take(item, NOW_S) for item in lost)
    later = [version(f"later {number}", number / 1e6) for number in range(WATCH_MARKS_MAX + 1)]
    assert all(frontier.take(item, NOW_S) for item in later)
    again = Frontier(decode_watch_cursor(frontier.cursor), NOW_S)
    assert not any(again.settle(item, NOW_S) or again.take(item, NOW_S) for item in [*items, *later])


def test_writers_whose_clocks_run_ahead_hide_nothing() -> None:
    tail = Tail()
    for number in range(2 * WATCH_MARKS_MAX):
        tail.add(version(f"{number}", CLOCK_DRIFT_S_MAX - 1 + number / 1e6), NOW_S)
    assert tail.floor < Cursor(clock_of(NOW_S), b"")
    assert len(tail.marks) <= WATCH_MARKS_MAX * watching.MARK_BYTES


def test_cursors_of_get_and_watch_serve_each_other() -> None:
    first, second = version("a", 1), version("b", 2)
    by_get = decode_watch_cursor(encode_cursor(first))
    assert (by_get.clock, by_get.name, by_get.floor) == (first.clock, b"a", None)
    frontier = Frontier(by_get, NOW_S)
    frontier.settle(first, NOW_S)
    assert not frontier.take(first, NOW_S)
    assert frontier.take(second, NOW_S)
    assert decode_cursor(frontier.cursor) == Cursor(second.clock, b"b")


@pytest.mark.parametrize("text", ["!", "AAAA", "k", "a" * 100_000, encode_cursor(version("a", 1))[:-4]])
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(InvalidError):
        decode_watch_cursor(text)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_cursor_or_refused(data: bytes) -> None:
    import base64

    try:
        cursor = decode_watch_cursor(base64.urlsafe_b64encode(data).decode().rstrip("="))
    except InvalidError:
        return
    frontier = Frontier(cursor, NOW_S)
    frontier.settle(version("a", 1), NOW_S)
    frontier.take(version("b", 1), NOW_S)
    decode_watch_cursor(frontier.cursor)
