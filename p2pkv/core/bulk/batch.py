"""What leaves a connection: batches of packets, and which bytes of a message they carried.

Consecutive packets of one size (the last may be shorter) that the kernel can send in one call. Payload is never
copied here: a batch is a list of buffers, a header and a view by turns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from p2pkv.core.bulk import packets
from p2pkv.core.bulk.congestion import Congestion
from p2pkv.core.bulk.model import PathModel
from p2pkv.core.bulk.packets import Buffer
from p2pkv.core.bulk.recovery import Burst, runs_of
from p2pkv.limits import BULK_PACKET_BYTES


@dataclass(slots=True)
class Batch:
    """Packets to send at once. `buffers` holds two for each packet: its header and its payload (which may be empty)."""

    buffers: list[Buffer]
    packet_bytes: int
    size_bytes: int
    probe: bool = False  # must not be fragmented

    def packets(self) -> list[bytes]:
        """One by one, copied."""
        buffers = self.buffers
        return [b"".join(buffers[at : at + 2]) for at in range(0, len(buffers), 2)]


@dataclass(frozen=True)
class Options:
    """What the driver knows of the socket and the machine."""

    packet_bytes_max: int = BULK_PACKET_BYTES
    buffer_bytes: int = 212_992  # of our socket, for the peer to know
    congestion: Callable[[int], Congestion] = PathModel


def single(packet: bytes) -> Batch:
    """A batch of one packet."""
    return Batch([packet, b""], len(packet), len(packet))


def bytes_of(burst: Burst, mask: int) -> list[tuple[int, int]]:
    """Which bytes of the message the packets of a mask carried, as half-open ranges."""
    payload = burst.payload_bytes
    end = burst.offset + burst.size_bytes - burst.count * packets.DATA_HEAD_BYTES
    return [(burst.offset + low * payload, min(burst.offset + high * payload, end)) for low, high in runs_of(mask)]
