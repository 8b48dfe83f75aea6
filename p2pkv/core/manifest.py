"""What a record says about content that does not lie in it: chunk lists, and what a file is beside its bytes.

A chunk list is msgpack `[level, [[chunk id, bytes], ...], total bytes]`. On level 0 an entry is a chunk of content and
its plain bytes. On level n an entry is a chunk that holds an encoded list of level n-1, and `bytes` is that
list's total. A record's body (flag CHUNKED) is a list of at most BODY_BYTES_MAX; what does not fit goes up a level.

A file's meta is msgpack `[kind, mtime ns, mode, hash, replicas, chunks, salt]`, and behind them `[K, N]` where the
chunks of content in the list are stripes (core/erasure.py); unknown fields behind it are ignored.
The content of a file record is the file's; of a symbolic link, its target in UTF-8; of a folder, nothing.

Whatever a stranger wrote either parses within the limits or raises RemoteError("malformed"), never anything else.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from enum import IntEnum
from itertools import accumulate
from typing import Annotated

import msgspec

from p2pkv.core.erasure import Code
from p2pkv.core.records import SIZE_BYTES_MAX
from p2pkv.core.sealing import SALT_BYTES
from p2pkv.errors import RemoteError
from p2pkv.ids import CHUNK_ID_BYTES, ChunkID
from p2pkv.limits import (
    BODY_BYTES_MAX,
    CHUNK_BYTES_MAX,
    CHUNK_LIST_ENTRIES_MAX,
    CHUNK_LIST_LEVELS_MAX,
    K_MAX,
    META_BYTES_MAX,
)

_HASH_BYTES = 32
_MTIME_NS_MAX = (1 << 63) - 1

_Id = Annotated[ChunkID, msgspec.Meta(min_length=CHUNK_ID_BYTES, max_length=CHUNK_ID_BYTES)]
_Size = Annotated[int, msgspec.Meta(ge=1, le=SIZE_BYTES_MAX)]


class ChunkRef(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One entry of a chunk list."""

    id: _Id
    size_bytes: _Size  # plain content bytes that it stands for


class Piece(msgspec.Struct, frozen=True, gc=False):
    """An entry and where its content begins in the whole."""

    offset: int
    ref: ChunkRef

    @property
    def end(self) -> int:
        return self.offset + self.ref.size_bytes


class ChunkList(msgspec.Struct, array_like=True, frozen=True):
    """The ordered chunks of a value, or of a part of it."""

    level: Annotated[int, msgspec.Meta(ge=0, lt=CHUNK_LIST_LEVELS_MAX)]
    entries: Annotated[list[ChunkRef], msgspec.Meta(min_length=1, max_length=CHUNK_LIST_ENTRIES_MAX)]
    size_bytes: _Size

    @classmethod
    def of(cls, level: int, entries: list[ChunkRef]) -> ChunkList:
        return cls(level, entries, sum(entry.size_bytes for entry in entries))

    def encode(self) -> bytes:
        return _encoder.encode(self)

    def pieces(self, start: int, stop: int, base: int = 0) -> Iterator[Piece]:
        """The entries that overlap the bytes [start, stop) of the whole, where this list begins at byte `base`."""
        ends = list(accumulate((entry.size_bytes for entry in self.entries), initial=base))
        for index in range(max(0, bisect_right(ends, start) - 1), len(self.entries)):
            if ends[index] >= stop:
                return
            if ends[index + 1] > start:
                yield Piece(ends[index], self.entries[index])


class Kind(IntEnum):
    FILE = 0
    FOLDER = 1
    LINK = 2


class FileMeta(msgspec.Struct, array_like=True, frozen=True):
    """What a file is beside its bytes."""

    kind: Kind
    mtime_ns: Annotated[int, msgspec.Meta(ge=-_MTIME_NS_MAX, le=_MTIME_NS_MAX)] = 0
    mode: Annotated[int, msgspec.Meta(ge=0, le=0o7777)] = 0o644
    hash: Annotated[bytes, msgspec.Meta(max_length=_HASH_BYTES)] = b""  # of the whole plain content; keyed if sealed
    replicas: Annotated[int, msgspec.Meta(ge=0, le=K_MAX)] = 0  # wanted; 0: as many as the swarm keeps
    chunks: Annotated[int, msgspec.Meta(ge=0, le=SIZE_BYTES_MAX)] = 0  # of content
    salt: Annotated[bytes, msgspec.Meta(max_length=SALT_BYTES)] = b""  # of sealed content (core/sealing.py)
    code: Code | None = None  # of its chunks

    def encode(self) -> bytes:
        fields = msgspec.structs.astuple(self)
        encoded = _encoder.encode(fields if self.code else fields[:-1])
        assert len(encoded) <= META_BYTES_MAX
        return encoded


_encoder = msgspec.msgpack.Encoder()
_list_decoder = msgspec.msgpack.Decoder(ChunkList)
_meta_decoder = msgspec.msgpack.Decoder(FileMeta)
_DECODE_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError)


def decode_list(data: bytes, *, level: int | None = None, size_bytes: int | None = None) -> ChunkList:
    """Parse a chunk list. `level` and `size_bytes`: what its parent, or its record, says that it must be."""
    try:
        parsed = _list_decoder.decode(data)
    except _DECODE_ERRORS as error:
        raise RemoteError("malformed", f"chunk list: {error}") from None
    if sum(entry.size_bytes for entry in parsed.entries) != parsed.size_bytes:
        raise RemoteError("malformed", "chunk list: sizes do not add up")
    if parsed.level == 0 and any(entry.size_bytes > CHUNK_BYTES_MAX for entry in parsed.entries):
        raise RemoteError("malformed", "chunk list: a chunk is too long")
    if level not in (None, parsed.level) or size_bytes not in (None, parsed.size_bytes):
        raise RemoteError("malformed", "chunk list: not the one that was announced")
    return parsed


def decode_body(body: bytes, size_bytes: int) -> ChunkList:
    """The chunk list in a record whose value has `size_bytes`."""
    if len(body) > BODY_BYTES_MAX:
        raise RemoteError("malformed", "chunk list: too long for a record")
    return decode_list(body, size_bytes=size_bytes)


def decode_meta(data: bytes) -> FileMeta:
    """Parse a file's meta."""
    if len(data) > META_BYTES_MAX:
        raise RemoteError("malformed", "file meta: too long")
    try:
        meta = _meta_decoder.decode(data)
    except _DECODE_ERRORS as error:
        raise RemoteError("malformed", f"file meta: {error}") from None
    if len(meta.hash) not in (0, _HASH_BYTES):
        raise RemoteError("malformed", "file meta: hash of a wrong length")
    if meta.code is not None and meta.code.needed >= meta.code.total:
        raise RemoteError("malformed", "file meta: no erasure code")
    return meta
