"""A key of many records under crashes, storms and partitions, while its pages split: nothing missing, nothing back."""

from __future__ import annotations

import pytest

from p2pkv.testing import SimSwarm
from tests.histories import many_clients
from tests.histories.many_checker import check
from tests.histories.many_history import KEY, History

PEERS = 12
UNAWARE_S = 10.0  # how long after a cut a peer may take its side for the whole swarm
SETTLED_S = 60.0
COMPLETE_SHARE = 0.6


def play(seed: int) -> History:
    """Let clients work under faults, every other seed with partitions; then all is healed, and everything is read."""
    history = History()
    with SimSwarm(PEERS, seed=seed, loss=0.01) as swarm:
        swarm.run(many_clients.play(swarm, history, seed=seed, clients=4, calls=16, cuts=seed % 2 == 1))
        swarm.run_for(seconds=SETTLED_S)
        swarm.run(many_clients.read_all(swarm, history, [0, 11]))
        assert swarm.peers[0].node.writer.tree(KEY.encode()).noticed or sum(w.done for w in history.writes) < 100
    return history.but_at_cuts(UNAWARE_S)


# 36: what is left in a split page must not show again what a read in reverse order has passed. 519: a count must not
# count a record twice that is replaced meanwhile.
@pytest.mark.parametrize("seed", [1, 2, 36, 519])
def test_many_records_while_pages_split(seed: int) -> None:
    history = play(seed)
    assert check(history) == []
    complete = sum(answer.complete for answer in history.answers)
    assert complete >= COMPLETE_SHARE * len(history.answers), "most answers are complete"


@pytest.mark.soak
@pytest.mark.timeout(14_400)
def test_a_thousand_seeds_of_many_records() -> None:
    faults = {seed: check(play(seed)) for seed in range(1000)}
    assert {seed: found for seed, found in faults.items() if found} == {}
