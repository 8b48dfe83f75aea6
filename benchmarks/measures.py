"""Arithmetic on measured values."""

from __future__ import annotations

import math
from collections.abc import Sequence


def percentile(values: Sequence[float], percent: float) -> float:
    """By nearest rank; NaN of nothing. Infinite values (failures) sort last."""
    if not values:
        return math.nan
    ranked = sorted(values)
    return ranked[max(math.ceil(percent / 100 * len(ranked)) - 1, 0)]


def median(values: Sequence[float]) -> float:
    """The middle value, the lower of two; NaN of nothing."""
    return percentile(values, 50)
