"""What a benchmark needs of a system: some peers in this process, and operations from any of them."""

from __future__ import annotations

from typing import Protocol

Address = tuple[str, int]
VALUE_BYTES = 100


def value_of(key: str) -> bytes:
    """What the benchmark puts under a key."""
    return key.encode().ljust(VALUE_BYTES, b".")


class Rival(Protocol):
    """Peers of one system in this process. Peers are called by number, from 0."""

    uvloop: bool  # whether the system ships with uvloop
    first_value_s: list[float]  # of gets that can hand out a value before they are done; else empty

    async def start(self, count: int, bootstrap: Address | None) -> Address:
        """Start peers on 127.0.0.1, joined to `bootstrap` or to the first of themselves; an address to join them at."""
        ...

    async def put(self, peer: int, key: str, value: bytes) -> bool:
        """Whether the system says that it is stored."""
        ...

    async def get(self, peer: int, key: str) -> bytes | None:
        """The value, once the system says that it has finished; None where it found none."""
        ...

    def holds(self, peer: int, key: str) -> bool:
        """Whether this peer is known to answer a get of the key from its own memory, asking nobody."""
        ...
