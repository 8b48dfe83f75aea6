"""The rig, closed after each test: closing checks that no task was left behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.swarm.rig import Rig


@pytest.fixture
def net() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()
