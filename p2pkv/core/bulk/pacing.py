"""Sends at a rate: a bucket of bytes that fills with time.

An event loop's timers are exact to a millisecond, so the bucket holds a few milliseconds' worth, and never less
than what makes a batch worth its system call.
"""

from __future__ import annotations

from p2pkv.limits import BULK_TIMER_S

_BUCKET_TIMERS = 4
_BUCKET_PACKETS = 10
_WAIT_S = BULK_TIMER_S / 16  # the shortest: a wait that rounds to nothing would come again for ever


class Pacer:
    """How many bytes may leave now, and when the next may."""

    __slots__ = ("_bytes", "_rate", "_since_s", "_size")

    def __init__(self) -> None:
        self._bytes = 0.0
        self._rate = 0.0
        self._size = 0.0
        self._since_s = 0.0

    def allowance(self, rate: float, packet_bytes: int, now: float) -> int:
        """Bytes that may leave now at `rate` bytes per second (0: any number)."""
        if not rate:
            return 1 << 62
        if not self._rate:
            self._bytes = float(_BUCKET_PACKETS * packet_bytes)
        self._rate, self._size = rate, max(rate * _BUCKET_TIMERS * BULK_TIMER_S, _BUCKET_PACKETS * packet_bytes)
        self._bytes = min(self._bytes + (now - self._since_s) * rate, self._size)
        self._since_s = now
        return int(self._bytes + 0.5)  # half a byte is rounding

    def sent(self, size_bytes: int) -> None:
        self._bytes -= size_bytes

    def ready_s(self, size_bytes: int) -> float:
        """When so many bytes may leave, or as many as the bucket holds: always later than the last `allowance`."""
        if not self._rate:
            return self._since_s
        return self._since_s + max((min(size_bytes, self._size) - self._bytes) / self._rate, _WAIT_S)
