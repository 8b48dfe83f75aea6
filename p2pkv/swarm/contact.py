"""What a peer knows of another peer, and who sent a request.

Owns the state that survives from one call to the next: round-trip times, failures, proof, cookie. Decides nothing.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Literal, NamedTuple

from kademlia.node import Node

from p2pkv.core.rtt import RttEstimator
from p2pkv.ids import ID_BYTES

if TYPE_CHECKING:
    from asyncio import Future

    from p2pkv.swarm.environment import Address

Kind = Literal["unknown", "stock", "p2pkv"]
NO_ID = bytes(ID_BYTES)
"""The id of a contact of which only the address is known."""
NEVER_S = float("-inf")


class Contact(Node):  # type: ignore[misc]
    """Another peer, at one address."""

    id: bytes
    ip: str
    port: int
    long_id: int

    def __init__(self, node_id: bytes, ip: str, port: int, now_s: float = 0.0) -> None:
        super().__init__(node_id, ip, port)
        self.address: Address = (ip, port)
        self.kind: Kind = "unknown"
        self.public_key = b""
        self.rtt = RttEstimator()
        self.failures = 0  # silences in a row
        self.failed_s = NEVER_S  # when the last of them was noticed; `loop.time()` as all times here
        self.first_seen_s = now_s
        self.last_seen_s = NEVER_S
        self.cookie = b""  # that it gave us
        self.verified = False  # it answered at its address and, if p2pkv, proved its id
        self.ephemeral = False  # it stores nothing
        self.bulk = False  # it takes bulk transfer
        self.advertised = False  # it is reached here by its own word, wherever its datagrams come from
        # The RPC layer's own.
        self.outstanding = 0
        self.quiet_since_s = NEVER_S  # with requests outstanding: since when there was no answer
        self.waiting: deque[Future[None]] = deque()
        self.trailer = b""  # the extension of requests to it, encoded; empty: to be made
        self.touched_s = NEVER_S

    def identify(self, node_id: bytes) -> None:
        """A contact known by its address alone gets its id."""
        assert self.id == NO_ID
        self.id = node_id
        self.long_id = int.from_bytes(node_id, "big")


class Sender(NamedTuple):
    """Who sent a request. The id is only claimed, unless there is a contact: that one proved it, at this address."""

    node_id: bytes
    address: Address
    contact: Contact | None
