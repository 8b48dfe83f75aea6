"""The two ports of `files/` in memory, with faults that a test turns on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from p2pkv.core.clock import HybridClock
from p2pkv.core.drafts import ChunkPut, Draft
from p2pkv.core.records import Flag, Version, check_shape, merge, rank, version_token
from p2pkv.errors import IncompleteError, NotFoundError, RefusedError
from p2pkv.ids import ChunkID, NodeID, chunk_id_of
from p2pkv.limits import STORED_CHUNK_BYTES_MAX
from p2pkv.outcomes import Acks, Order, PutOutcome, ReplicaFailure, ReplicaInfo

AUTHOR = b"a" * 32


class FakeChunks:
    """Chunks in a dict. `on_get` may raise, `delay_of` counts turns of the loop, all wait while `hold` says so."""

    def __init__(self) -> None:
        self.stored: dict[ChunkID, bytes] = {}
        self.puts = 0
        self.gets: list[ChunkID] = []
        self.running = self.most_running = 0
        self.replicas_reached = 8
        self.nodes = [NodeID(chunk_id_of(b"%d" % n)[:20]) for n in range(40)]
        self.on_get: Callable[[ChunkID, int], None] = lambda chunk_id, attempt: None
        self.hold: Callable[[], bool] = lambda: False
        self.delay_of: Callable[[ChunkID], int] = lambda chunk_id: 1

    async def put(
        self, chunk_id: ChunkID, stored: bytes, *, replicas: int | None = None, acks: Acks = "quorum"
    ) -> ChunkPut:
        assert chunk_id == chunk_id_of(stored)
        assert len(stored) <= STORED_CHUNK_BYTES_MAX
        self.puts += 1
        await self._wait(chunk_id)
        sent = self.stored.get(chunk_id) is None
        self.stored[chunk_id] = stored
        failures = [ReplicaFailure("ff" * 20, "127.0.0.1:9", "quota")] if self.replicas_reached < 8 else []
        return ChunkPut(asked=8, stored=self.replicas_reached, needed=5, sent=sent, failures=failures)

    async def get(self, chunk_id: ChunkID, *, attempt: int = 0) -> bytes:
        self.gets.append(chunk_id)
        self.on_get(chunk_id, attempt)
        await self._wait(chunk_id)
        stored = self.stored.get(chunk_id)
        if stored is None:
            raise NotFoundError(f"no chunk {chunk_id.hex()}")
        if chunk_id_of(stored) != chunk_id:
            raise IncompleteError("every replica is damaged")
        return stored

    async def holders(self, chunk_id: ChunkID) -> list[ReplicaInfo]:
        return [ReplicaInfo("ab" * 20, "127.0.0.1:1", chunk_id in self.stored)]

    def peers(self) -> Sequence[NodeID]:
        return self.nodes

    async def _wait(self, chunk_id: ChunkID) -> None:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            while self.hold():
                await asyncio.sleep(0)
            for _ in range(self.delay_of(chunk_id)):
                await asyncio.sleep(0)
        finally:
            self.running -= 1


class FakeRecords:
    """Signed nothing, merged as replicas do."""

    def __init__(self) -> None:
        self.keys: dict[bytes, dict[bytes, Version]] = {}
        self.puts: list[bytes] = []
        self.replicas_reached = 8
        self._clock = HybridClock()

    async def put(
        self, key: bytes, draft: Draft, *, acks: Acks = "quorum", if_version: str | None = None
    ) -> PutOutcome:
        await asyncio.sleep(0)
        version = Version(
            name=draft.name,
            clock=self._clock.tick(1_700_000_000.0),
            author=AUTHOR,
            flags=draft.flags,
            expires_ms=draft.expires_ms,
            size_bytes=draft.size_bytes,
            body=draft.body,
            meta=draft.meta,
        )
        check_shape(version)
        page = self.keys.setdefault(key, {})
        current = page.get(draft.name)
        if current and current.flags & Flag.ONCE:
            raise RefusedError("it is write-once")
        self.puts.append(draft.name)
        if self.replicas_reached >= 5:
            page[draft.name] = merge(current, version)
        return PutOutcome(draft.name.decode(), version_token(version), asked=8, stored=self.replicas_reached, needed=5)

    async def read(
        self,
        key: bytes,
        *,
        order: Order = "time",
        prefix: bytes = b"",
        after: str | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> AsyncIterator[Version]:
        live = [version for version in self.keys.get(key, {}).values() if not version.dead]
        for version in sorted(live, key=lambda version: version.name if order == "name" else rank(version)):
            await asyncio.sleep(0)
            if version.name.startswith(prefix):
                yield version

    async def read_name(self, key: bytes, name: bytes) -> list[Version]:
        await asyncio.sleep(0)
        version = self.keys.get(key, {}).get(name)
        return [version] if version and not version.dead else []
