"""What goes into the swarm before it has an author, a clock and a signature, and what came of a chunk that was put.

Owns the two small structs that `swarm/` and `files/` hand each other. Signs, sends and stores nothing.
"""

from __future__ import annotations

import msgspec

from p2pkv.outcomes import ReplicaFailure


class Draft(msgspec.Struct, frozen=True):
    """An unsigned version: everything that its writer chooses."""

    name: bytes
    flags: int
    expires_ms: int = 0
    size_bytes: int = 0
    body: bytes = b""
    meta: bytes = b""


class Change(msgspec.Struct, frozen=True):
    """One record of an atomic batch: what is to stand under a key, or to be deleted there."""

    key: bytes
    draft: Draft


class ChunkPut(msgspec.Struct, frozen=True):
    """One chunk's fate. `stored` replicas have it durably; `asked` should hold it; `needed` were required."""

    asked: int
    stored: int
    needed: int
    sent: bool  # False: all replicas had it already
    failures: list[ReplicaFailure] = []

    @property
    def reached(self) -> bool:
        return self.stored >= self.needed
