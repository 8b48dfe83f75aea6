"""Erasure codes: a chunk as N shards, any K of which bring it back.

A coded chunk is kept as a stripe chunk and its shards:

    4  stripe   payload = msgpack [needed K, bytes of the chunk, id of the chunk, [shard ids in order]]
    5  shard    payload = one byte of salt, then the shard: the chunk's part (the first K), or a Reed-Solomon check

The stripe chunk is small and kept by k peers like any chunk; each shard is kept by one. The first K shards put
together are the chunk, so a reader who gets them needs no arithmetic. A shard's salt has no meaning: it is chosen so
that the shards of a stripe belong to different peers. Ids of both say what they stand for (p2pkv/ids.py).

The arithmetic is pyeclib's (ISA-L), an optional extra. Does no IO, and knows no peers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any

import msgspec

from p2pkv.errors import DamagedError, InvalidError
from p2pkv.ids import CHUNK_ID_BYTES, SHARD, STRIPE, Bytes, ChunkID, chunk_id_of, shard_id, shard_sum
from p2pkv.limits import SHARD_SALTS, SHARDS_MAX, STORED_CHUNK_BYTES_MAX

try:
    from pyeclib.ec_iface import ECDriver
except ImportError:
    ECDriver = None

_CODE = re.compile(r"([1-9][0-9]?)/([1-9][0-9]?)")
_KIND = "isa_l_rs_cauchy"  # any K of N do, whatever K and N
_FRAGMENT_HEAD_BYTES = 80  # before each shard, as the library hands them out; it says nothing that a stripe does not

_Id = Annotated[ChunkID, msgspec.Meta(min_length=CHUNK_ID_BYTES, max_length=CHUNK_ID_BYTES)]


class Code(msgspec.Struct, frozen=True, array_like=True):
    """Any `needed` of `total` shards do. Written K/N."""

    needed: Annotated[int, msgspec.Meta(ge=1, lt=SHARDS_MAX)]
    total: Annotated[int, msgspec.Meta(ge=2, le=SHARDS_MAX)]

    @classmethod
    def parse(cls, text: str) -> Code:
        """Raises InvalidError."""
        found = _CODE.fullmatch(text.strip())
        needed, total = map(int, found.groups()) if found else (0, 0)
        if not 1 <= needed < total <= SHARDS_MAX:
            raise InvalidError(
                f"{text!r} is no erasure code", f"K/N, as 10/14: any K of N shards do; N is at most {SHARDS_MAX}"
            )
        return cls(needed, total)

    def __str__(self) -> str:
        return f"{self.needed}/{self.total}"

    def shard_bytes(self, size_bytes: int) -> int:
        """Of each shard of a chunk of this size."""
        return -(-size_bytes // self.needed)


class Stripe(msgspec.Struct, frozen=True, array_like=True):
    """What must be known of a coded chunk to bring it back."""

    needed: Annotated[int, msgspec.Meta(ge=1, lt=SHARDS_MAX)]
    size_bytes: Annotated[int, msgspec.Meta(ge=1, le=STORED_CHUNK_BYTES_MAX)]  # of the chunk as it is stored
    chunk_id: _Id  # of the chunk, which is kept nowhere whole
    shards: Annotated[list[_Id], msgspec.Meta(min_length=2, max_length=SHARDS_MAX)]

    @property
    def code(self) -> Code:
        return Code(self.needed, len(self.shards))

    def encode(self) -> bytes:
        """The stripe chunk."""
        return bytes([STRIPE]) + _encoder.encode(self)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Stripe)


def decode_stripe(stored: Bytes) -> Stripe:
    """Parse a stripe chunk. Raises DamagedError."""
    try:
        stripe = _decoder.decode(stored[1:])
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        raise DamagedError(f"a stripe is malformed: {error}") from None
    if stored[0] != STRIPE or stripe.needed >= len(stripe.shards):
        raise DamagedError("a stripe is malformed")
    return stripe


def has_library() -> bool:
    """Whether the arithmetic is installed."""
    return ECDriver is not None


def check_library() -> None:
    """Raises InvalidError where the arithmetic is not installed."""
    if not has_library():
        raise InvalidError("erasure codes need pyeclib, which is not installed", "pip install 'p2pkv[erasure]'")


class Shards(msgspec.Struct, frozen=True):
    """The shards of a chunk, before their salts are chosen."""

    code: Code
    chunk_id: ChunkID
    size_bytes: int
    payloads: list[bytes]
    sums: list[bytes]  # what a shard's id is made of, beside its salt

    def shard_id(self, index: int, salt: int) -> ChunkID:
        return shard_id(salt, self.sums[index])

    def stored(self, index: int, salt: int) -> bytes:
        """A shard as a chunk."""
        return bytes([SHARD, salt]) + self.payloads[index]

    def stripe(self, salts: Sequence[int]) -> Stripe:
        ids = [self.shard_id(index, salt) for index, salt in enumerate(salts)]
        return Stripe(self.code.needed, self.size_bytes, self.chunk_id, ids)


def code_chunk(stored: bytes, code: Code) -> Shards:
    """Cut a stored chunk into the shards of a code. Raises InvalidError where the library is missing."""
    check_library()
    payloads = _payloads(code, stored)
    return Shards(code, chunk_id_of(stored), len(stored), payloads, [shard_sum(payload) for payload in payloads])


def assemble(stripe: Stripe, shards: Mapping[int, Bytes]) -> Bytes:
    """The chunk, from at least K of its shards as they are stored. Raises DamagedError, InvalidError."""
    payloads = _checked(stripe, shards)
    if all(index in payloads for index in range(stripe.needed)):
        whole = b"".join(payloads[index] for index in range(stripe.needed))[: stripe.size_bytes]
    else:
        check_library()
        driver = _driver(stripe.code)
        whole = driver.decode(_fragments(stripe, payloads))[: stripe.size_bytes]
    if chunk_id_of(whole) != stripe.chunk_id:
        raise DamagedError("shards do not make up the chunk that their stripe names")
    return whole


def rebuild(stripe: Stripe, shards: Mapping[int, Bytes], wanted: Sequence[int]) -> dict[int, bytes]:
    """Shards that were lost, as they are stored, from at least K others. Raises DamagedError, InvalidError."""
    check_library()
    chunk = assemble(stripe, shards)
    payloads = _payloads(stripe.code, bytes(chunk))
    rebuilt: dict[int, bytes] = {}
    for index in wanted:
        total = shard_sum(payloads[index])
        fits = (salt for salt in range(SHARD_SALTS) if shard_id(salt, total) == stripe.shards[index])
        salt = next(fits, None)
        if salt is None:
            raise DamagedError("a stripe names shards that its chunk does not have")
        rebuilt[index] = bytes([SHARD, salt]) + payloads[index]
    return rebuilt


def _payloads(code: Code, stored: bytes) -> list[bytes]:
    size_bytes = code.shard_bytes(len(stored))
    return [
        fragment[_FRAGMENT_HEAD_BYTES : _FRAGMENT_HEAD_BYTES + size_bytes]
        for fragment in _driver(code).encode(stored.ljust(size_bytes * code.needed, b"\0"))
    ]


def _checked(stripe: Stripe, shards: Mapping[int, Bytes]) -> dict[int, Bytes]:
    """The payloads of shards. Their bytes were checked against their ids by whoever fetched them."""
    size_bytes = stripe.code.shard_bytes(stripe.size_bytes)
    payloads: dict[int, Bytes] = {}
    for index, shard in shards.items():
        if len(shard) != size_bytes + 2 or shard[0] != SHARD:
            raise DamagedError("a shard has another length than its stripe says")
        payloads[index] = memoryview(shard)[2:]
    if len(payloads) < stripe.needed:
        raise DamagedError(f"{len(payloads)} shards of a chunk that needs {stripe.needed}")
    return payloads


def _fragments(stripe: Stripe, payloads: Mapping[int, Bytes]) -> list[bytes]:
    """Shards with the heads that the library wants before them."""
    heads = _heads(stripe.code, stripe.code.shard_bytes(stripe.size_bytes))
    return [heads[index] + payload for index, payload in payloads.items()]


@lru_cache(maxsize=64)
def _heads(code: Code, shard_bytes: int) -> list[bytes]:
    fragments = _driver(code).encode(bytes(shard_bytes * code.needed))
    return [fragment[:_FRAGMENT_HEAD_BYTES] for fragment in fragments]


@lru_cache(maxsize=16)
def _driver(code: Code) -> Any:
    return ECDriver(k=code.needed, m=code.total - code.needed, ec_type=_KIND)
