"""How long a peer takes to answer: the estimator of RFC 6298, for one peer.

Owns the estimate. Its caller keeps Karn's rule: a round trip whose request was resent is no sample, because nobody
knows which copy was answered; `back_off` says so instead. Only of a peer that is hardly known yet even such a round
trip is taken: it is too long at worst, and without any the peer would be asked twice for ever.

An estimate from few samples may come from a crowded moment, such as that of joining, and each sample takes but an
eighth of that away. So it is held against what the swarm usually takes (`rto_among_s`, `patience_among_s`): at first
against that alone, then against that and the contact's quickest answer, as it may be far away.
"""

from __future__ import annotations

import math

from p2pkv.limits import (
    LOOKUP_PATIENCE_MIN_S,
    RPC_RTO_INITIAL_S,
    RPC_RTO_MAX_S,
    RPC_RTO_MIN_S,
    RTT_SAMPLES_FEW,
    RTT_SAMPLES_MANY,
)

_ALPHA = 1 / 8  # weight of a sample in the mean (RFC 6298, section 2.3)
_BETA = 1 / 4  # and in the deviation
_DEVIATIONS = 4  # K of section 2
_PATIENCE_DEVIATIONS = 2  # asking somebody else beside costs less than sending again, so it is done sooner


class RttEstimator:
    """Smoothed round-trip time, its deviation, and the retransmission time-out that follows; all in seconds."""

    __slots__ = ("_deviation_s", "least_s", "patience_s", "rto_s", "samples", "srtt_s")

    def __init__(self) -> None:
        self.srtt_s: float | None = None
        self.least_s = math.inf  # the quickest answer
        self._deviation_s = 0.0
        self.samples = 0
        self.rto_s = RPC_RTO_INITIAL_S  # when to send again
        self.patience_s = RPC_RTO_INITIAL_S  # when a lookup passes by; `back_off` leaves it alone

    @property
    def trusted(self) -> bool:
        return self.samples >= RTT_SAMPLES_FEW

    def observe(self, sample_s: float) -> None:
        """Take a round trip of a request that was sent once."""
        self.samples += 1
        self.least_s = min(sample_s, self.least_s)
        if self.srtt_s is None:
            self.srtt_s = sample_s
            self._deviation_s = sample_s / 2
        else:
            self._deviation_s += _BETA * (abs(self.srtt_s - sample_s) - self._deviation_s)
            self.srtt_s += _ALPHA * (sample_s - self.srtt_s)
        srtt_s, deviation_s = self.srtt_s, self._deviation_s
        self.rto_s = min(max(srtt_s + _DEVIATIONS * deviation_s, RPC_RTO_MIN_S), RPC_RTO_MAX_S)
        self.patience_s = min(max(srtt_s + _PATIENCE_DEVIATIONS * deviation_s, LOOKUP_PATIENCE_MIN_S), RPC_RTO_MAX_S)

    def rto_among_s(self, typical: RttEstimator) -> float:
        """When to send again, in view of what others usually take. A crowd doubles it."""
        if self.samples >= RTT_SAMPLES_MANY:
            return self.rto_s
        return min(self.rto_s, 2 * (typical.rto_s + (self.least_s if self.trusted else 0)))

    def patience_among_s(self, typical: RttEstimator) -> float:
        """When to pass by, in view of what others usually take."""
        if self.samples >= RTT_SAMPLES_MANY:
            return self.patience_s
        if not self.trusted:
            return min(self.patience_s, typical.patience_s)
        return min(self.patience_s, typical.patience_s + 2 * self.least_s)

    def back_off(self, rto_s: float) -> None:
        """A request was answered after resends only: keep its last time-out until a sample (section 5.7)."""
        self.rto_s = min(max(rto_s, self.rto_s), RPC_RTO_MAX_S)
