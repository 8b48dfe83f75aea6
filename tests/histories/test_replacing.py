"""Write-once and compare-and-set stay linearizable while all replicas are replaced, one after the other."""

from __future__ import annotations

import pytest

from tests.histories import replacing
from tests.histories.checker import check
from tests.histories.history import History

PLAY_S = 480.0
PLAY_SHORT_S = 150.0
SETTLED_S = 60.0
UNAWARE_S = 10.0
DONE_SHARE = 0.5


def play(seed: int, seconds: float = PLAY_S) -> History:
    history = History()
    with replacing.ReplacedSwarm(seed=seed) as swarm:
        swarm.run(replacing.play(swarm, history, seed=seed, seconds=seconds))
        swarm.run_for(seconds=SETTLED_S)
        swarm.run(replacing.read_all(swarm, history))
    return history


def judge(history: History) -> list[str]:
    return check(history.but_at_cuts(UNAWARE_S))


@pytest.mark.parametrize("seed", range(1))
def test_replicas_replaced_one_after_the_other(seed: int) -> None:
    history = play(seed, PLAY_SHORT_S)
    assert judge(history) == []
    assert history.done_share >= DONE_SHARE, "most calls come to an end"


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_replicas_replaced_in_hundreds_of_swarms() -> None:
    faults = {seed: judge(play(seed)) for seed in range(300)}
    assert {seed: found for seed, found in faults.items() if found} == {}
