"""CUBIC (RFC 9438): the window grows with the time since the last loss. To compare with, and to prove the interface."""

from __future__ import annotations

from p2pkv.core.bulk.congestion import AckSample
from p2pkv.limits import BULK_FLIGHT_BYTES_MAX, BULK_WINDOW_PACKETS_INITIAL, BULK_WINDOW_PACKETS_MIN

BETA = 0.7
C = 0.4  # packets per second cubed


class Cubic:
    """Loss is congestion, whatever its cause; delay means nothing."""

    def __init__(self, packet_bytes: int, beta: float = BETA) -> None:
        """`beta`: what congestion leaves of the window."""
        self._beta = beta
        self._packet = packet_bytes
        self.window_bytes = BULK_WINDOW_PACKETS_INITIAL * packet_bytes
        self.pacing_rate = 0.0
        self._threshold = float("inf")  # of slow start, in bytes
        self._before = 0.0  # window before the last loss, in packets
        self._since_s = 0.0
        self._rise_s = 0.0  # until the window is back where it was
        self._reno = 0.0  # what Reno would have, in packets (section 4.3)
        self._recovering_s = -1.0
        self._rtt_s = 0.0

    def settle(self, window_bytes: int, now: float, rtt_s: float) -> None:
        """Go on from a window that fits the path, without slow start."""
        self.window_bytes = max(window_bytes, BULK_WINDOW_PACKETS_MIN * self._packet)
        self._threshold, self._rtt_s, self._since_s, self._rise_s = self.window_bytes, rtt_s, now, 0.0
        self._before = self._reno = self.window_bytes / self._packet

    def resize(self, packet_bytes: int) -> None:
        self._packet = packet_bytes
        self.window_bytes = max(self.window_bytes, BULK_WINDOW_PACKETS_MIN * packet_bytes)

    def on_ack(self, sample: AckSample) -> None:
        if sample.rtt_s is not None:
            self._rtt_s = sample.rtt_s if not self._rtt_s else self._rtt_s + 0.125 * (sample.rtt_s - self._rtt_s)
        if sample.lost_bytes and sample.largest_lost_sent_s > self._recovering_s:
            self.reduce(sample.now)
        elif sample.acked_bytes and sample.now > self._recovering_s and not sample.app_limited:
            self._grow(sample)
        self.window_bytes = min(max(self.window_bytes, BULK_WINDOW_PACKETS_MIN * self._packet), BULK_FLIGHT_BYTES_MAX)
        gain = 2.0 if self.window_bytes < self._threshold else 1.25
        self.pacing_rate = gain * self.window_bytes / self._rtt_s if self._rtt_s else 0.0

    def reduce(self, now: float) -> None:
        """There was congestion."""
        window = self.window_bytes / self._packet
        self._before = window if window >= self._before else window * (1 + self._beta) / 2
        self.window_bytes = int(self.window_bytes * self._beta)
        self._threshold = self.window_bytes
        self._recovering_s = self._since_s = now
        self._reno = window * self._beta
        self._rise_s = (self._before * (1 - self._beta) / C) ** (1 / 3)

    def _grow(self, sample: AckSample) -> None:
        if self.window_bytes < self._threshold:
            self.window_bytes += sample.acked_bytes
            return
        window = self.window_bytes / self._packet
        acked = sample.acked_bytes / self._packet
        self._reno += acked * (3 * (1 - BETA) / (1 + BETA)) / window
        target = C * (sample.now - self._since_s + self._rtt_s - self._rise_s) ** 3 + self._before
        target = max(min(target, 1.5 * window), self._reno)
        if target > window:
            self.window_bytes += int((target - window) / window * sample.acked_bytes)

    def on_timeout(self, now: float) -> None:
        self._threshold = max(self.window_bytes * BETA, 2 * self._packet)
        self.window_bytes = BULK_WINDOW_PACKETS_MIN * self._packet
        self._before, self._recovering_s = self._threshold / self._packet, now
