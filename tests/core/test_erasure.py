"""Erasure codes: any K of N shards bring a chunk back, and nothing else does."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pkv.core import erasure
from p2pkv.core.erasure import Code, Shards, Stripe, assemble, code_chunk, decode_stripe, rebuild
from p2pkv.errors import DamagedError, InvalidError
from p2pkv.ids import chunk_id_of, is_shard, is_stripe
from p2pkv.limits import SHARDS_MAX

CHUNK = random.Random(1).randbytes(10_001)
codes = st.integers(2, SHARDS_MAX).flatmap(lambda total: st.builds(Code, st.integers(1, total - 1), st.just(total)))


def stored(shards: Shards, indexes: list[int] | range) -> dict[int, bytes]:
    return {index: shards.stored(index, index) for index in indexes}


def stripe_of(shards: Shards) -> Stripe:
    return shards.stripe(range(shards.code.total))


@given(codes, st.binary(min_size=1, max_size=3000), st.randoms(use_true_random=False))
def test_any_needed_shards_bring_a_chunk_back(code: Code, chunk: bytes, rng: random.Random) -> None:
    shards = code_chunk(chunk, code)
    stripe = decode_stripe(stripe_of(shards).encode())
    some = rng.sample(range(code.total), rng.randint(code.needed, code.total))
    assert assemble(stripe, stored(shards, some)) == chunk


@given(codes, st.binary(min_size=1, max_size=3000), st.randoms(use_true_random=False))
def test_lost_shards_are_rebuilt_to_the_byte(code: Code, chunk: bytes, rng: random.Random) -> None:
    shards = code_chunk(chunk, code)
    left = rng.sample(range(code.total), code.needed)
    lost = sorted(set(range(code.total)) - set(left))
    assert rebuild(stripe_of(shards), stored(shards, left), lost) == stored(shards, lost)


def test_ids_say_what_they_stand_for() -> None:
    shards = code_chunk(CHUNK, Code(3, 5))
    stripe = stripe_of(shards)
    assert is_stripe(chunk_id_of(stripe.encode()))
    for index in range(5):
        assert chunk_id_of(shards.stored(index, index)) == stripe.shards[index] == shards.shard_id(index, index)
        assert is_shard(stripe.shards[index])
    assert not is_shard(chunk_id_of(CHUNK))
    assert not is_stripe(chunk_id_of(CHUNK))
    assert shards.shard_id(0, 1) != shards.shard_id(0, 2)


def test_a_shard_takes_its_part_of_the_chunk_and_two_bytes() -> None:
    shards = code_chunk(CHUNK, Code(10, 14))
    assert {len(shards.stored(index, 0)) for index in range(14)} == {1001 + 2}


def test_too_few_shards_are_said_to_be_too_few() -> None:
    shards = code_chunk(CHUNK, Code(3, 5))
    with pytest.raises(DamagedError, match="2 shards of a chunk that needs 3"):
        assemble(stripe_of(shards), stored(shards, [0, 4]))


@pytest.mark.parametrize("some", [[0, 1, 2], [2, 3, 4]])
def test_shards_of_another_chunk_are_noticed(some: list[int]) -> None:
    shards, other = code_chunk(CHUNK, Code(3, 5)), code_chunk(CHUNK[::-1], Code(3, 5))
    mixed = stored(shards, some) | stored(other, some[-1:])
    with pytest.raises(DamagedError, match="do not make up the chunk"):
        assemble(stripe_of(shards), mixed)
    with pytest.raises(DamagedError):
        rebuild(stripe_of(shards), mixed, [0])


def test_a_shard_of_another_length_is_noticed() -> None:
    shards = code_chunk(CHUNK, Code(3, 5))
    with pytest.raises(DamagedError, match="another length"):
        assemble(stripe_of(shards), stored(shards, [0, 1]) | {2: shards.stored(2, 2)[:-1]})


@given(st.binary(max_size=200))
def test_a_stripe_of_a_stranger_parses_or_is_damaged(payload: bytes) -> None:
    with contextlib.suppress(DamagedError):
        stripe = decode_stripe(b"\x04" + payload)
        assert 1 <= stripe.needed < len(stripe.shards) <= SHARDS_MAX


@given(st.data())
def test_a_stripe_with_bytes_changed_never_gives_another_chunk(data: st.DataObject) -> None:
    shards = code_chunk(CHUNK, Code(3, 5))
    encoded = bytearray(stripe_of(shards).encode())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(DamagedError):
        assert chunk_id_of(assemble(decode_stripe(bytes(encoded)), stored(shards, range(3)))) == chunk_id_of(CHUNK)


@pytest.mark.parametrize("text", ["10/14", " 1/2 ", "31/32"])
def test_a_code_is_written_as_it_is_read(text: str) -> None:
    assert str(Code.parse(text)) == text.strip()


@pytest.mark.parametrize("text", ["", "10", "4/4", "5/4", "0/3", "10/33", "1/-2", "10/14/18", "a/b"])
def test_what_is_no_code_is_refused(text: str) -> None:
    with pytest.raises(InvalidError, match="no erasure code"):
        Code.parse(text)


def test_without_the_library_whole_chunks_are_read_and_the_rest_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shards = code_chunk(CHUNK, Code(3, 5))
    monkeypatch.setattr(erasure, "ECDriver", None)
    assert assemble(stripe_of(shards), stored(shards, range(3))) == CHUNK
    with pytest.raises(InvalidError, match="pyeclib") as caught:
        assemble(stripe_of(shards), stored(shards, [1, 2, 3]))
    assert "p2pkv[erasure]" in caught.value.mend
    with pytest.raises(InvalidError, match="pyeclib"):
        code_chunk(CHUNK, Code(3, 5))
