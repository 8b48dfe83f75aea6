"""Judges what was told of a key of many records by what users are promised. Knows nothing of the store.

Times decide: a call that ended before another began came before it. Where a call may have happened, both worlds are
let pass. A version token begins with the clock, by which records stand in the order of time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from tests.histories.many_history import EVERYTHING, Answer, History, Seen, Write

CLOCK_DIGITS = 16

Position = tuple[str, bytes]


class Checker:
    """One history, by name."""

    def __init__(self, history: History) -> None:
        self._by_value = {write.value: write for write in history.writes if write.value}
        for answer in history.answers:  # of a put that failed nobody was told the name, until it was seen
            for seen in answer.seen:
                write = self._by_value.get(seen.value)
                if write is not None and not write.name:
                    write.name = seen.name
        self._puts: dict[str, list[Write]] = defaultdict(list)
        self._nameless = [write for write in history.writes if write.value and not write.name]
        self._deletions: dict[str, list[Write]] = defaultdict(list)
        for write in history.writes:
            if not write.value:
                self._deletions[write.name].append(write)
            elif write.name:
                self._puts[write.name].append(write)

    def faults(self, answer: Answer) -> Iterator[str]:
        """Everything that is wrong with an answer."""
        if answer.counted >= 0:
            surely, maybe = self._bounds(answer)
            if not surely <= answer.counted <= maybe:
                yield f"miscounted: {_told(answer)}, there were {surely} to {maybe}"
            return
        yield from self._in_order(answer)
        for seen in answer.seen:
            yield from self._rightly_seen(answer, seen)
        names = {seen.name for seen in answer.seen}
        for name in self._puts:
            if answer.wants(name) and name not in names and self._must_be_in(answer, name):
                yield f"lost: {name} is not in {_told(answer)}"

    # --- what an answer has ---

    def _in_order(self, answer: Answer) -> Iterator[str]:
        """Strictly; and no record twice, but one that was replaced meanwhile and stands in two places."""
        positions = [_position(answer, seen.name, seen.version) for seen in answer.seen]
        ahead = positions[::-1] if answer.reverse else positions
        if any(one >= other for one, other in pairwise(ahead)):
            yield f"out of order: {_told(answer)}"
        if answer.limit and len(answer.seen) > answer.limit:
            yield f"too many: {_told(answer)}"
        seen_names = set[str]()
        for seen in answer.seen:
            if seen.name in seen_names and not self._written_during(answer, seen.name):
                yield f"doubled: {seen.name} in {_told(answer)}"
            seen_names.add(seen.name)

    def _rightly_seen(self, answer: Answer, seen: Seen) -> Iterator[str]:
        write = self._by_value.get(seen.value)
        if write is None or write.name != seen.name or not answer.wants(seen.name):
            yield f"invented: {seen.name} {seen.value!r} in {_told(answer)}"
            return
        if write.began_s > answer.ended_s:
            yield f"foreseen: {seen.name} in {_told(answer)}"
        if write.version and write.version != seen.version:
            yield f"changed: {seen.name} has {seen.version} in {_told(answer)}, it was put as {write.version}"
        newer = [put for put in self._before(answer, seen.name) if put.version > seen.version]
        if newer:
            yield f"stale: {seen.name} {seen.value!r} in {_told(answer)}, {newer[0].value!r} came before"
        if self._buried(answer, write):
            yield f"back: {seen.name} {seen.value!r} in {_told(answer)} was deleted before"

    # --- what an answer lacks ---

    def _must_be_in(self, answer: Answer, name: str) -> bool:
        """Is a record surely there, as far as the answer claims to go?"""
        before = [put for put in self._before(answer, name) if not self._maybe_buried(answer, put)]
        if not before:
            return False
        moves = answer.order == "time" and self._written_during(answer, name)
        whole = answer.complete and not (answer.limit and len(answer.seen) >= answer.limit)
        if whole:  # in reverse order a record that is replaced jumps over the reader
            return not (moves and answer.reverse)
        if moves or not answer.seen:
            return False
        newest = max(put.version for put in before)
        last, here = answer.seen[-1], _position(answer, name, newest)
        end = _position(answer, last.name, last.version)
        return here > end if answer.reverse else here < end

    def _bounds(self, count: Answer) -> tuple[int, int]:
        """How many records were surely there all the time, and how many may have been at some time."""
        surely = maybe = 0
        for name, puts in self._puts.items():
            if count.wants(name):
                surely += any(not self._maybe_buried(count, put) for put in self._before(count, name))
                maybe += any(put.began_s < count.ended_s and not self._buried(count, put) for put in puts)
        if not count.prefix:
            maybe += sum(put.began_s < count.ended_s for put in self._nameless)
        return surely, maybe

    # --- times ---

    def _before(self, answer: Answer, name: str) -> list[Write]:
        return [put for put in self._puts[name] if put.done and put.ended_s < answer.began_s]

    def _written_during(self, answer: Answer, name: str) -> bool:
        """May the record have been written while the answer was made? Once it was seen, what failed is of the past."""
        return any(put.began_s <= answer.ended_s and put.ended_s >= answer.began_s for put in self._puts[name])

    def _deletions_of(self, name: str) -> list[Write]:
        return self._deletions[name] + self._deletions[EVERYTHING]

    def _buried(self, answer: Answer, put: Write) -> bool:
        """Was it surely deleted before?"""
        deletions = self._deletions_of(put.name)
        return any(d.done and put.ended_s < d.began_s and d.ended_s < answer.began_s for d in deletions)

    def _maybe_buried(self, answer: Answer, put: Write) -> bool:
        return any(d.ended_s > put.began_s and d.began_s < answer.ended_s for d in self._deletions_of(put.name))


def check(history: History) -> list[str]:
    """Everything that is wrong with a history, in sentences."""
    checker = Checker(history)
    return [fault for answer in history.answers for fault in checker.faults(answer)]


def _position(answer: Answer, name: str, version: str) -> Position:
    return version[:CLOCK_DIGITS] if answer.order == "time" else "", name.encode()


def _told(answer: Answer) -> str:
    what = f"a count of {answer.counted}" if answer.counted >= 0 else f"a read of {len(answer.seen)} records"
    options = f"{answer.order}{' reversed' * answer.reverse}, prefix {answer.prefix!r}, limit {answer.limit}"
    return f"{what} ({options}) at {answer.began_s:.2f}..{answer.ended_s:.2f} s"
