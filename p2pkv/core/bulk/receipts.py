"""What has been received, and when the peer is to hear of it.

Owns the set of packet numbers received, bounded by what the sender says may still be under way. Never sends.
"""

from __future__ import annotations

from p2pkv.core.bulk.ranges import RangeSet
from p2pkv.limits import (
    BULK_ACK_DELAY_S,
    BULK_ACK_PACKETS,
    BULK_ACK_PACKETS_MAX,
    BULK_ACK_RANGES,
    BULK_ACK_RANGES_MAX,
)


class Receipts:
    """Packet numbers received on one connection."""

    __slots__ = ("_acks", "_floor", "_latest_s", "_numbers", "_unacked", "due_s")

    def __init__(self) -> None:
        self._numbers = RangeSet()
        self._floor = 0  # below it everything counts as received
        self._unacked = 0
        self._latest_s = 0.0  # when the greatest number came
        self._acks = 0
        self.due_s: float | None = None  # when an ack should go out

    def note(self, number: int, span: int, now: float) -> bool:
        """Take in a packet's number; False where it came before."""
        numbers = self._numbers
        end = numbers.end
        if number != end:
            if number < self._floor or number in numbers:
                self.due_s = now  # our ack was lost, or its sender would not have sent it again
                return False
            self.due_s = now  # out of order: the sender wants to know at once
        if number >= end:
            self._latest_s = now
        numbers.add(number, number + 1)
        floor = number - span
        if floor > self._floor:
            self._floor = floor
            numbers.forget(floor, 2 * BULK_ACK_RANGES_MAX)
        self._unacked += 1
        if self._unacked >= BULK_ACK_PACKETS and self._unacked >= min(span >> 3, BULK_ACK_PACKETS_MAX):
            self.due_s = now
        elif self.due_s is None:
            self.due_s = now + BULK_ACK_DELAY_S
        return True

    def hurry(self, now: float) -> None:
        """Something waits for the next ack."""
        self.due_s = now

    def take(self, now: float) -> tuple[int, float, list[tuple[int, int]]]:
        """Number, delay and ranges of an ack that goes out now."""
        self._numbers.forget(self._floor, 2 * BULK_ACK_RANGES_MAX)
        self._acks += 1
        self._unacked, self.due_s = 0, None
        return self._acks, now - self._latest_s, self._numbers.newest(BULK_ACK_RANGES)
