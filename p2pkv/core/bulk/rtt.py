"""Round-trip time of one connection (RFC 9002, section 5) and the time-outs that follow from it."""

from __future__ import annotations

from p2pkv.limits import BULK_ACK_DELAY_S, BULK_PROBE_TIMEOUT_MAX_S, BULK_RTT_INITIAL_S, BULK_TIMER_S


class RoundTrip:
    """Smoothed, varying and latest round-trip time in seconds."""

    __slots__ = ("latest_s", "least_s", "smoothed_s", "variation_s")

    def __init__(self) -> None:
        self.latest_s = 0.0  # 0: no sample yet
        self.least_s = 1e-6  # of all samples, the peer's delay not taken out
        self.smoothed_s = BULK_RTT_INITIAL_S
        self.variation_s = BULK_RTT_INITIAL_S / 2

    def observe(self, sample_s: float, delay_s: float = 0.0) -> float:
        """Take in a sample; what of it is the path's. The peer's word of its own delay is believed within reason."""
        sample_s = max(sample_s, 1e-6)
        self.least_s = min(sample_s, self.least_s) if self.latest_s else sample_s
        if sample_s - delay_s >= self.least_s:
            sample_s -= delay_s
        if not self.latest_s:
            self.smoothed_s, self.variation_s = sample_s, sample_s / 2
        else:
            self.variation_s += 0.25 * (abs(sample_s - self.smoothed_s) - self.variation_s)
            self.smoothed_s += 0.125 * (sample_s - self.smoothed_s)
        self.latest_s = sample_s
        return sample_s

    @property
    def loss_delay_s(self) -> float:
        """How long after a later packet was acknowledged an earlier one counts as lost (section 6.1.2)."""
        return max(1.125 * max(self.smoothed_s, self.latest_s), BULK_TIMER_S)

    def probe_timeout_s(self, timeouts: int) -> float:
        """How long to wait for any ack before probing (section 6.2.1), doubled at each time-out in a row."""
        base = self.smoothed_s + max(4 * self.variation_s, BULK_TIMER_S) + 2 * BULK_ACK_DELAY_S
        return min(base * (1 << min(timeouts, 6)), max(BULK_PROBE_TIMEOUT_MAX_S, base))
