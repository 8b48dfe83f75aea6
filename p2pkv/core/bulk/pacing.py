"""Sends at a rate: two buckets of bytes that fill with time.

An event loop's timers are exact to a millisecond, and on a busy machine they come much later. What was missed then is
made up for, or the rate would be measured too low and sink for ever: the large bucket keeps it. It is not made up for
at once: the small bucket fills at twice the rate and holds a few milliseconds' worth, never less than what makes a
batch worth its system call.
"""

from __future__ import annotations

from p2pkv.limits import BULK_TIMER_S

_BURST_TIMERS = 4
_DEBT_TIMERS = 16
_BUCKET_PACKETS = 10
_WAIT_S = BULK_TIMER_S / 16  # the shortest: a wait that rounds to nothing would come again for ever


class Pacer:
    """How many bytes may leave now, and when the next may."""

    __slots__ = ("_burst", "_burst_max", "_bytes", "_bytes_max", "_rate", "_since_s")

    def __init__(self) -> None:
        self._rate = 0.0
        self._bytes = self._bytes_max = 0.0
        self._burst = self._burst_max = 0.0
        self._since_s = 0.0

    def allowance(self, rate: float, packet_bytes: int, now: float) -> int:
        """Bytes that may leave now at `rate` bytes per second (0: any number)."""
        if not rate:
            return 1 << 62
        least = float(_BUCKET_PACKETS * packet_bytes)
        if not self._rate:
            self._bytes = self._burst = least
        self._rate = rate
        self._bytes_max = max(rate * _DEBT_TIMERS * BULK_TIMER_S, least)
        self._burst_max = max(rate * _BURST_TIMERS * BULK_TIMER_S, least)
        passed_s = now - self._since_s
        self._bytes = min(self._bytes + passed_s * rate, self._bytes_max)
        self._burst = min(self._burst + 2 * passed_s * rate, self._burst_max)
        self._since_s = now
        return int(min(self._bytes, self._burst) + 0.5)  # half a byte is rounding

    def sent(self, size_bytes: int) -> None:
        self._bytes -= size_bytes
        self._burst -= size_bytes

    def ready_s(self, size_bytes: int) -> float:
        """When so many bytes may leave, or as many as the buckets hold: always later than the last `allowance`."""
        if not self._rate:
            return self._since_s
        wanted = min(size_bytes, self._burst_max)
        wait_s = max((wanted - self._bytes) / self._rate, (wanted - self._burst) / (2 * self._rate), _WAIT_S)
        return self._since_s + wait_s
