"""What congestion control is told and what it decides: the small interface behind which `model` and `cubic` stand.

Theory of operation. Recovery tells the controller of every ack: what it acknowledged, what is now known to be lost,
the round-trip time, and the delivery rate (Cheng et al., draft-cheng-iccrg-delivery-rate-estimation): bytes
delivered since the newest acknowledged burst was sent, over the longer of the times that sending and acknowledging
them took. A sample taken while the sender had nothing to send says what we sent, not what the path can bear; it is
marked so.

Owns no state but the sample. Never sends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(slots=True)
class AckSample:
    """One ack (or one expired loss timer, with nothing acknowledged)."""

    now: float
    acked_bytes: int
    lost_bytes: int
    in_flight_bytes: int  # after this ack
    rtt_s: float | None
    rate: float  # bytes per second; 0 where it cannot be told
    app_limited: bool  # the sender had nothing to send when the sampled burst left
    delivered_bytes: int  # of the connection, this ack included
    round_began_bytes: int  # what had been delivered when the newest acknowledged burst was sent
    buffer_bytes: int  # of the peer's socket
    largest_lost_sent_s: float = 0.0  # when the latest of the lost bursts was sent


class Congestion(Protocol):
    """A congestion controller. `window_bytes` may be in flight, sent at `pacing_rate` bytes per second (0: at once)."""

    window_bytes: int
    pacing_rate: float

    def on_ack(self, sample: AckSample) -> None:
        """Learn from an ack or a detected loss."""
        ...

    def on_timeout(self, now: float) -> None:
        """Several probe time-outs in a row: all that was in flight counts as lost."""
        ...

    def resize(self, packet_bytes: int) -> None:
        """Packets are of another size from now on."""
        ...
