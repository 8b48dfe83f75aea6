"""The iterative search for the k nearest live peers of a target (Maymounkov and Mazières 2002, section 2.3).

One search serves finding nodes, finding records and storing: only the question that the caller asks differs. It does
no IO: the caller sends what `next_questions` names, tells what came of it by `on_answer`, `on_failure` and `on_time`,
and stops when `finished`. Time comes as an argument, in seconds of any monotonic clock.

Rules of the search:
- Up to alpha questions are in flight and within their patience at any time. A contact that outstays its patience is
  passed by: the next one is asked in its place, but its answer is still welcome.
- The answer that names nobody nearer ends the careful part: from then on all that count are asked at once.
- It ends when `need` of the k nearest candidates that have not failed have answered and no candidate that could still
  answer in time is nearer than the last of these. So it never ends while a nearer candidate was not asked.
- Where fewer than all k are needed, one that stays silent for several times its patience gives its place to the next.
- A node named in an answer is a candidate and nothing more until it has answered itself.

Owns these rules and the trace. Never owns sockets, clocks, retries, or what an answer means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Generic, Literal

from p2pkv.core.candidates import C, Candidate, Candidates, State
from p2pkv.limits import LOOKUP_ASKED_MAX, LOOKUP_DOUBT_PATIENCES, LOOKUP_DOUBT_S_MAX

Need = int | Callable[[int], int] | None
"""How many of the k nearest must answer: a number, a function of how many there are (at most k), or None for all."""
Failure = Literal["silent", "error"]
ID_SPACE = 1 << 160
NEVER_S = float("inf")


def doubt_s(patience_s: float) -> float:
    """After what silence a contact of this patience gives its place to another, until it answers."""
    return min(LOOKUP_DOUBT_PATIENCES * patience_s, patience_s + LOOKUP_DOUBT_S_MAX)


class Lookup(Generic[C]):
    """One search. Contacts are whatever the caller has; only their ids matter here."""

    def __init__(
        self, target: bytes, k: int, alpha: int, *, need: Need = None, eager: bool = False, own_id: bytes = b""
    ) -> None:
        """`eager` asks all k nearest and not just as many as are needed. `own_id` is never a candidate."""
        self.target = target
        self._k = k
        self._alpha = alpha
        self._need = need
        self._eager = eager
        self._own_id = own_id
        self._known: Candidates[C] = Candidates(target)
        self._in_flight: dict[bytes, Candidate[C]] = {}
        self._asked: list[Candidate[C]] = []
        self._converged = False
        self._busy = 0  # questions in flight and within their patience
        self._nearest: list[Candidate[C]] | None = None  # the window, until something changes it
        self._needs: dict[int, int] = {}  # by the number of replicas

    # --- what happens ---

    def add(self, contacts: Iterable[tuple[bytes, C]]) -> None:
        """Begin from these contacts."""
        for node_id, contact in contacts:
            self._add(node_id, contact, 0)

    def add_silent(self, contacts: Iterable[tuple[bytes, C]]) -> None:
        """Contacts that are known to be silent: not asked, but counted among the replicas."""
        for node_id, contact in contacts:
            candidate = self._add(node_id, contact, 0)
            if candidate:
                candidate.state = State.FAILED
                self._nearest = None

    def next_questions(self, now_s: float, patience_s: Callable[[C], float]) -> list[Candidate[C]]:
        """Whom to ask now, nearest first. They count as asked."""
        chosen = self._choose()
        for candidate in chosen:
            candidate.state = State.ASKED
            candidate.asked_s = now_s
            candidate.patience_s = patience_s(candidate.contact)
            self._in_flight[candidate.node_id] = candidate
        self._busy += len(chosen)
        self._asked += chosen
        return chosen

    def on_answer(self, node_id: bytes, nodes: Iterable[tuple[bytes, C]], now_s: float) -> None:
        """A contact answered and named these, of which the first 2 k count."""
        candidate = self._land(node_id, State.ANSWERED)
        candidate.rtt_s = now_s - candidate.asked_s
        self._learn(candidate, nodes)
        self._converged = not candidate.closer

    def _learn(self, candidate: Candidate[C], nodes: Iterable[tuple[bytes, C]]) -> None:
        nearest: int | None = None
        for node_id, contact in islice(nodes, 2 * self._k):
            if nearest is None:
                nearest = self._known.nearest_distance(default=ID_SPACE)
            learnt = self._add(node_id, contact, candidate.depth + 1)
            if learnt:
                candidate.learnt += 1
                candidate.closer += learnt.distance < nearest

    def _land(self, node_id: bytes, state: State) -> Candidate[C]:
        """A question is over."""
        candidate = self._in_flight.pop(node_id)
        if candidate.state is State.ASKED:
            self._busy -= 1
        if state is State.FAILED or candidate.state is State.DOUBTFUL:
            self._nearest = None
        candidate.state = state
        return candidate

    def on_failure(self, node_id: bytes, failure: Failure, now_s: float) -> None:
        """A contact was silent or at fault. It is no candidate any more."""
        candidate = self._land(node_id, State.FAILED)
        candidate.outcome = failure
        if failure == "error":
            candidate.rtt_s = now_s - candidate.asked_s

    def on_time(self, now_s: float) -> None:
        """Pass by those whose patience is over."""
        for candidate in self._in_flight.values():
            if candidate.state is State.ASKED and candidate.asked_s + candidate.patience_s <= now_s:
                candidate.state = State.SLOW
                self._busy -= 1
            if candidate.state is State.SLOW and self._doubt_at_s(candidate) <= now_s:
                candidate.state = State.DOUBTFUL
                self._nearest = None

    def next_timer_s(self) -> float | None:
        """When `on_time` has something to do; None: never."""
        times = [
            candidate.asked_s + candidate.patience_s if candidate.state is State.ASKED else self._doubt_at_s(candidate)
            for candidate in self._in_flight.values()
            if candidate.state is not State.DOUBTFUL
        ]
        earliest = min(times, default=NEVER_S)
        return earliest if earliest < NEVER_S else None

    def need_all(self) -> None:
        """Go on, behind what was needed, until all of the k nearest have answered or failed."""
        self._need = None
        self._needs = {}

    # --- what is so ---

    @property
    def finished(self) -> bool:
        """Is the outcome certain, or is there nothing left to wait for?"""
        window = self._window()
        missing = self._needed(len(window))
        for candidate in window:
            if missing <= 0:
                break
            if candidate.state is State.ANSWERED:
                missing -= 1
            elif candidate.state is State.ASKED or self._to_ask(candidate):
                return False
        if missing > 0:
            return not self._in_flight
        return not (self._eager and any(map(self._to_ask, window)))

    @property
    def nearest(self) -> list[Candidate[C]]:
        """The at most k nearest that answered, nearest first: the outcome."""
        return self._known.answered(self._k)

    @property
    def replicas(self) -> int:
        """How many should hold what belongs at the target: at most k, those among them that fail counted too.

        So a writer among the dead does not take the few that are left for the majority.
        """
        return min(self._k, len(self._known))

    def answered_of(self, count: int) -> int:
        """How many of the `count` nearest answered, those that failed counted among the nearest."""
        return sum(candidate.state is State.ANSWERED for candidate in islice(self._known, count))

    @property
    def asked(self) -> list[Candidate[C]]:
        """Everyone asked, in the order of the questions."""
        return self._asked

    @property
    def in_flight(self) -> list[Candidate[C]]:
        """Those who may still answer, in the order of the questions."""
        return list(self._in_flight.values())

    def is_in_flight(self, node_id: bytes) -> bool:
        return node_id in self._in_flight

    # --- rules ---

    def _add(self, node_id: bytes, contact: C, depth: int) -> Candidate[C] | None:
        if node_id == self._own_id:
            return None
        candidate = self._known.add(node_id, contact, depth)
        if candidate:
            self._nearest = None
        return candidate

    def _window(self) -> list[Candidate[C]]:
        if self._nearest is None:
            self._nearest = self._known.window(self._k)
        return self._nearest

    def _needed(self, count: int) -> int:
        """How many of `count` nearest must answer."""
        need = self._need
        if need is None:
            return count
        if not isinstance(need, int):
            replicas = self.replicas
            known = self._needs.get(replicas)
            need = self._needs[replicas] = need(replicas) if known is None else known
        return min(count, need)

    def _to_ask(self, candidate: Candidate[C]) -> bool:
        return candidate.state is State.UNASKED and len(self._asked) < LOOKUP_ASKED_MAX

    def _choose(self) -> list[Candidate[C]]:
        """The nearest that were not asked, within the bounds on what is in flight and what is asked at all."""
        count = len(self._window())
        if not self._eager:
            count = self._needed(count)
        room = min(self._width(count) - self._busy, LOOKUP_ASKED_MAX - len(self._asked))
        return self._known.to_ask(count, room)

    def _width(self, count: int) -> int:
        """How many questions may be in flight: alpha in the search for all k, all at once where it has converged."""
        careful = self._need is None and not self._eager and not self._converged
        return self._alpha if careful else max(self._alpha, count)

    def _doubt_at_s(self, candidate: Candidate[C]) -> float:
        """When a silent contact gives its place to the next: never where all of the nearest are needed."""
        if self._need is None:
            return NEVER_S
        return candidate.asked_s + doubt_s(candidate.patience_s)
