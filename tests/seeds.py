"""Seeds of fault tests: a few with every run of the suite, further ones with the soak."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from _pytest.mark.structures import ParameterSet


def seeds(always: Iterable[int], soak: Iterable[int]) -> list[int | ParameterSet]:
    return [*always, *(pytest.param(seed, marks=pytest.mark.soak) for seed in soak)]
