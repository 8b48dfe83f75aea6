"""Seeds of fault tests, or faults: a few with every run of the suite, further ones with the soak."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import pytest
from _pytest.mark.structures import ParameterSet

T = TypeVar("T")


def seeds(always: Iterable[T], soak: Iterable[T]) -> list[T | ParameterSet]:
    return [*always, *(pytest.param(seed, marks=pytest.mark.soak) for seed in soak)]
