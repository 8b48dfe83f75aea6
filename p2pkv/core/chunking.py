"""Cutting content into chunks, and the bytes of one chunk.

A stored chunk is one codec byte and a payload; its id is the BLAKE3-256 hash of both together (p2pkv/ids.py says what
differs for 4 and 5).

    0  raw            payload = plain bytes
    1  zstd           payload = one zstd frame, window at most 1 MiB
    2  sealed raw     payload = sealed plain bytes   (core/sealing.py)
    3  sealed zstd    payload = sealed zstd frame
    4  stripe, 5 shard: of an erasure-coded chunk   (core/erasure.py)

Plain bytes are 1 to CHUNK_BYTES_MAX. The reader knows from the chunk list how many to expect, and never
decompresses beyond that. Owns no list of chunks (core/manifest.py) and does no IO.
"""

from __future__ import annotations

import sys
from typing import Protocol

from p2pkv.core.sealing import TAG_BYTES, Seal
from p2pkv.errors import DamagedError, InvalidError
from p2pkv.ids import Bytes
from p2pkv.limits import CHUNK_BYTES_MAX, KIB

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

RAW, ZSTD, SEALED_RAW, SEALED_ZSTD = range(4)
_SEALED = 2  # bit of the codec byte
SEALED_OVERHEAD_BYTES = 1 + TAG_BYTES

_LEVEL = 3
_SNIFF_BYTES = 8 * KIB  # of a larger chunk, at its beginning, middle and end
_WORTH = 31 / 32  # compressed content must be smaller than this part of the plain to be stored so
_WINDOW_LOG_MAX = 20  # a hostile frame may not make us allocate more than a chunk
_DECOMPRESS_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}


class Chunker(Protocol):
    """Cuts a stream into chunks. Sans-IO: what comes in by `feed` comes out whole, in order, by `feed` and `finish`."""

    def feed(self, data: bytes) -> list[bytes]: ...

    def finish(self) -> list[bytes]: ...


class FixedChunker:
    """Chunks of one size; the last may be shorter."""

    def __init__(self, chunk_bytes: int = CHUNK_BYTES_MAX) -> None:
        assert 0 < chunk_bytes <= CHUNK_BYTES_MAX
        self._chunk_bytes = chunk_bytes
        self._parts: list[bytes] = []
        self._held = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The chunks that became complete."""
        if not data:
            return []
        self._parts.append(data)
        self._held += len(data)
        if self._held < self._chunk_bytes:
            return []
        whole = b"".join(self._parts) if len(self._parts) > 1 else data
        end = self._held - self._held % self._chunk_bytes
        self._parts = [whole[end:]] if end < self._held else []
        self._held -= end
        return [whole[at : at + self._chunk_bytes] for at in range(0, end, self._chunk_bytes)]

    def finish(self) -> list[bytes]:
        """The rest, if any."""
        rest = b"".join(self._parts)
        self._parts, self._held = [], 0
        return [rest] if rest else []


def encode_chunk(plain: bytes, *, seal: Seal | None = None, offset: int = 0) -> bytes:
    """The stored form of a chunk. `offset` is where its plain bytes begin in the file; only sealing uses it."""
    assert len(plain) <= CHUNK_BYTES_MAX
    codec, payload = RAW, plain
    if looks_compressible(plain):
        compressed = zstd.compress(plain, _LEVEL)
        if len(compressed) < len(plain) * _WORTH:
            codec, payload = ZSTD, compressed
    if seal:
        codec |= _SEALED
        payload = seal.close(offset, codec, payload)
    return bytes([codec]) + payload


def plain_chunk(plain: bytes) -> bytes:
    """The stored form of a chunk that is not worth compressing."""
    assert len(plain) <= CHUNK_BYTES_MAX
    return bytes([RAW]) + plain


def decode_chunk(stored: Bytes, plain_bytes: int, *, seal: Seal | None = None, offset: int = 0) -> Bytes:
    """The plain bytes of a stored chunk, a view where it holds them as they are.

    Raises DamagedError unless they are exactly `plain_bytes` long.
    """
    assert 0 <= plain_bytes <= CHUNK_BYTES_MAX
    if not stored or stored[0] > SEALED_ZSTD:
        raise DamagedError("a chunk has an unknown codec", "update p2pkv: a newer version may have written it")
    codec, payload = stored[0], memoryview(stored)[1:]
    if bool(codec & _SEALED) != bool(seal):
        raise _key_error(sealed=bool(codec & _SEALED))
    if seal:
        payload = memoryview(seal.open(offset, codec, payload))
    plain = _decompress(payload, plain_bytes) if codec & ZSTD else payload
    if len(plain) != plain_bytes:
        raise DamagedError(f"a chunk has {len(plain)} bytes where its list says {plain_bytes}")
    return plain


def is_plain(stored: Bytes) -> bool:
    """Whether a stored chunk holds its plain bytes as they are: decoding it takes no time."""
    return len(stored) > 0 and stored[0] == RAW


def decode_list_chunk(stored: Bytes) -> bytes:
    """The encoded list in a chunk (core/manifest.py); never sealed. Raises DamagedError."""
    if not stored or stored[0] not in (RAW, ZSTD):
        raise DamagedError("a chunk list has an unknown codec", "update p2pkv: a newer version may have written it")
    plain = _decompress(stored[1:], CHUNK_BYTES_MAX) if stored[0] == ZSTD else bytes(stored[1:])
    if len(plain) > CHUNK_BYTES_MAX:
        raise DamagedError("a chunk list is longer than a chunk")
    return plain


def looks_compressible(plain: bytes) -> bool:
    """Whether a sample of the content shrinks. Compressing what does not costs most of an upload's time."""
    if len(plain) < 64:
        return False
    if len(plain) <= 4 * _SNIFF_BYTES:
        return True
    middle = len(plain) // 2
    sample = plain[:_SNIFF_BYTES] + plain[middle : middle + _SNIFF_BYTES] + plain[-_SNIFF_BYTES:]
    return len(zstd.compress(sample, 1)) < len(sample) * _WORTH


def _decompress(payload: Bytes, plain_bytes: int) -> bytes:
    decompressor = zstd.ZstdDecompressor(options=_DECOMPRESS_OPTIONS)
    try:
        plain = decompressor.decompress(payload, max_length=plain_bytes + 1)
    except zstd.ZstdError as error:
        raise DamagedError(f"a chunk does not decompress: {error}") from None
    if not decompressor.eof or decompressor.unused_data:
        raise DamagedError("a chunk does not decompress to what its list says")
    return plain


def _key_error(*, sealed: bool) -> InvalidError:
    if sealed:
        return InvalidError("the content is encrypted", "download it by its link: the key is behind the #")
    return InvalidError("the content is not encrypted", "download it by its name, without a key")
