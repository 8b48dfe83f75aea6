"""What is in flight, what arrived, what is lost (RFC 9002), and the delivery rate.

Theory of operation. Packets are sent in bursts: consecutive packet numbers that carry consecutive bytes of one
message, equally large but for the last. A burst is the unit of bookkeeping; which of its packets are still out is a
bit mask, so an ack of fifty packets costs one operation on an integer and not fifty on a dictionary.

A packet is lost when one sent `reorder_packets` later has been acknowledged (section 6.1.1), or when any later one
has and it is older than 9/8 of the round-trip time (6.1.2). Where packets counted as lost prove to have been late,
the first threshold doubles: a path that reorders is not a path that loses. With no ack at all a probe time-out
(6.2) lets two packets out whatever the window says; only after several in a row everything in flight counts as
lost.

Owns bursts in flight and packet numbers. Never knows what the packets carry: the caller gets bursts and masks back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from p2pkv.core.bulk.ranges import RangeSet
from p2pkv.core.bulk.rtt import RoundTrip
from p2pkv.limits import (
    BULK_PROBE_TIMEOUTS_LOST,
    BULK_REORDER_PACKETS,
    BULK_REORDER_PACKETS_MAX,
)

_LATE_RANGES_MAX = 256


@dataclass(slots=True, eq=False)
class Burst:
    """Consecutive packets sent at one moment. `load` is the caller's."""

    first: int  # packet number
    count: int
    packet_bytes: int  # of each, the last may be smaller
    size_bytes: int  # of all together
    load: Any
    offset: int = 0  # of the first packet's bytes in the message
    payload_bytes: int = 0  # of each packet, the last may carry less
    probe: bool = False  # for the path MTU: its loss says nothing of congestion
    sent_s: float = 0.0
    out: int = 0  # bit n: packet first + n is neither acknowledged nor lost
    delivered_bytes: int = 0  # of the connection when this was sent
    delivered_s: float = 0.0
    began_s: float = 0.0  # when the newest burst acknowledged by then had been sent
    app_limited: bool = False

    def bytes_of(self, mask: int) -> int:
        """How many bytes the packets of a mask are."""
        size = mask.bit_count() * self.packet_bytes
        if mask >> (self.count - 1):
            size -= self.packet_bytes * self.count - self.size_bytes
        return size


def runs_of(mask: int) -> Iterator[tuple[int, int]]:
    """The runs of ones in a mask as half-open ranges of bit numbers, ascending."""
    at = 0
    while mask:
        zeros = (mask & -mask).bit_length() - 1
        mask >>= zeros
        ones = (~mask & (mask + 1)).bit_length() - 1
        yield at + zeros, at + zeros + ones
        mask >>= ones
        at += zeros + ones


Part = tuple[Burst, int]
"""Packets of a burst, as a mask."""


@dataclass(slots=True)
class Outcome:
    """What an ack or a timer brought to light."""

    acked: list[Part] = field(default_factory=list)
    lost: list[Part] = field(default_factory=list)
    acked_bytes: int = 0
    lost_bytes: int = 0
    rtt_s: float | None = None
    rate: float = 0.0
    newest: Burst | None = None
    largest_lost_sent_s: float = 0.0


class Recovery:
    """The packets of one connection that may still arrive."""

    def __init__(self) -> None:
        self.rtt = RoundTrip()
        self.next_number = 0
        self.in_flight_bytes = 0
        self.delivered_bytes = 0
        self.timeouts = 0  # probe time-outs in a row
        self.heard_s = 0.0  # when the last new ack came, or sending began after silence
        self.reorder_packets = BULK_REORDER_PACKETS
        self.lost_packets = 0
        self._delivered_s = 0.0
        self._began_s = 0.0
        self._limited_until_bytes = 0
        self._largest = -1
        self._out: deque[Burst] = deque()
        self._late = RangeSet()  # numbers counted as lost, in case they turn up
        self._loss_s: float | None = None

    @property
    def span(self) -> int:
        """How many numbers below the next one may still be under way."""
        return self.next_number - self._out[0].first if self._out else 0

    def note_idle(self) -> None:
        """There was nothing to send: until what is in flight arrives, rates say what we sent and not what we could."""
        self._limited_until_bytes = max(self.delivered_bytes + self.in_flight_bytes, 1)

    def sent(self, burst: Burst, now: float) -> None:
        """Note a burst that begins with `next_number`."""
        if not self._out:
            self._delivered_s = self._began_s = self.heard_s = now
        burst.sent_s, burst.out = now, (1 << burst.count) - 1
        burst.app_limited = self.delivered_bytes < self._limited_until_bytes
        burst.delivered_bytes, burst.delivered_s, burst.began_s = self.delivered_bytes, self._delivered_s, self._began_s
        self._out.append(burst)
        self.next_number += burst.count
        self.in_flight_bytes += burst.size_bytes

    # --- acks ---

    def on_ack(self, ranges: list[tuple[int, int]], delay_s: float, now: float) -> Outcome:
        """Take in the ranges of an ack, ascending. Numbers never sent are the caller's to refuse."""
        outcome = Outcome()
        if not ranges:
            return outcome
        self._take_acked(ranges, outcome)
        self._notice_late(ranges)
        if outcome.newest is not None:
            self._largest = max(self._largest, ranges[-1][1] - 1)
            self._sample(outcome, delay_s, now)
        self._find_lost(now, outcome)
        return outcome

    def _take_acked(self, ranges: list[tuple[int, int]], outcome: Outcome) -> None:
        largest, index, count = ranges[-1][1], 0, len(ranges)
        for burst in self._out:
            first = burst.first
            if first >= largest:
                break
            end = first + burst.count
            while index < count and ranges[index][1] <= first:
                index += 1
            mask, at = 0, index
            while at < count and ranges[at][0] < end:
                low, high = max(ranges[at][0], first), min(ranges[at][1], end)
                mask |= ((1 << (high - low)) - 1) << (low - first)
                at += 1
            new = mask & burst.out
            if new:
                burst.out ^= new
                outcome.acked.append((burst, new))
                outcome.acked_bytes += burst.bytes_of(new)
                outcome.newest = burst
        self.in_flight_bytes -= outcome.acked_bytes
        self._drop_done()

    def _drop_done(self) -> None:
        while self._out and not self._out[0].out:
            self._out.popleft()

    def _notice_late(self, ranges: list[tuple[int, int]]) -> None:
        """Packets that were counted as lost and have arrived after all."""
        for start, end in ranges if self._late else ():
            if any(low < end and high > start for low, high in self._late):
                self._late.remove(start, end)
                self.reorder_packets = min(2 * self.reorder_packets, BULK_REORDER_PACKETS_MAX)
                return

    def _sample(self, outcome: Outcome, delay_s: float, now: float) -> None:
        newest = outcome.newest
        assert newest is not None
        self.heard_s, self.timeouts = now, 0
        self.delivered_bytes += outcome.acked_bytes
        self._delivered_s, self._began_s = now, newest.sent_s
        if newest.first <= self._largest < newest.first + newest.count:
            outcome.rtt_s = self.rtt.observe(now - newest.sent_s, delay_s)
        interval = max(now - newest.delivered_s, newest.sent_s - newest.began_s)
        if interval >= self.rtt.least_s:  # a shorter one is an artefact of acks that came bunched
            outcome.rate = (self.delivered_bytes - newest.delivered_bytes) / interval

    # --- losses ---

    def _find_lost(self, now: float, outcome: Outcome) -> None:
        self._loss_s = None
        sure, delay_s = self._largest - self.reorder_packets + 1, self.rtt.loss_delay_s
        for burst in self._out:
            if burst.first >= self._largest:
                break
            expires_s = burst.sent_s + delay_s
            below = (self._largest if expires_s <= now else sure) - burst.first
            mask = burst.out & ((1 << below) - 1) if below > 0 else 0
            if mask:
                self._lose(burst, mask, outcome)
            if burst.out and expires_s > now:
                self._loss_s = min(self._loss_s or expires_s, expires_s)
        self._drop_done()

    def _lose(self, burst: Burst, mask: int, outcome: Outcome, *, surely: bool = False) -> None:
        burst.out &= ~mask
        size = burst.bytes_of(mask)
        self.in_flight_bytes -= size
        outcome.lost.append((burst, mask))
        if burst.probe:
            return
        outcome.lost_bytes += size
        outcome.largest_lost_sent_s = max(outcome.largest_lost_sent_s, burst.sent_s)
        self.lost_packets += mask.bit_count()
        if not surely:
            for low, high in runs_of(mask):
                self._late.add(burst.first + low, burst.first + high)
            self._late.forget(0, _LATE_RANGES_MAX)

    # --- timers ---

    @property
    def timer_s(self) -> float | None:
        """When `on_timer` wants to be called: for a loss by time, else for a probe."""
        if self._loss_s is not None:
            return self._loss_s
        if not self._out:
            return None
        since_s = max(self.heard_s, self._out[0].sent_s) if not self.timeouts else self.heard_s
        return since_s + self.rtt.probe_timeout_s(self.timeouts)

    def on_timer(self, now: float) -> tuple[Outcome, bool]:
        """What is lost by now, and whether a probe must go out (acks do not come)."""
        outcome = Outcome()
        timer_s = self.timer_s
        if timer_s is None or timer_s > now:
            return outcome, False
        if self._loss_s is not None:
            self._find_lost(now, outcome)
            return outcome, False
        self.timeouts += 1
        self.heard_s = now
        if self.timeouts >= BULK_PROBE_TIMEOUTS_LOST:
            self._lose_all(outcome)
        return outcome, True

    def _lose_all(self, outcome: Outcome) -> None:
        for burst in self._out:
            if burst.out:
                self._lose(burst, burst.out, outcome, surely=True)
        self._out.clear()

    def oldest(self) -> Part | None:
        """The burst that waits longest, to be sent once more as a probe; it stays in flight."""
        self._drop_done()
        return (self._out[0], self._out[0].out) if self._out else None
