"""The peers that a lookup knows of, ordered by distance to its target, and what became of the question to each.

Owns order, bounds and the window of the nearest. Never decides whom to ask or when to end: that is `lookup`.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from enum import Enum, auto
from typing import Generic, TypeVar

from p2pkv.limits import LOOKUP_CANDIDATES_MAX

C = TypeVar("C")
"""What the caller calls a contact; the search looks at its id alone."""


class State(Enum):
    """What is known of a candidate."""

    UNASKED = auto()
    ASKED = auto()  # in flight, within its patience
    SLOW = auto()  # in flight beyond its patience: passed by, may still answer
    DOUBTFUL = auto()  # in flight for so long that another takes its place among the nearest until it answers
    ANSWERED = auto()
    FAILED = auto()  # silent or at fault: no candidate any more


class Candidate(Generic[C]):
    """One peer of a lookup."""

    __slots__ = (
        "asked_s",
        "closer",
        "contact",
        "depth",
        "distance",
        "learnt",
        "node_id",
        "outcome",
        "patience_s",
        "rtt_s",
        "state",
    )

    def __init__(self, node_id: bytes, contact: C, distance: int, depth: int) -> None:
        self.node_id = node_id
        self.contact = contact
        self.distance = distance
        self.depth = depth
        self.state = State.UNASKED
        self.asked_s = 0.0
        self.patience_s = 0.0
        self.rtt_s: float | None = None
        self.outcome = ""  # how a question failed
        self.learnt = 0
        self.closer = 0


class Candidates(Generic[C]):
    """Candidates by distance, the nearest LOOKUP_CANDIDATES_MAX of them; each id once, as it was first heard of."""

    def __init__(self, target: bytes, size_max: int = LOOKUP_CANDIDATES_MAX) -> None:
        self._target = int.from_bytes(target, "big")
        self._size_max = size_max
        self._ordered: list[tuple[int, Candidate[C]]] = []
        self._by_id: dict[bytes, Candidate[C]] = {}

    def __len__(self) -> int:
        return len(self._ordered)

    def __iter__(self) -> Iterator[Candidate[C]]:
        """Nearest first."""
        return (candidate for _, candidate in self._ordered)

    def __contains__(self, node_id: bytes) -> bool:
        return node_id in self._by_id

    def __getitem__(self, node_id: bytes) -> Candidate[C]:
        return self._by_id[node_id]

    def add(self, node_id: bytes, contact: C, depth: int) -> Candidate[C] | None:
        """The new candidate; None where it is known or farther than all that there is room for."""
        if node_id in self._by_id:
            return None
        distance = int.from_bytes(node_id, "big") ^ self._target
        if len(self._ordered) >= self._size_max and not self._make_room(distance):
            return None
        candidate = Candidate(node_id, contact, distance, depth)
        self._by_id[node_id] = candidate
        ordered = self._ordered
        if not ordered or distance > ordered[-1][0]:
            ordered.append((distance, candidate))
        else:
            insort(ordered, (distance, candidate))  # distances differ, so candidates are never compared
        return candidate

    def _make_room(self, distance: int) -> bool:
        """Drop the farthest candidate that was never asked, if it is farther than `distance`."""
        for index in range(len(self._ordered) - 1, -1, -1):
            farthest, candidate = self._ordered[index]
            if farthest < distance:
                return False
            if candidate.state is State.UNASKED:
                del self._ordered[index], self._by_id[candidate.node_id]
                return True
        return False

    def nearest_distance(self, default: int) -> int:
        """Of the nearest candidate that has not failed."""
        for distance, candidate in self._ordered:
            if candidate.state is not State.FAILED:
                return distance
        return default

    def window(self, k: int) -> list[Candidate[C]]:
        """The k nearest that have not failed, nearest first. A doubtful one is among them only where others lack."""
        window: list[Candidate[C]] = []
        doubtful: list[Candidate[C]] = []
        for _, candidate in self._ordered:
            if candidate.state is State.DOUBTFUL:
                doubtful.append(candidate)
            elif candidate.state is not State.FAILED:
                window.append(candidate)
                if len(window) == k:
                    return window
        if doubtful:
            window += doubtful[: k - len(window)]
            window.sort(key=lambda candidate: candidate.distance)
        return window

    def to_ask(self, count: int, room: int) -> list[Candidate[C]]:
        """At most `room` that were not asked, among the `count` nearest from whom an answer is to be expected."""
        chosen: list[Candidate[C]] = []
        for _, candidate in self._ordered:
            if count <= 0 or room <= 0:
                break
            state = candidate.state
            if state is State.UNASKED:
                chosen.append(candidate)
                room -= 1
                count -= 1
            elif state is State.ASKED or state is State.ANSWERED:
                count -= 1
        return chosen

    def answered(self, k: int) -> list[Candidate[C]]:
        """The k nearest that answered, nearest first."""
        found: list[Candidate[C]] = []
        for _, candidate in self._ordered:
            if candidate.state is State.ANSWERED:
                found.append(candidate)
                if len(found) == k:
                    break
        return found
