"""Content that does not fit a record: into chunks and chunk lists, and back.

Serves long values of plain records and the content of files alike. Bounded memory whatever the length; chunks first, so
that whoever holds the list can fetch them. Never touches records or the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import NamedTuple

import msgspec

from p2pkv.core.chunking import SEALED_OVERHEAD_BYTES, FixedChunker, encode_chunk, looks_compressible, plain_chunk
from p2pkv.core.erasure import Code
from p2pkv.core.manifest import ChunkList, ChunkRef
from p2pkv.core.records import Flag, Version
from p2pkv.core.sealing import Seal, content_hasher
from p2pkv.errors import IncompleteError
from p2pkv.files.coding import CodedChunk, lay_out, put_shards
from p2pkv.files.concurrency import Job, Offload, in_thread, run_jobs
from p2pkv.files.fetching import Content, PieceSource
from p2pkv.files.ports import ChunkPut, Chunks
from p2pkv.ids import ChunkID, chunk_id_of
from p2pkv.limits import (
    BODY_BYTES_MAX,
    BULK_SHORT_BYTES,
    CHUNK_LIST_ENTRIES_MAX,
    CHUNK_LIST_LEVELS_MAX,
    CHUNK_PUT_ATTEMPTS_MAX,
    CHUNKS_IN_FLIGHT_MAX,
    CHUNKS_REMEMBERED_MAX,
    INLINE_BYTES_MAX,
)
from p2pkv.outcomes import Acks, ReplicaFailure

Blocks = AsyncIterator[bytes]
OnChunk = Callable[[int, int], None]
"""Called with the plain bytes of a chunk and the replicas that it reached (0: an equal one was put before)."""


class Prepared(NamedTuple):
    """A piece of content, hashed; with its chunk where that took no long work."""

    plain: bytes
    chunk: tuple[bytes, ChunkID] | None


class StoredContent(msgspec.Struct, frozen=True):
    """What a record must say of content that is now in the swarm."""

    flags: int
    size_bytes: int
    body: bytes
    hash: bytes
    chunks: int = 0
    chunks_sent: int = 0
    replicas: int = 0  # the least that any chunk reached; 0 where there is no chunk


async def store_value(
    data: bytes | Blocks, chunks: Chunks, *, acks: Acks = "quorum", offload: Offload = in_thread
) -> tuple[int, int, bytes]:
    """Store a plain record's value. Returns what its Draft needs: flags, size_bytes and body."""
    writer = ContentWriter(chunks, acks=acks, offload=offload)
    stored = await writer.store(one_block(data) if isinstance(data, bytes) else data)
    return stored.flags, stored.size_bytes, stored.body


def load_value(version: Version, chunks: Chunks, *, offload: Offload = in_thread) -> AsyncIterator[bytes]:
    """A plain record's value in order, in pieces of at most 1 MiB. Raises IncompleteError, DamagedError."""
    return PieceSource(chunks, Content.of(version), offload=offload).stream()


async def one_block(data: bytes) -> Blocks:
    yield data


class ContentWriter:
    """Stores one content. `slots` bounds the chunks in flight of all writers that share it."""

    def __init__(
        self,
        chunks: Chunks,
        *,
        replicas: int | None = None,
        acks: Acks = "quorum",
        seal: Seal | None = None,
        code: Code | None = None,
        slots: asyncio.Semaphore | None = None,
        offload: Offload = in_thread,
        on_chunk: OnChunk | None = None,
    ) -> None:
        self._chunks, self._replicas, self._acks, self._seal, self._code = chunks, replicas, acks, seal, code
        self._slots = slots or asyncio.Semaphore(CHUNKS_IN_FLIGHT_MAX)
        self._offload = offload
        self._on_chunk = on_chunk
        self._hasher = content_hasher(seal)
        self._lists: list[list[ChunkRef]] = [[]]
        self._seen: set[ChunkID] = set()
        self._size_bytes = self._count = self._sent = self._least = self._held = 0

    async def store(self, blocks: Blocks) -> StoredContent:
        """Cut, compress, seal and put everything; then the lists. Raises IncompleteError where acks are not reached."""
        try:
            return await self._store(blocks)
        finally:
            self._release(self._held)  # of jobs that were cancelled before they began

    async def _store(self, blocks: Blocks) -> StoredContent:
        inline_max = INLINE_BYTES_MAX - (SEALED_OVERHEAD_BYTES if self._seal else 0)
        async with aclosing(self._cut(blocks)) as pieces:
            first = await anext(pieces, None)
            if first is None or len(first.plain) <= inline_max:  # less than a chunk is the last
                return self._inline(first.plain if first else b"")
            jobs = self._jobs(first, pieces)
            async with aclosing(jobs), aclosing(run_jobs(jobs, limit=CHUNKS_IN_FLIGHT_MAX, ordered=True)) as refs:
                async for ref in refs:
                    await self._add(ref, 0)
        body = await self._root()
        return self._stored(body, Flag.CHUNKED)

    def _inline(self, plain: bytes) -> StoredContent:
        body = encode_chunk(plain, seal=self._seal) if self._seal else plain
        return self._stored(body, 0)

    def _stored(self, body: bytes, flags: int) -> StoredContent:
        flags |= Flag.SEALED if self._seal else 0
        digest = self._hasher.digest()
        return StoredContent(flags, self._size_bytes, body, digest, self._count, self._sent, self._least)

    async def _cut(self, blocks: Blocks) -> AsyncGenerator[Prepared, None]:
        chunker = FixedChunker()
        async for block in blocks:
            if pieces := chunker.feed(block):
                for prepared in await self._offload(self._prepare, pieces):
                    yield prepared
        if pieces := chunker.finish():
            for prepared in await self._offload(self._prepare, pieces):
                yield prepared

    def _prepare(self, pieces: list[bytes]) -> list[Prepared]:
        """What must be done in order, and what is as quick as going to another thread for it."""
        for piece in pieces:
            self._hasher.update(piece)
            self._size_bytes += len(piece)
        return [Prepared(piece, self._quick_chunk(piece)) for piece in pieces]

    def _quick_chunk(self, piece: bytes) -> tuple[bytes, ChunkID] | None:
        if self._seal is not None:
            return None
        if len(piece) <= BULK_SHORT_BYTES:
            return _named(encode_chunk(piece))
        return None if looks_compressible(piece) else _named(plain_chunk(piece))

    async def _jobs(
        self, piece: Prepared | None, pieces: AsyncIterator[Prepared]
    ) -> AsyncGenerator[Job[ChunkRef], None]:
        offset = 0
        await self._acquire()
        while piece is not None:
            yield self._job(piece, offset)
            offset += len(piece.plain)
            await self._acquire()  # before reading on: little of what is read waits
            piece = await anext(pieces, None)

    async def _acquire(self) -> None:
        await self._slots.acquire()
        self._held += 1

    def _release(self, count: int = 1) -> None:
        for _ in range(count):
            self._slots.release()
        self._held -= count

    def _job(self, piece: Prepared, offset: int) -> Job[ChunkRef]:
        return lambda: self._put_piece(piece, offset)

    async def _put_piece(self, piece: Prepared, offset: int) -> ChunkRef:
        plain_bytes = len(piece.plain)
        try:
            chunk = piece.chunk
            if chunk is None:
                chunk = await self._offload(self._encode, piece.plain, offset)
            stored, chunk_id = chunk
            if self._code is None:
                outcome = await self._put_once(chunk_id, stored)
            else:
                coded = await self._offload(lay_out, stored, self._code, self._chunks.peers())
                chunk_id = coded.stripe_id
                outcome = await self._put_once(chunk_id, coded.stripe, coded)
        finally:
            self._release()
        self._count += 1
        self._sent += outcome is not None and outcome.sent
        if self._on_chunk:
            self._on_chunk(plain_bytes, outcome.stored if outcome else 0)
        return ChunkRef(chunk_id, plain_bytes)

    def _encode(self, piece: bytes, offset: int) -> tuple[bytes, ChunkID]:
        return _named(encode_chunk(piece, seal=self._seal, offset=offset))

    async def _put_once(self, chunk_id: ChunkID, stored: bytes, coded: CodedChunk | None = None) -> ChunkPut | None:
        """Put a chunk unless this content had an equal one; if that one fails, the whole fails.

        The shards of a stripe are put before it: whoever has it can read them.
        """
        if chunk_id in self._seen:
            return None
        if len(self._seen) < CHUNKS_REMEMBERED_MAX:
            self._seen.add(chunk_id)
        shards = await put_shards(self._chunks, coded, self._acks) if coded else None
        if shards and not shards.reached:
            raise too_few_replicas(f"erasure-coded chunk {chunk_id.hex()[:12]}", shards)
        outcome = await self._put(chunk_id, stored)
        if shards:
            outcome = msgspec.structs.replace(outcome, sent=outcome.sent or shards.sent)
        self._least = min(self._least, outcome.stored) if self._least else outcome.stored
        return outcome

    async def _put(self, chunk_id: ChunkID, stored: bytes) -> ChunkPut:
        """Put until the acks are reached: one bad moment must not end an upload of hours."""
        sent = False
        for _ in range(CHUNK_PUT_ATTEMPTS_MAX):
            outcome = await self._chunks.put(chunk_id, stored, replicas=self._replicas, acks=self._acks)
            sent |= outcome.sent
            if outcome.reached:
                return msgspec.structs.replace(outcome, sent=sent)
        raise too_few_replicas(f"chunk {chunk_id.hex()[:12]}", outcome)

    async def _add(self, ref: ChunkRef, level: int) -> None:
        if level == len(self._lists):
            assert level < CHUNK_LIST_LEVELS_MAX, "longer than any disk"
            self._lists.append([])
        entries = self._lists[level]
        entries.append(ref)
        if len(entries) >= CHUNK_LIST_ENTRIES_MAX:
            await self._spill(level)

    async def _spill(self, level: int) -> None:
        """Put a level's list as a chunk and name it in the list above."""
        entries, self._lists[level] = self._lists[level], []
        chunk_list = ChunkList.of(level, entries)
        stored = encode_chunk(chunk_list.encode())
        chunk_id = chunk_id_of(stored)
        await self._put_once(chunk_id, stored)
        await self._add(ChunkRef(chunk_id, chunk_list.size_bytes), level + 1)

    async def _root(self) -> bytes:
        level = 0
        while True:
            top = level == len(self._lists) - 1
            if top:
                body = ChunkList.of(level, self._lists[level]).encode()
                if len(body) <= BODY_BYTES_MAX:
                    return body
            if self._lists[level]:
                await self._spill(level)
            level += 1


def _named(stored: bytes) -> tuple[bytes, ChunkID]:
    return stored, chunk_id_of(stored)


def too_few_replicas(what: str, outcome: ChunkPut) -> IncompleteError:
    """The error for a chunk that did not reach its acks."""
    return IncompleteError(
        f"{what} reached {outcome.stored} of {outcome.asked} replicas, {outcome.needed} are needed"
        + reasons(outcome.failures),
        "see `p2pkv peers` and `p2pkv doctor`, then upload again: what arrived is not sent twice",
    )


def reasons(failures: list[ReplicaFailure], most: int = 4) -> str:
    """Which replicas failed and why, in one line."""
    told = "; ".join(f"{failure.address or failure.node[:8]}: {failure.reason}" for failure in failures[:most])
    more = f"; and {len(failures) - most} more" if len(failures) > most else ""
    return f" ({told}{more})" if told else ""
