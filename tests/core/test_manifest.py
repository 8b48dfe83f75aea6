"""Chunk lists and file metas: what parses, and what a stranger's bytes do."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pkv.core.erasure import Code
from p2pkv.core.manifest import (
    ChunkList,
    ChunkRef,
    FileMeta,
    Kind,
    decode_body,
    decode_list,
    decode_meta,
)
from p2pkv.errors import RemoteError
from p2pkv.ids import ChunkID
from p2pkv.limits import BODY_BYTES_MAX, CHUNK_BYTES_MAX, CHUNK_LIST_ENTRIES_MAX, CHUNK_LIST_LEVELS_MAX, META_BYTES_MAX

ids = st.binary(min_size=32, max_size=32).map(ChunkID)
sizes = st.integers(1, CHUNK_BYTES_MAX)
lists = st.builds(
    ChunkList.of, st.integers(0, CHUNK_LIST_LEVELS_MAX - 1), st.lists(st.builds(ChunkRef, ids, sizes), min_size=1)
)
metas = st.builds(
    FileMeta,
    st.sampled_from(Kind),
    st.integers(-(1 << 62), 1 << 62),
    st.integers(0, 0o7777),
    st.sampled_from([b"", b"h" * 32]),
    st.integers(0, 64),
    st.integers(0, 1 << 62),
    st.binary(max_size=16),
)
REF = [b"i" * 32, 5]


def pack(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


@given(lists)
def test_a_list_comes_back_equal(chunk_list: ChunkList) -> None:
    encoded = chunk_list.encode()
    assert decode_list(encoded, level=chunk_list.level, size_bytes=chunk_list.size_bytes) == chunk_list
    if len(encoded) <= BODY_BYTES_MAX:
        assert decode_body(encoded, chunk_list.size_bytes) == chunk_list


@given(lists, st.data(), st.integers(0, 1 << 40))
def test_pieces_are_exactly_those_that_overlap_the_range(chunk_list: ChunkList, data: st.DataObject, base: int) -> None:
    start = data.draw(st.integers(0, chunk_list.size_bytes)) + base
    stop = data.draw(st.integers(0, chunk_list.size_bytes)) + base
    expected, offset = [], base
    for ref in chunk_list.entries:
        if offset < stop and offset + ref.size_bytes > start:
            expected.append((offset, ref))
        offset += ref.size_bytes
    found = [(piece.offset, piece.ref) for piece in chunk_list.pieces(start, stop, base)]
    assert found == (expected if start < stop else [pair for pair in found if pair in expected])


def test_the_longest_list_fits_a_chunk() -> None:
    ref = ChunkRef(ChunkID(b"i" * 32), (1 << 63) // CHUNK_LIST_ENTRIES_MAX)
    assert len(ChunkList.of(1, [ref] * CHUNK_LIST_ENTRIES_MAX).encode()) <= CHUNK_BYTES_MAX


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        pack([0, [], 0]),
        pack([0, [REF], 6]),  # does not add up
        pack([0, [[b"i" * 31, 5]], 5]),
        pack([0, [[b"i" * 32, 0]], 0]),
        pack([0, [[b"i" * 32, -5], [b"i" * 32, 10]], 5]),
        pack([0, [[b"i" * 32, CHUNK_BYTES_MAX + 1]], CHUNK_BYTES_MAX + 1]),
        pack([CHUNK_LIST_LEVELS_MAX, [REF], 5]),
        pack([-1, [REF], 5]),
        pack([0, [REF] * (CHUNK_LIST_ENTRIES_MAX + 1), 5 * (CHUNK_LIST_ENTRIES_MAX + 1)]),
        pack([0, [REF], 5]) + b"more",
        b"\x91" * 100_000,
        pack({"level": 0}),
    ],
)
def test_what_is_no_list_is_malformed(data: bytes) -> None:
    with pytest.raises(RemoteError, match="malformed"):
        decode_list(data)


def test_a_list_must_be_the_one_that_was_announced() -> None:
    encoded = ChunkList.of(1, [ChunkRef(ChunkID(b"i" * 32), 5)]).encode()
    for wrong in ({"level": 0}, {"size_bytes": 6}):
        with pytest.raises(RemoteError, match="announced"):
            decode_list(encoded, **wrong)
    with pytest.raises(RemoteError):
        decode_body(encoded, 4)
    with pytest.raises(RemoteError):
        decode_body(ChunkList.of(0, [ChunkRef(ChunkID(b"i" * 32), 5)] * 30).encode(), 150)


@given(metas)
def test_a_meta_comes_back_equal_and_is_small(meta: FileMeta) -> None:
    assert decode_meta(meta.encode()) == meta
    assert len(meta.encode()) <= META_BYTES_MAX


def test_a_meta_of_the_future_or_the_past_is_read() -> None:
    future = pack([0, 5, 0o600, b"", 0, 0, b"", [2, 3], "a new field", {"and": "another"}])
    assert decode_meta(future) == FileMeta(Kind.FILE, 5, 0o600, code=Code(2, 3))
    assert decode_meta(pack([1])) == FileMeta(Kind.FOLDER)


@pytest.mark.parametrize("code", [[3, 3], [0, 3], [2, 33], [2], "2/3"])
def test_a_code_that_is_none_is_malformed(code: object) -> None:
    with pytest.raises(RemoteError, match="file meta"):
        decode_meta(pack([0, 5, 0o600, b"", 0, 0, b"", code]))


@given(
    st.binary(max_size=600)
    | st.builds(pack, st.lists(st.integers(-(1 << 63), (1 << 64) - 1) | st.binary(max_size=40), max_size=9))
)
def test_any_bytes_parse_or_are_malformed(data: bytes) -> None:
    for decode in (decode_list, decode_meta, lambda body: decode_body(body, 5)):
        try:
            decode(data)
        except RemoteError as error:
            assert error.code == "malformed"
