"""A rival to share a path with: congestion control that takes no notice of losses, as the first BBR of Linux."""

from __future__ import annotations

from collections import deque

from p2pkv.core.bulk.congestion import AckSample

GAINS = (1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)  # Cardwell et al. 2017, section "Gain cycling"
STARTUP_GAIN = 2.89
RATE_ROUNDS = 10


class Heedless:
    """Greatest rate of ten rounds, least round-trip time, twice their product in flight; phases of a delay each."""

    def __init__(self, packet_bytes: int) -> None:
        self._packet = packet_bytes
        self.window_bytes = 32 * packet_bytes
        self.pacing_rate = 0.0
        self._rates: deque[float] = deque([0.0], maxlen=RATE_ROUNDS)
        self._delay_s = 0.0
        self._round_ends_bytes = 0
        self._full_rate, self._full_rounds = 0.0, 0
        self._phase, self._phase_s = 0, 0.0

    def on_ack(self, sample: AckSample) -> None:
        if sample.rtt_s:
            self._delay_s = min(self._delay_s or sample.rtt_s, sample.rtt_s)
        if sample.round_began_bytes >= self._round_ends_bytes:
            self._round_ends_bytes = sample.delivered_bytes + sample.in_flight_bytes
            self._end_round()
        self._rates[-1] = max(self._rates[-1], sample.rate)
        self._decide(sample)

    def _end_round(self) -> None:
        rate = max(self._rates)
        if rate > 1.25 * self._full_rate:
            self._full_rate, self._full_rounds = rate, 0
        else:
            self._full_rounds += 1
        self._rates.append(0.0)

    def _decide(self, sample: AckSample) -> None:
        rate = max(self._rates)
        if not rate or not self._delay_s:
            return
        gain = STARTUP_GAIN
        if self._full_rounds >= 3:
            if sample.now - self._phase_s > self._delay_s:
                self._phase, self._phase_s = (self._phase + 1) % len(GAINS), sample.now
            gain = GAINS[self._phase]
        self.pacing_rate = gain * rate
        product = rate * self._delay_s
        self.window_bytes = int(max((STARTUP_GAIN if self._full_rounds < 3 else 2) * product, 32 * self._packet))

    def on_timeout(self, now: float) -> None:
        """No notice."""

    def resize(self, packet_bytes: int) -> None:
        self._packet = packet_bytes
