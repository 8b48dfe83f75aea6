"""Hybrid logical clock (Kulkarni et al. 2014): physical milliseconds where they grow, a counter where they do not.

Owns the order of versions. Reads no clock itself: the time comes as an argument.
"""

from __future__ import annotations

from p2pkv.limits import CLOCK_DRIFT_S_MAX

COUNTER_BITS = 16
_COUNTER_MASK = (1 << COUNTER_BITS) - 1
CLOCK_MAX = (1 << 63) - 1  # fits a signed 64-bit column


def clock_of(time_s: float, counter: int = 0) -> int:
    """Seconds since the epoch as a clock value: milliseconds above 16 counter bits."""
    return int(time_s * 1000) << COUNTER_BITS | counter & _COUNTER_MASK


def time_of(clock: int) -> float:
    """Seconds since the epoch that a clock value stands for."""
    return (clock >> COUNTER_BITS) / 1000


class HybridClock:
    """Gives out clock values that grow with every call and stay close to the wall clock."""

    def __init__(self, last: int = 0) -> None:
        self.last = last

    def tick(self, now_s: float) -> int:
        """A value greater than every one given or observed before."""
        self.last = max(self.last + 1, clock_of(now_s))
        return self.last

    def observe(self, clock: int, now_s: float) -> None:
        """Move past another peer's clock, unless it runs too far ahead to be trusted."""
        if self.trusts(clock, now_s):
            self.pass_by(clock)

    def pass_by(self, clock: int) -> None:
        """Move past a clock that is known to be trusted."""
        self.last = max(self.last, clock)

    @staticmethod
    def trusts(clock: int, now_s: float) -> bool:
        return 0 <= clock <= HybridClock.trusted_until(now_s)

    @staticmethod
    def trusted_until(now_s: float) -> int:
        """The last clock value that is trusted now."""
        return clock_of(now_s + CLOCK_DRIFT_S_MAX)
