"""Peers that come and go for hours: nothing that was acknowledged is lost, and gets go on succeeding."""

from __future__ import annotations

import random

import pytest

from p2pkv.testing import SimSwarm
from tests.histories.sessions import Sessions


def play(seed: int, peers: int, hours: float, pause_s: float) -> Sessions:
    with SimSwarm(peers, seed=seed, loss=0.02) as swarm:
        sessions = Sessions(swarm, random.Random(seed))
        swarm.run(sessions.run(hours, clients=3, pause_s=pause_s))
        swarm.run_for(seconds=120)
        assert swarm.run(sessions.lost([0, peers // 2])) == []
        print(sessions.told())
    return sessions


def test_a_quarter_of_an_hour_of_comings_and_goings() -> None:
    sessions = play(seed=1, peers=25, hours=0.25, pause_s=10)
    assert sessions.wrong == []
    assert sessions.counts["failed"] <= 0.01 * sessions.counts["looks"]


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(4))
def test_ten_thousand_peer_hours_in_four_runs(seed: int) -> None:
    sessions = play(seed=seed, peers=50, hours=56, pause_s=30)
    assert sessions.wrong == []
    assert sessions.counts["failed"] <= 0.001 * sessions.counts["looks"]
