"""Getting content out of the swarm: the pieces of a byte range, each fetched, checked and opened.

Owns the walk through chunk lists and the retries of one chunk. Writes nothing to disk and hashes no whole.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NamedTuple

import msgspec

from p2pkv.core.chunking import decode_chunk, decode_list_chunk, is_plain
from p2pkv.core.manifest import ChunkList, ChunkRef, Piece, decode_body, decode_list
from p2pkv.core.records import Flag, Version
from p2pkv.core.sealing import Seal, content_hasher
from p2pkv.errors import DamagedError, IncompleteError, InvalidError, NotFoundError, P2pkvError, RemoteError
from p2pkv.files.concurrency import Job, Offload, in_thread, run_jobs
from p2pkv.files.ports import Chunks
from p2pkv.ids import Bytes, ChunkID, is_stripe
from p2pkv.limits import CHUNK_BYTES_MAX, CHUNK_GET_ATTEMPTS_MAX, CHUNKS_IN_FLIGHT_MAX


class Content(msgspec.Struct, frozen=True):
    """Bytes that a record describes."""

    name: str  # for messages
    size_bytes: int
    inline: bytes | None  # the stored body where it lies in the record
    root: ChunkList | None  # where it lies in chunks
    hash: bytes = b""  # of the whole; empty where the record has none

    @classmethod
    def of(cls, version: Version, name: str = "", hash: bytes = b"") -> Content:
        """Raises DamagedError where the record is not well formed."""
        name = name or version.name.decode(errors="replace")
        if not version.flags & Flag.CHUNKED:
            return cls(name, version.size_bytes, version.body, None, hash)
        try:
            return cls(name, version.size_bytes, None, decode_body(version.body, version.size_bytes), hash)
        except RemoteError as error:
            raise DamagedError(f"{name}: its record is damaged ({error.detail})", "upload it again") from None


class Fetched(NamedTuple):
    """Plain bytes, and the id of the chunk that they came in where it holds them as they are."""

    data: Bytes
    plain_id: ChunkID | None


class PieceSource:
    """Reads one content."""

    def __init__(
        self, chunks: Chunks, content: Content, *, seal: Seal | None = None, offload: Offload = in_thread
    ) -> None:
        self.content = content
        self.seal = seal
        self._chunks = chunks
        self._offload = offload

    async def stream(self, start: int = 0, stop: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes [start, stop) in order, several chunks ahead; the whole is checked against its hash at its end."""
        stop = self.content.size_bytes if stop is None else stop
        whole = start == 0 and stop == self.content.size_bytes and bool(self.content.hash)
        hasher = content_hasher(self.seal)
        jobs = self._jobs(start, stop)
        async with aclosing(jobs), aclosing(run_jobs(jobs, limit=CHUNKS_IN_FLIGHT_MAX, ordered=True)) as parts:
            async for part in parts:
                if whole:
                    await self._offload(hasher.update, part)
                if part:
                    yield bytes(part)
        if whole and hasher.digest() != self.content.hash:
            raise self.damaged("the whole does not match its hash")

    async def pieces(self, start: int, stop: int) -> AsyncGenerator[Piece, None]:
        """The chunks of content that overlap [start, stop), in order. Content within the record has none."""
        if self.content.root is None or start >= stop:
            return
        above = [self.content.root.pieces(start, stop)]
        levels = [self.content.root.level]
        while above:
            piece = next(above[-1], None)
            if piece is None:
                above.pop()
                levels.pop()
            elif levels[-1] == 0:
                yield piece
            else:
                below = await self._list(piece, levels[-1] - 1)
                above.append(below.pieces(start, stop, piece.offset))
                levels.append(below.level)

    async def fetch(self, piece: Piece) -> Fetched:
        """The plain bytes of a piece."""
        stored = await self._get(piece)
        size_bytes = piece.ref.size_bytes
        try:
            if is_plain(stored):
                whole_id = None if is_stripe(piece.ref.id) else piece.ref.id
                return Fetched(decode_chunk(stored, size_bytes, seal=self.seal), whole_id)
            return Fetched(await self._offload(_decode, stored, size_bytes, self.seal, piece.offset), None)
        except P2pkvError as error:
            raise type(error)(f"{self.content.name}: at byte {piece.offset}: {error}", error.mend) from None

    def inline(self) -> bytes:
        """The plain bytes of content that lies within its record."""
        body, size_bytes = self.content.inline or b"", self.content.size_bytes
        if self.seal:
            if size_bytes > CHUNK_BYTES_MAX:
                raise self.damaged("its size is not that of its bytes")
            return bytes(decode_chunk(body, size_bytes, seal=self.seal))
        if len(body) != size_bytes:
            raise self.damaged("its size is not that of its bytes")
        return body

    def damaged(self, what: str) -> DamagedError:
        return DamagedError(f"{self.content.name}: {what}", "upload it again, or ask its author")

    async def list_chunks(self) -> AsyncGenerator[ChunkRef, None]:
        """Every chunk, those that hold lists included, each list before what it lists."""
        if self.content.root is None:
            return
        waiting = [(self.content.root.level, self.content.root)]
        while waiting:
            level, chunk_list = waiting.pop()
            offset = 0
            for ref in chunk_list.entries:
                yield ref
                if level:
                    waiting.append((level - 1, await self._list(Piece(offset, ref), level - 1)))
                offset += ref.size_bytes

    async def _jobs(self, start: int, stop: int) -> AsyncGenerator[Job[Bytes], None]:
        if self.content.root is None:
            yield lambda: self._inline_part(start, stop)
            return
        async for piece in self.pieces(start, stop):
            yield self._job(piece, start, stop)

    def _job(self, piece: Piece, start: int, stop: int) -> Job[Bytes]:
        return lambda: self._part(piece, start, stop)

    async def _part(self, piece: Piece, start: int, stop: int) -> Bytes:
        return cut((await self.fetch(piece)).data, piece.offset, start, stop)

    async def _inline_part(self, start: int, stop: int) -> bytes:
        return self.inline()[start:stop]

    async def _list(self, piece: Piece, level: int) -> ChunkList:
        stored = await self._get(piece)
        try:
            encoded = decode_list_chunk(stored)
            return decode_list(encoded, level=level, size_bytes=piece.ref.size_bytes)
        except (RemoteError, P2pkvError) as error:
            raise self.damaged(f"its chunk list is damaged ({error})") from None

    async def _get(self, piece: Piece) -> Bytes:
        """A chunk's stored bytes, asking again where it fails: peers come back, and other replicas have it."""
        failure: P2pkvError = IncompleteError("no answer")
        for attempt in range(CHUNK_GET_ATTEMPTS_MAX):
            try:
                return await self._chunks.get(piece.ref.id, attempt=attempt)
            except (IncompleteError, NotFoundError, DamagedError) as error:
                failure = error
        where = f"chunk {piece.ref.id.hex()[:12]} (byte {piece.offset})"
        raise IncompleteError(
            f"{self.content.name}: {where} cannot be fetched: {failure}",
            "try again when more peers are up; a download goes on where it stopped",
        ) from failure


def cut(plain: Bytes, offset: int, start: int, stop: int) -> Bytes:
    """The part of a piece's bytes, beginning at `offset` of the whole, that lies in [start, stop)."""
    if offset >= start and offset + len(plain) <= stop:
        return plain
    return plain[max(0, start - offset) : max(0, stop - offset)]


def check_key(name: str, flags: int, key: bytes | None, salt: bytes) -> Seal | None:
    """The seal to open content with. Raises InvalidError where the key is missing or for nothing."""
    if flags & Flag.SEALED:
        if key is None:
            raise InvalidError(f"{name} is encrypted", "use the link that the upload printed: the key is behind the #")
        return Seal(key, salt)
    if key is not None:
        raise InvalidError(f"{name} is not encrypted, and the link has a key", "somebody replaced it: ask its author")
    return None


def _decode(stored: Bytes, plain_bytes: int, seal: Seal | None, offset: int) -> Bytes:
    return decode_chunk(stored, plain_bytes, seal=seal, offset=offset)
