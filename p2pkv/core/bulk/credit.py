"""How much one peer may make another hold: flow control by cost, and a hard bound over all peers together.

Theory of operation. A request costs its receiver its own bytes, the bytes of the reply that it may have to keep
until it is acknowledged, and some bookkeeping. The receiver grants credit as a running total; the sender begins a
request only within it, and the receiver grants more as requests end. Replies need no credit: whoever asked has said
how much it takes. Totals only grow, so a lost or late grant does no harm. Credit is a courtesy between peers that
keep the rules; the bound on memory is the `Budget`, which all connections share and which refuses rather than
grows.

Owns counting alone.
"""

from __future__ import annotations

from p2pkv.limits import BULK_HELD_BYTES_MAX, BULK_STREAM_COST_BYTES, BULK_WINDOW_BYTES, BULK_WINDOW_INITIAL_BYTES


def cost_of(size_bytes: int, reply_bytes_max: int) -> int:
    """What a request of this size counts."""
    return BULK_STREAM_COST_BYTES + size_bytes + reply_bytes_max


class Budget:
    """Bytes held for all peers together."""

    def __init__(self, bytes_max: int = BULK_HELD_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self.held_bytes = 0

    def take(self, size_bytes: int) -> bool:
        """False where it does not fit."""
        if self.held_bytes + size_bytes > self.bytes_max:
            return False
        self.held_bytes += size_bytes
        return True

    def give_back(self, size_bytes: int) -> None:
        self.held_bytes -= size_bytes


class SendCredit:
    """What the peer lets us begin."""

    def __init__(self) -> None:
        self._granted = BULK_WINDOW_INITIAL_BYTES
        self._used = 0

    def granted(self, total: int) -> None:
        self._granted = max(self._granted, total)

    def take(self, cost: int) -> bool:
        """False where it must wait."""
        if self._used + cost > self._granted:
            return False
        self._used += cost
        return True


class ReceiveCredit:
    """What we let the peer begin."""

    def __init__(self) -> None:
        self._ended = 0
        self._told = 0

    @property
    def total(self) -> int:
        return self._ended + BULK_WINDOW_BYTES

    def ended(self, cost: int) -> None:
        """A request of this cost is no more."""
        self._ended += cost

    def told(self) -> int:
        """The total, to be sent now."""
        self._told = self.total
        return self._told

    @property
    def news(self) -> bool:
        """Whether enough has been freed since the peer was told."""
        return self.total - self._told >= BULK_WINDOW_BYTES // 8
