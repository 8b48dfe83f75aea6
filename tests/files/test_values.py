"""Long values of plain records, and chunk lists level upon level."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pkv.core.chunking import FixedChunker
from p2pkv.core.manifest import ChunkList, ChunkRef, decode_body
from p2pkv.core.records import Flag, Version
from p2pkv.errors import DamagedError, IncompleteError
from p2pkv.files import values
from p2pkv.files.concurrency import at_once
from p2pkv.files.fetching import Content, PieceSource
from p2pkv.files.values import load_value, store_value
from p2pkv.ids import ChunkID, chunk_id_of
from p2pkv.limits import BODY_BYTES_MAX, CHUNKS_IN_FLIGHT_MAX, MIB
from tests.files.conftest import World
from tests.files.fakes import AUTHOR, FakeChunks
from tests.files.test_transfer import stream


def version_of(stored: tuple[int, int, bytes]) -> Version:
    flags, size_bytes, body = stored
    return Version(b"name", 1, AUTHOR, flags, 0, size_bytes, body)


async def load(version: Version, chunks: FakeChunks) -> bytes:
    return b"".join([part async for part in load_value(version, chunks)])


@pytest.mark.parametrize("size_bytes", [0, 1, 1024, 1025, MIB, MIB + 1, 20 * MIB])
async def test_a_value_comes_back_equal(world: World, size_bytes: int) -> None:
    data = world.noise(size_bytes)
    for given_as in (data, stream(data)):
        stored = await store_value(given_as, world.chunks)
        assert stored[1] == size_bytes
        assert len(stored[2]) <= BODY_BYTES_MAX
        assert bool(stored[0] & Flag.CHUNKED) is (size_bytes > 1024)
        assert await load(version_of(stored), world.chunks) == data


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 4000), st.integers(30, 200), st.integers(2, 30), st.data())
def test_lists_go_level_upon_level_and_any_range_comes_back(
    size_bytes: int, chunk_bytes: int, entries_max: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, size_bytes))
    stop = data.draw(st.integers(start, size_bytes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(values, "CHUNK_LIST_ENTRIES_MAX", entries_max)
        patch.setattr(values, "CHUNK_LIST_LEVELS_MAX", 99)
        patch.setattr(values, "BODY_BYTES_MAX", 100)
        patch.setattr(values, "INLINE_BYTES_MAX", 10)
        patch.setattr(values, "FixedChunker", lambda: FixedChunker(chunk_bytes))
        patch.setattr("p2pkv.core.manifest.CHUNK_LIST_LEVELS_MAX", 99)
        asyncio.run(_round_trip(size_bytes, chunk_bytes, entries_max, start, stop))


async def _round_trip(size_bytes: int, chunk_bytes: int, entries_max: int, start: int, stop: int) -> None:
    chunks = FakeChunks()
    plain = b"".join(chunk_id_of(n.to_bytes(4, "big")) for n in range(size_bytes // 32 + 1))[:size_bytes]
    chunks.delay_of = lambda chunk_id: chunk_id[0] % 7
    stored = await store_value(plain, chunks, offload=at_once)
    version = version_of(stored)
    if stored[0] & Flag.CHUNKED and decode_depth(version) > 3:
        return  # deeper than the wire allows: only reachable with these tiny lists
    source = PieceSource(chunks, Content.of(version), offload=at_once)
    found = b"".join([part async for part in source.stream(start, stop)])
    assert found == plain[start:stop]
    listed = {ref.id async for ref in source.list_chunks()}
    assert listed == set(chunks.stored)


def decode_depth(version: Version) -> int:
    import msgspec

    return int(msgspec.msgpack.decode(version.body)[0])


async def test_a_reader_that_stops_leaves_nothing_running_and_reads_ahead_within_bounds(world: World) -> None:
    stored = await store_value(world.noise(40 * MIB), world.chunks)
    async with aclosing(PieceSource(world.chunks, Content.of(version_of(stored))).stream()) as parts:
        assert len(await anext(parts)) == MIB
        assert len(world.chunks.gets) <= CHUNKS_IN_FLIGHT_MAX + 3
    assert world.chunks.running == 0


async def test_a_failing_source_is_the_callers_error(world: World) -> None:
    async def breaks() -> AsyncIterator[bytes]:
        yield world.noise(3 * MIB)
        raise ConnectionResetError("the client went away")

    with pytest.raises(ConnectionResetError):
        await store_value(breaks(), world.chunks)
    assert world.chunks.running == 0


async def test_hostile_lists_are_damaged_values(world: World) -> None:
    def record(body: bytes, size_bytes: int) -> Version:
        return version_of((int(Flag.CHUNKED), size_bytes, body))

    async def names_chunk(stored: bytes, level: int, size_bytes: int) -> Version:
        chunk_id = chunk_id_of(stored)
        world.chunks.stored[chunk_id] = stored
        return record(ChunkList.of(level, [ChunkRef(chunk_id, size_bytes)]).encode(), size_bytes)

    loop = ChunkList.of(1, [ChunkRef(ChunkID(bytes(32)), 5)]).encode()
    for version in (
        record(b"garbage", 5),
        await names_chunk(b"\x00" + loop, 1, 5),  # a list of its own level
        await names_chunk(b"\x00garbage", 1, 5),
        await names_chunk(b"\x00four", 0, 5),
        await names_chunk(b"\x09fives", 0, 5),
        version_of((0, 7, b"not seven")),
    ):
        with pytest.raises(DamagedError):
            await load(version, world.chunks)
    with pytest.raises(IncompleteError):
        await load(record(ChunkList.of(0, [ChunkRef(ChunkID(bytes(32)), 5)]).encode(), 5), world.chunks)


async def test_a_body_is_a_list_of_content_chunks(world: World) -> None:
    _flags, size_bytes, body = await store_value(world.noise(3 * MIB), world.chunks)
    listed = decode_body(body, size_bytes)
    assert listed.level == 0
    assert {ref.id for ref in listed.entries} == set(world.chunks.stored)
