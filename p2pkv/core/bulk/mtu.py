"""Path-MTU discovery by probing (RFC 8899): larger packets once a padded probe of that size has arrived.

The largest size is tried first: where the device itself cannot send it, the system says so at once. A lost probe is
followed by one of the next smaller size, and each size gets a few chances.

Owns which size is in use and which is tried next. Counts nothing as congestion: a lost probe is an answer.
"""

from __future__ import annotations

from p2pkv.limits import (
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
        self._sizes = [size for size in reversed(BULK_PACKET_BYTES_LADDER) if size <= packet_bytes_max]
        self._misses = dict.fromkeys(self._sizes, 0)
        self._again_s = 0.0  # when the misses are forgotten
        self._under_way = False

    def probe(self, now: float, most: int) -> int | None:
        """The size to probe now, if any, up to `most` bytes. Then `arrived`, `missing` or `too_large` must follow."""
        if self._under_way:
            return None
        if now >= self._again_s:
            self._misses = dict.fromkeys(self._sizes, 0)
            self._again_s = now + BULK_MTU_RAISE_S
        sizes = [size for size in self._sizes if self.packet_bytes < size <= most]
        size = min(sizes, key=self._misses.__getitem__, default=0)  # the largest of those with equally many
        if not size or self._misses[size] >= BULK_MTU_PROBES_MAX:
            return None
        self._under_way = True
        return size

    def arrived(self, size: int) -> bool:
        """A probe was acknowledged: packets may be as large. Whether that is news."""
        self._under_way = False
        news = size > self.packet_bytes
        self.packet_bytes = max(self.packet_bytes, size)
        return news

    def missing(self, size: int) -> None:
        """A probe was lost."""
        self._under_way = False
        self._misses[size] = self._misses.get(size, 0) + 1

    def too_large(self, size: int, now: float) -> None:
        """The system refused to send so much at once: no packet and no probe as large in the next while."""
        for larger in self._sizes:
            if larger >= size:
                self._misses[larger] = BULK_MTU_PROBES_MAX
        self._again_s = now + BULK_MTU_RAISE_S
        self._under_way = False
        if size <= self.packet_bytes:
            self.packet_bytes = min(BULK_PACKET_BYTES, self.packet_bytes)

    def black_hole(self) -> None:
        """Nothing arrives any more: perhaps the path became narrower. Back to the size that fits every path."""
        for size in self._sizes:
            if size >= self.packet_bytes:
                self._misses[size] = BULK_MTU_PROBES_MAX - 1  # one more chance: the path may just be full
        self.packet_bytes = min(BULK_PACKET_BYTES, self.packet_bytes)
