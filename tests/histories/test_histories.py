"""Whole swarms under crashes, storms and partitions: nothing that was acknowledged is lost, nothing comes back."""

from __future__ import annotations

import pytest

from p2pkv.testing import SimSwarm
from tests.histories import nemesis
from tests.histories.checker import check
from tests.histories.history import History
from tests.seeds import seeds

PEERS = 12
CALLS = {"clients": 4, "calls": 25}
UNAWARE_S = 10.0  # how long after a cut a peer may take its side for the whole swarm
SETTLED_S = 60.0
DONE_SHARE = 0.6
CALM = [nemesis.crash_and_return, nemesis.storm]
TORN = [*CALM, nemesis.cut_and_heal]


def play(seed: int, faults: list[nemesis.Fault]) -> History:
    """Let clients work under faults; then all is healed, and everything is read at several peers."""
    history = History()
    with SimSwarm(PEERS, seed=seed) as swarm:
        swarm.run(nemesis.play(swarm, history, seed=seed, faults=faults, **CALLS))
        swarm.run_for(seconds=SETTLED_S)
        swarm.run(nemesis.read_all(swarm, history, [0, 3, 7, 11]))
    return history


def judge(seed: int, faults: list[nemesis.Fault]) -> None:
    history = play(seed, faults)
    assert check(history.but_at_cuts(UNAWARE_S)) == []
    assert history.done_share >= DONE_SHARE, "most calls come to an end"


@pytest.mark.parametrize("seed", seeds(range(4), range(4, 8)))
def test_crashes_and_storms(seed: int) -> None:
    judge(seed, CALM)


@pytest.mark.parametrize("seed", seeds(range(4), range(4, 8)))
def test_crashes_storms_and_partitions(seed: int) -> None:
    judge(seed, TORN)


def test_two_runs_of_a_seed_have_the_same_history() -> None:
    assert play(3, TORN).calls == play(3, TORN).calls


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_thousand_seeds() -> None:
    faults = {seed: check(play(seed, TORN if seed % 2 else CALM).but_at_cuts(UNAWARE_S)) for seed in range(1000)}
    assert {seed: found for seed, found in faults.items() if found} == {}
