"""Cutting, and the bytes of one chunk."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pkv.core.chunking import (
    RAW,
    SEALED_RAW,
    SEALED_ZSTD,
    ZSTD,
    FixedChunker,
    decode_chunk,
    decode_list_chunk,
    encode_chunk,
    zstd,
)
from p2pkv.core.sealing import Seal, content_hasher
from p2pkv.errors import DamagedError, InvalidError, P2pkvError
from p2pkv.ids import chunk_id_of
from p2pkv.limits import CHUNK_BYTES_MAX, MIB, STORED_CHUNK_BYTES_MAX

SEAL = Seal(b"k" * 32, b"s" * 16)
NOISE = b"".join(chunk_id_of(n.to_bytes(4, "big")) for n in range(MIB // 32))
contents = st.binary(max_size=5000) | st.builds(
    lambda part, times: part * times, st.binary(max_size=50), st.integers(0, 500)
)
seals = st.sampled_from([None, SEAL])


@given(st.lists(st.binary(max_size=300)), st.integers(1, 100))
def test_a_chunker_gives_back_what_it_was_fed_in_chunks_of_its_size(blocks: list[bytes], size: int) -> None:
    chunker = FixedChunker(size)
    chunks = [chunk for block in blocks for chunk in chunker.feed(block)] + chunker.finish()
    assert b"".join(chunks) == b"".join(blocks)
    assert all(len(chunk) == size for chunk in chunks[:-1])
    assert all(0 < len(chunk) <= size for chunk in chunks)


@given(contents, seals, st.integers(0, 1 << 62))
def test_a_chunk_comes_back_equal(plain: bytes, seal: Seal | None, offset: int) -> None:
    stored = encode_chunk(plain, seal=seal, offset=offset)
    assert len(stored) <= len(plain) + 64
    assert decode_chunk(stored, len(plain), seal=seal, offset=offset) == plain


@pytest.mark.parametrize(
    ("plain", "seal", "codec"),
    [
        (NOISE, None, RAW),
        (b"text " * 200_000, None, ZSTD),
        (NOISE, SEAL, SEALED_RAW),
        (bytes(MIB), SEAL, SEALED_ZSTD),
        (b"short", None, RAW),
    ],
)
def test_the_codec_is_the_one_that_pays_and_full_chunks_fit(plain: bytes, seal: Seal | None, codec: int) -> None:
    stored = encode_chunk(plain, seal=seal)
    assert stored[0] == codec
    assert len(stored) <= STORED_CHUNK_BYTES_MAX
    assert decode_chunk(stored, len(plain), seal=seal) == plain


@given(st.binary(max_size=200), st.integers(0, 1000), seals)
def test_any_bytes_either_decode_to_the_announced_length_or_are_called_damaged(
    stored: bytes, plain_bytes: int, seal: Seal | None
) -> None:
    with contextlib.suppress(P2pkvError):
        assert len(decode_chunk(stored, plain_bytes, seal=seal)) == plain_bytes


@given(contents, st.data())
def test_a_flipped_bit_never_passes_a_seal(plain: bytes, data: st.DataObject) -> None:
    stored = bytearray(encode_chunk(plain, seal=SEAL))
    at = data.draw(st.integers(0, len(stored) * 8 - 1))
    stored[at // 8] ^= 1 << at % 8
    with pytest.raises(P2pkvError):
        decode_chunk(bytes(stored), len(plain), seal=SEAL)


def test_a_sealed_chunk_opens_only_in_its_place_and_with_its_key_and_salt() -> None:
    stored = encode_chunk(b"secret", seal=SEAL, offset=MIB)
    assert b"secret" not in stored
    for seal, offset in ((SEAL, 0), (Seal(b"K" * 32, b"s" * 16), MIB), (Seal(b"k" * 32, b"S" * 16), MIB)):
        with pytest.raises(DamagedError, match="key"):
            decode_chunk(stored, 6, seal=seal, offset=offset)
    with pytest.raises(InvalidError, match="encrypted"):
        decode_chunk(stored, 6)
    with pytest.raises(InvalidError, match="not encrypted"):
        decode_chunk(encode_chunk(b"open"), 4, seal=SEAL)


def test_the_hash_of_sealed_content_does_not_betray_it() -> None:
    assert len({content_hasher(seal).update(b"yes").digest() for seal in (None, SEAL, Seal(b"k" * 32, b"t" * 16))}) == 3


@pytest.mark.parametrize(
    "frame",
    [
        zstd.compress(bytes(200 * MIB), 3),  # a bomb
        zstd.compress(bytes(999)),  # one byte short of the list's word
        zstd.compress(bytes(1000)) + b"more",
        zstd.compress(bytes(1000))[:-1],
        zstd.compress(NOISE[:1000] * 3000, options={zstd.CompressionParameter.window_log: 24}),  # wants 16 MiB
        b"",
    ],
)
def test_hostile_frames_are_damaged_and_decompress_no_further_than_announced(frame: bytes) -> None:
    with pytest.raises(DamagedError):
        decode_chunk(bytes([ZSTD]) + frame, 1000)
    if len(frame) > 2000:
        with pytest.raises(DamagedError):
            decode_list_chunk(bytes([ZSTD]) + frame)


def test_a_list_chunk_is_never_sealed_nor_longer_than_a_chunk() -> None:
    assert decode_list_chunk(encode_chunk(b"a list " * 100)) == b"a list " * 100
    for stored in (b"", b"\x02sealed", b"\x00" + bytes(CHUNK_BYTES_MAX + 1)):
        with pytest.raises(DamagedError):
            decode_list_chunk(stored)
