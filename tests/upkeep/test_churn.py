"""Nothing acknowledged is lost, whichever processes are killed: the promise itself, on real peers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.upkeep import churn


@pytest.mark.timeout(240)
async def test_nothing_is_lost_while_peers_are_killed_one_after_the_other(tmp_path: Path) -> None:
    await churn.run(tmp_path, peers=12, kills=3, period_s=4.0, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_nothing_is_lost_in_ten_minutes_of_kills(tmp_path: Path) -> None:
    figures = await churn.run(tmp_path, peers=12, kills=60, period_s=10.0, seed=2)
    print(figures)
