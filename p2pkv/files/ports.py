"""What `files/` needs of the swarm: somewhere to keep records and chunks. Nothing here does anything.

The swarm implements both; the tests use fakes in memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from p2pkv.core.drafts import ChunkPut, Draft
from p2pkv.core.records import Version
from p2pkv.ids import Bytes, ChunkID, NodeID
from p2pkv.outcomes import Acks, Order, PutOutcome, ReplicaInfo

__all__ = ["ChunkPut", "Chunks", "Draft", "Records"]


class Chunks(Protocol):
    """Immutable bytes by their hash."""

    async def put(
        self, chunk_id: ChunkID, stored: bytes, *, replicas: int | None = None, acks: Acks = "quorum"
    ) -> ChunkPut: ...

    async def get(self, chunk_id: ChunkID, *, attempt: int = 0) -> Bytes:
        """The stored bytes, checked against the id. Raises NotFoundError or IncompleteError.

        A higher `attempt` means that an earlier one failed: ask other replicas first.
        """
        ...

    async def holders(self, chunk_id: ChunkID) -> list[ReplicaInfo]: ...

    def peers(self) -> Sequence[NodeID]:
        """The peers that may keep chunks, as many as are known."""
        ...


class Records(Protocol):
    """Signed versions of records under keys."""

    async def put(
        self, key: bytes, draft: Draft, *, acks: Acks = "quorum", if_version: str | None = None
    ) -> PutOutcome: ...

    def read(
        self,
        key: bytes,
        *,
        order: Order = "time",
        prefix: bytes = b"",
        after: str | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> AsyncIterator[Version]:
        """Live versions in order. Raises IncompleteError where some may be missing."""
        ...

    async def read_name(self, key: bytes, name: bytes) -> list[Version]:
        """Live versions under a name, of the highest rank first. Empty: complete, and there is none."""
        ...
