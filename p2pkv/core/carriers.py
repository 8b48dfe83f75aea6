"""Which peers carry a transfer: counted by whoever brings and fetches chunks, for whoever began the transfer.

The count follows the tasks that the transfer starts (a context variable), so nothing between the two passes it on.
Owns no transfer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_counter: ContextVar[Counter[str] | None] = ContextVar("p2pkv carriers", default=None)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Bytes of chunks by the address of the peer that gave or took them, of all that happens within."""
    counter: Counter[str] = Counter()
    token = _counter.set(counter)
    try:
        yield counter
    finally:
        _counter.reset(token)


def carried(ip: str, port: int, size_bytes: int) -> None:
    """A peer gave, or has taken, so many bytes."""
    counter = _counter.get()
    if counter is not None:
        counter[f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"] += size_bytes
