"""Path-MTU discovery by probing (RFC 8899): larger packets once a padded probe of that size has arrived.

Owns which size is in use and which is tried next. Counts nothing as congestion: a lost probe is an answer.
"""

from __future__ import annotations

from p2pkv.limits import (
    BULK_MTU_PROBE_INTERVAL_S,
    BULK_MTU_PROBES_MAX,
    BULK_MTU_RAISE_S,
    BULK_PACKET_BYTES,
    BULK_PACKET_BYTES_LADDER,
)


class PathMtu:
    """`packet_bytes` is safe to send. Call `probe` when there is room to send one."""

    def __init__(self, packet_bytes_max: int) -> None:
        """`packet_bytes_max`: what the socket can be trusted to send unfragmented."""
        self.packet_bytes = min(BULK_PACKET_BYTES, packet_bytes_max)
        self._ladder = [size for size in BULK_PACKET_BYTES_LADDER if size <= packet_bytes_max]
        self._failures = 0
        self._next_s = 0.0
        self._under_way = False

    def probe(self, now: float) -> int | None:
        """The size to probe now, if any. Then `arrived` or `missing` must follow."""
        if self._under_way or now < self._next_s:
            return None
        size = next((size for size in self._ladder if size > self.packet_bytes), None)
        if size is None:
            return None
        if self._failures >= BULK_MTU_PROBES_MAX:
            self._failures = 0
        self._under_way = True
        return size

    def arrived(self, size: int) -> None:
        """A probe was acknowledged: packets may be as large."""
        self._under_way, self._failures = False, 0
        self.packet_bytes = max(self.packet_bytes, size)

    def missing(self, size: int, now: float) -> None:
        """A probe was lost."""
        self._under_way = False
        self._failures += 1
        exhausted = self._failures >= BULK_MTU_PROBES_MAX
        self._next_s = now + (BULK_MTU_RAISE_S if exhausted else BULK_MTU_PROBE_INTERVAL_S)

    def too_large(self, size: int, now: float) -> None:
        """The system refused to send so much at once: no packet and no probe as large in the next while."""
        self._failures = BULK_MTU_PROBES_MAX
        self._next_s = now + BULK_MTU_RAISE_S
        if size <= self.packet_bytes:
            self.black_hole(now)

    def black_hole(self, now: float) -> None:
        """Nothing arrives any more: perhaps the path became narrower. Back to the size that fits every path."""
        self.packet_bytes = min(BULK_PACKET_BYTES, self.packet_bytes)
        self._under_way = False
        self._next_s = max(self._next_s, now + BULK_MTU_PROBE_INTERVAL_S)
