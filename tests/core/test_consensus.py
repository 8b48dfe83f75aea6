"""CASPaxos: whatever the order and the losses, racing writers are not both told yes."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pkv.core.consensus import NO_BALLOT, AcceptorState, Ballot, exists, learn
from p2pkv.core.records import Flag, Version, rank

ACCEPTORS = 5
MAJORITY = 3


class Acceptors:
    """Five registers and pages, reached over a network that loses messages both ways."""

    def __init__(self, seed: int, loss: float) -> None:
        self.random = random.Random(seed)
        self.loss = loss
        self.states = [AcceptorState() for _ in range(ACCEPTORS)]
        self.pages: list[Version | None] = [None] * ACCEPTORS

    def _lost(self) -> bool:
        return self.random.random() < self.loss

    def prepare(self, index: int, ballot: Ballot) -> AcceptorState | None:
        if self._lost():
            return None
        before = self.states[index]
        after = before.promise(ballot)
        if after is None:
            return None
        self.states[index] = AcceptorState.decode(after.encode())
        return None if self._lost() else before

    def propose(self, index: int, ballot: Ballot, version: Version) -> bool:
        if self._lost():
            return False
        after = self.states[index].accept(ballot, version)
        if after is None:
            return False
        self.states[index] = after
        return not self._lost()

    def store(self, index: int, version: Version) -> None:
        held = self.pages[index]
        if not self._lost() and (held is None or rank(version) > rank(held)):
            self.pages[index] = version


def once(writer: int, clock: int) -> Version:
    return Version(b"name", clock, bytes([writer]) * 32, int(Flag.ONCE), 0, 1, bytes([writer]))


def attempt(net: Acceptors, writer: int, tries: int) -> Iterator[str]:
    """One writer's write-once put, a message a step; its last step says "yes", "no" or "unknown"."""
    for number in range(1, tries + 1):
        ballot = (number * 10 + writer, bytes([writer]) * 20)
        promises, standing = [], []
        for index in range(ACCEPTORS):
            state = net.prepare(index, ballot)
            yield "step"
            if state is not None:
                promises.append(state)
                if (held := net.pages[index]) is not None:
                    standing.append(held)
        if len(promises) < MAJORITY:
            continue
        learnt = learn([(state.accepted_ballot, state.accepted) for state in promises], standing)
        refused = exists(learnt.current, 0.0)
        version = learnt.current if refused and learnt.current else once(writer, number)
        if not (refused and learnt.settled):
            granted = 0
            for index in range(ACCEPTORS):
                granted += net.propose(index, ballot, version)
                yield "step"
            if granted < MAJORITY:
                continue
        if refused:
            yield "yes" if version.author == bytes([writer]) * 32 else "no"
            return
        for index in range(ACCEPTORS):
            net.store(index, version)
            yield "step"
        yield "yes"
        return
    yield "unknown"


@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.1, 0.3]), st.integers(2, 4))
def test_at_most_one_write_once_put_is_told_yes(seed: int, loss: float, writers: int) -> None:
    net = Acceptors(seed, loss)
    running = {writer: attempt(net, writer, 6) for writer in range(1, writers + 1)}
    verdicts: dict[int, str] = {}
    while running:
        writer = net.random.choice(list(running))
        step = next(running[writer])
        if step != "step":
            verdicts[writer] = step
            del running[writer]
    winners = [writer for writer, verdict in verdicts.items() if verdict == "yes"]
    assert len(winners) <= 1
    if loss == 0.0 and not winners:
        assert "unknown" in verdicts.values()


def test_a_chosen_version_is_never_forgotten() -> None:
    """A writer that died after its version was accepted by a majority has its version finished by the next one."""
    net = Acceptors(1, 0.0)
    version = once(1, 1)
    for index in range(MAJORITY):
        assert net.propose(index, (11, b"\1" * 20), version)
    assert list(attempt(net, 2, 3))[-1] == "no"
    assert sum(state.accepted == version for state in net.states) == ACCEPTORS


def test_an_acceptor_takes_nothing_below_its_promise() -> None:
    state = AcceptorState().promise((5, b"a"))
    assert state is not None
    assert state.promise((5, b"a")) is None
    assert state.promise((4, b"z")) is None
    assert state.accept((4, b"z"), once(1, 1)) is None
    accepted = state.accept((5, b"a"), once(1, 1))
    assert accepted is not None
    assert accepted.accepted == once(1, 1)
    assert accepted.promise((5, b"b")) is not None


_ballots = st.builds(lambda number, who: (number, bytes([who]) * 20), st.integers(1, 4), st.integers(1, 2))


def _accepted(ballot: Ballot) -> Version:
    """A ballot has one version."""
    return Version(b"name", ballot[0], ballot[1] + b"." * 12, int(Flag.ONCE), 0, 1, b"x")


def _state(promised: Ballot, accepted: Ballot | None) -> AcceptorState:
    if accepted is None:
        return AcceptorState(promised, key=b"k")
    return AcceptorState(max(promised, accepted), accepted, _accepted(accepted), b"k")


_states = st.builds(_state, _ballots, st.none() | _ballots) | st.just(AcceptorState())


@given(_states, _states, _states)
def test_merging_registers_is_the_same_in_every_order_and_forgets_nothing(
    one: AcceptorState, two: AcceptorState, three: AcceptorState
) -> None:
    assert one.merge(two) == two.merge(one)
    assert one.merge(two).merge(three) == one.merge(two.merge(three))
    assert one.merge(one) == one
    merged = one.merge(two)
    assert merged.promised == max(one.promised, two.promised)
    assert merged.accepted_ballot == max(one.accepted_ballot, two.accepted_ballot)
    assert merged.accepted in (one.accepted, two.accepted)
    assert AcceptorState.decode(merged.encode()) == merged


@pytest.mark.parametrize("flags", [int(Flag.TOMBSTONE), 0])
def test_what_is_deleted_or_expired_does_not_exist(flags: int) -> None:
    version = Version(b"n", 1, b"a" * 32, flags, 0 if flags else 1000, 0, b"")
    assert not exists(version, 2.0)
    assert not exists(None, 2.0)
    assert exists(once(1, 1), 2.0)


def test_an_ordinary_put_that_outranks_the_register_is_the_current_state() -> None:
    chosen = Version(b"n", 1, b"a" * 32, 0, 0, 1, b"x")
    newer = Version(b"n", 2, b"b" * 32, 0, 0, 1, b"y")
    assert learn([((3, b"p"), chosen), (NO_BALLOT, None)], [newer]).current == newer
    assert learn([((3, b"p"), chosen)], []).settled is False
