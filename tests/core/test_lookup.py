"""The search finds exactly the k nearest live peers, whatever the topology, the deaths and the order of answers."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pkv.core.candidates import Candidates, State
from p2pkv.core.lookup import Lookup, Need, doubt_s
from p2pkv.core.lookup_trace import trace_of
from p2pkv.ids import distance
from p2pkv.limits import LOOKUP_ASKED_MAX, LOOKUP_DOUBT_PATIENCES, LOOKUP_DOUBT_S_MAX

PATIENCE_S = 0.1
SILENCE_S = 5.0
TARGET = bytes(20)


def node(number: int) -> bytes:
    """A NodeID at this distance from the target."""
    return number.to_bytes(20, "big")


def nearest(ids: set[bytes] | list[bytes], target: bytes, k: int) -> list[bytes]:
    return sorted(ids, key=lambda node_id: distance(node_id, target))[:k]


@dataclass
class Swarm:
    """Who names whom, who is dead, and how long an answer takes."""

    names: dict[bytes, list[bytes]]
    dead: set[bytes] = field(default_factory=set)
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    slow: float = 0.0  # the part of answers that come after the patience is over
    in_flight_most: int = 0
    heard: set[bytes] = field(default_factory=set)

    def run(self, lookup: Lookup[bytes], seeds: list[bytes]) -> list[bytes]:
        """Drive the search to its end in virtual time."""
        lookup.add((node_id, node_id) for node_id in seeds)
        now_s, events, count = 0.0, [], 0
        while True:
            for candidate in lookup.next_questions(now_s, lambda contact: PATIENCE_S):
                count += 1
                heapq.heappush(events, (now_s + self.answer_s(candidate.node_id), count, candidate.node_id))
            in_time = [c for c in lookup.in_flight if c.state is State.ASKED]
            self.in_flight_most = max(self.in_flight_most, len(in_time))
            if lookup.finished:
                self.now_s = now_s
                return [candidate.node_id for candidate in lookup.nearest]
            timer_s = lookup.next_timer_s()
            if timer_s is not None and (not events or timer_s < events[0][0]):
                now_s = timer_s
                lookup.on_time(now_s)
                continue
            now_s, _, node_id = heapq.heappop(events)
            self.answer(lookup, node_id, now_s)

    def answer(self, lookup: Lookup[bytes], node_id: bytes, now_s: float) -> None:
        if node_id in self.dead:
            lookup.on_failure(node_id, "silent", now_s)
        else:
            self.heard.add(node_id)
            lookup.on_answer(node_id, [(named, named) for named in self.names.get(node_id, [])], now_s)

    def answer_s(self, node_id: bytes) -> float:
        if node_id in self.dead:
            return SILENCE_S
        if self.rng.random() < self.slow:
            return self.rng.uniform(PATIENCE_S, 3 * PATIENCE_S)
        return self.rng.uniform(0.001, PATIENCE_S)


def kademlia_swarm(rng: random.Random, size: int, deaths: int, k: int, target: bytes) -> Swarm:
    """Peers with well-formed buckets: k live contacts of each, or all there are, and some dead ones."""
    ids = [rng.randbytes(20) for _ in range(size)]
    dead = set(rng.sample(ids, min(deaths, size - 1)))
    live = [node_id for node_id in ids if node_id not in dead]
    names = {}
    for node_id in live:
        buckets: dict[int, list[bytes]] = {}
        for other in live:
            if other != node_id:
                buckets.setdefault(distance(node_id, other).bit_length(), []).append(other)
        known = [one for bucket in buckets.values() for one in rng.sample(bucket, min(k, len(bucket)))]
        known += rng.sample(sorted(dead), min(k, len(dead)))
        names[node_id] = nearest(known, target, 2 * k)
    return Swarm(names, dead, rng)


@given(st.integers(0, 2**32), st.integers(1, 120), st.integers(0, 40), st.sampled_from([1, 3, 8]), st.floats(0, 0.5))
def test_finds_the_k_nearest_live_peers_of_the_swarm(seed: int, size: int, deaths: int, k: int, slow: float) -> None:
    rng = random.Random(seed)
    target = rng.randbytes(20)
    swarm = kademlia_swarm(rng, size, deaths, k, target)
    swarm.slow = slow
    live = [node_id for node_id in swarm.names if node_id not in swarm.dead]
    seeds = [rng.choice(live), *rng.sample(sorted(swarm.dead), min(2, len(swarm.dead)))]
    assert swarm.run(Lookup(target, k, alpha=3), seeds) == nearest(live, target, k)


@st.composite
def any_swarm(draw: st.DrawFn) -> tuple[Swarm, list[bytes]]:
    size = draw(st.integers(1, 40))
    ids = [node(number) for number in draw(st.sets(st.integers(1, 2**20), min_size=size, max_size=size))]
    some = st.lists(st.sampled_from(ids), max_size=12, unique=True)
    names = {node_id: draw(some) for node_id in ids}
    dead = set(draw(some))
    swarm = Swarm(names, dead, random.Random(draw(st.integers(0, 2**32))), draw(st.floats(0, 1)))
    return swarm, draw(some)


@given(any_swarm(), st.integers(1, 8), st.integers(1, 4), st.booleans())
def test_no_nearer_live_peer_that_was_named_is_missing(
    drawn: tuple[Swarm, list[bytes]], k: int, alpha: int, eager: bool
) -> None:
    swarm, seeds = drawn
    found = swarm.run(Lookup(TARGET, k, alpha, eager=eager), seeds)
    named = {one for node_id in swarm.heard for one in swarm.names[node_id][: 2 * k]} | set(seeds)
    assert found == nearest(named - swarm.dead, TARGET, k)


@given(any_swarm(), st.integers(1, 8), st.integers(1, 8), st.booleans())
def test_with_fewer_needed_it_still_converges(drawn: tuple[Swarm, list[bytes]], k: int, need: int, eager: bool) -> None:
    swarm, seeds = drawn
    lookup: Lookup[bytes] = Lookup(TARGET, k, 3, need=need, eager=eager)
    found = swarm.run(lookup, seeds)
    named = {one for node_id in swarm.heard for one in swarm.names[node_id][: 2 * k]} | set(seeds)
    asked = {candidate.node_id for candidate in lookup.asked}
    assert len(found) >= min(need, k, len(named - swarm.dead))
    if found:
        last = distance(found[: min(need, k)][-1], TARGET)
        assert all(one in asked for one in named if distance(one, TARGET) < last)


@given(any_swarm(), st.integers(1, 8), st.integers(1, 4))
def test_the_search_for_all_begins_with_alpha_and_never_asks_more_than_k_at_once(
    drawn: tuple[Swarm, list[bytes]], k: int, alpha: int
) -> None:
    swarm, seeds = drawn
    lookup: Lookup[bytes] = Lookup(TARGET, k, alpha)
    swarm.run(lookup, seeds)
    assert swarm.in_flight_most <= max(alpha, k)
    assert sum(candidate.asked_s == 0 for candidate in lookup.asked) == min(alpha, k, len(seeds))


def ask(lookup: Lookup[bytes], now_s: float = 0.0) -> list[int]:
    questions = lookup.next_questions(now_s, lambda contact: PATIENCE_S)
    return [int.from_bytes(candidate.node_id, "big") for candidate in questions]


def begun(numbers: range | list[int], *, k: int = 8, need: Need = None, eager: bool = False) -> Lookup[bytes]:
    lookup: Lookup[bytes] = Lookup(TARGET, k, 3, need=need, eager=eager, own_id=node(99))
    lookup.add((node(number), node(number)) for number in numbers)
    return lookup


def test_an_empty_table_ends_at_once() -> None:
    lookup = begun([])
    assert (ask(lookup), lookup.finished, lookup.nearest, lookup.replicas) == ([], True, [], 0)


def test_answers_that_agree_need_no_round_more_than_the_k_nearest() -> None:
    lookup = begun(range(1, 20))
    names = [(node(number), node(number)) for number in range(1, 9)]
    assert ask(lookup) == [1, 2, 3]
    lookup.on_answer(node(1), names, 0.01)
    assert ask(lookup) == [4, 5, 6, 7, 8]
    for number in range(2, 9):
        assert not lookup.finished
        lookup.on_answer(node(number), names, 0.02)
    assert lookup.finished
    assert len(lookup.asked) == 8


def test_a_slow_contact_is_passed_by_and_still_welcome() -> None:
    lookup = begun(range(1, 10))
    assert ask(lookup) == [1, 2, 3]
    lookup.on_time(PATIENCE_S)
    assert ask(lookup, PATIENCE_S) == [4, 5, 6]
    lookup.on_answer(node(1), [], 2 * PATIENCE_S)
    assert [candidate.node_id for candidate in lookup.nearest] == [node(1)]


def test_all_needed_waits_for_the_slow_one_until_it_failed() -> None:
    lookup = begun([1, 2, 3], k=2)
    assert ask(lookup) == [1, 2]
    lookup.on_answer(node(2), [], 0.01)
    lookup.on_time(SILENCE_S - 1)
    assert ask(lookup, SILENCE_S - 1) == [3]
    lookup.on_answer(node(3), [], SILENCE_S - 1)
    assert not lookup.finished
    lookup.on_failure(node(1), "silent", SILENCE_S)
    assert lookup.finished
    assert [candidate.node_id for candidate in lookup.nearest] == [node(2), node(3)]


def test_a_quorum_passes_by_the_slow() -> None:
    lookup = begun(range(1, 9), need=5)
    assert ask(lookup) == [1, 2, 3, 4, 5]
    for number in (2, 3, 4, 5):
        lookup.on_answer(node(number), [], 0.01)
    assert not lookup.finished
    lookup.on_time(PATIENCE_S)
    assert ask(lookup, PATIENCE_S) == [6]
    lookup.on_answer(node(6), [], PATIENCE_S)
    assert lookup.finished
    assert lookup.replicas == 8


def test_doubt_comes_after_some_patiences_but_never_much_later_than_patience_ends() -> None:
    assert doubt_s(0.01) == pytest.approx(LOOKUP_DOUBT_PATIENCES * 0.01)
    assert doubt_s(1.0) == pytest.approx(1.0 + LOOKUP_DOUBT_S_MAX)
    assert doubt_s(0.0) == 0.0


def test_where_too_many_are_silent_the_next_take_their_places() -> None:
    lookup = begun(range(1, 13), k=4, need=3)
    assert ask(lookup) == [1, 2, 3]
    lookup.on_answer(node(3), [], 0.01)
    lookup.on_time(PATIENCE_S)
    assert ask(lookup, PATIENCE_S) == [4, 5]
    lookup.on_answer(node(4), [], 2 * PATIENCE_S)
    lookup.on_answer(node(5), [], 2 * PATIENCE_S)
    assert not lookup.finished, "two of the four nearest answered, and the silent two may live"
    assert lookup.next_timer_s() == pytest.approx(doubt_s(PATIENCE_S))
    lookup.on_time(doubt_s(PATIENCE_S))
    assert lookup.finished
    assert [candidate.node_id for candidate in lookup.nearest] == [node(3), node(4), node(5)]


def test_eager_asks_every_replica_and_ends_with_a_quorum() -> None:
    lookup = begun(range(1, 12), need=lambda count: count // 2 + 1, eager=True)
    assert ask(lookup) == [1, 2, 3, 4, 5, 6, 7, 8]
    for number in range(1, 6):
        assert not lookup.finished
        lookup.on_answer(node(number), [], 0.01)
    assert lookup.finished
    lookup.need_all()
    assert not lookup.finished
    for number in range(6, 9):
        lookup.on_answer(node(number), [], 0.02)
    assert lookup.finished


def test_a_nearer_node_in_an_answer_is_asked_before_the_end() -> None:
    lookup = begun([5, 6, 7], k=3, need=1)
    assert ask(lookup) == [5]
    lookup.on_answer(node(5), [(node(1), node(1))], 0.01)
    assert not lookup.finished
    assert ask(lookup) == [1]
    lookup.on_failure(node(1), "silent", 0.02)
    assert lookup.finished
    assert [candidate.node_id for candidate in lookup.nearest] == [node(5)]


def test_this_peer_itself_is_no_candidate() -> None:
    lookup = begun([99, 1])
    lookup.on_answer(node(ask(lookup)[0]), [(node(99), node(99))], 0.01)
    assert lookup.finished
    assert [candidate.node_id for candidate in lookup.nearest] == [node(1)]


def test_a_liar_who_names_nodes_without_end_does_not_keep_the_search_busy() -> None:
    lookup = begun([2**40], k=2)
    answers, nearest_id = 0, 2**40
    while not lookup.finished:
        for number in ask(lookup):
            nearest_id -= 3
            names = [(node(nearest_id + step), node(nearest_id + step)) for step in range(500)]
            lookup.on_answer(node(number), names, 0.01)
            assert lookup.asked[answers].learnt <= 4
            answers += 1
    assert answers <= LOOKUP_ASKED_MAX


@given(st.lists(st.integers(1, 500), max_size=300), st.integers(1, 40))
def test_candidates_keep_the_nearest(numbers: list[int], size: int) -> None:
    known: Candidates[bytes] = Candidates(TARGET, size)
    for number in numbers:
        known.add(node(number), node(number), 0)
    assert [int.from_bytes(candidate.node_id, "big") for candidate in known] == sorted(set(numbers))[:size]


def test_the_trace_tells_every_hop() -> None:
    lookup = begun([5, 6, 7], k=3)
    ask(lookup)
    lookup.on_answer(node(5), [(node(1), node(1)), (node(9), node(9)), (node(6), node(6))], 0.01)
    lookup.on_time(PATIENCE_S)
    ask(lookup, PATIENCE_S)
    lookup.on_answer(node(1), [], PATIENCE_S + 0.02)
    lookup.on_failure(node(6), "silent", SILENCE_S)
    trace = trace_of(lookup, lambda contact: f"address of {contact[-1]}", 0.0, SILENCE_S)
    hops = {int(hop.node, 16): hop for hop in trace.hops}
    assert trace.nearest == [node(1).hex(), node(5).hex()]
    assert (hops[5].outcome, hops[5].learnt, hops[5].closer, hops[5].depth, hops[5].rtt_ms) == ("answered", 2, 1, 0, 10)
    assert (hops[1].outcome, hops[1].depth, hops[1].distance_bits, hops[1].sent_ms) == ("answered", 1, 1, 100)
    assert (hops[6].outcome, hops[6].rtt_ms) == ("silent", None)
    assert (hops[7].outcome, hops[7].address) == ("slow", "address of 7")
    assert trace.elapsed_ms == SILENCE_S * 1000
