"""Identifiers and the distance between them.

Owns how a key, a chunk and a public key become points of the 160-bit id space. Knows nothing of what lies there.
"""

from __future__ import annotations

import hashlib
from typing import NewType

from blake3 import blake3

NodeID = NewType("NodeID", bytes)
"""20 bytes: where a peer stands in the id space."""
Place = NewType("Place", bytes)
"""20 bytes: where a page or a chunk belongs in the id space."""
ChunkID = NewType("ChunkID", bytes)
"""32 bytes: BLAKE3-256 of the chunk as it is stored and sent; of a stripe or shard, 28 of them and a mark."""
PublicKey = NewType("PublicKey", bytes)
"""32 bytes: an Ed25519 public key."""

ID_BYTES = 20
ID_BITS = 8 * ID_BYTES
CHUNK_ID_BYTES = 32
PUBLIC_KEY_BYTES = 32

_NODE_ID_CONTEXT = "p2pkv 2026 node id of an Ed25519 public key"


def place_of_key(key: bytes) -> Place:
    """SHA-1 of the key, the same place that a stock kademlia peer computes."""
    return Place(hashlib.sha1(key, usedforsecurity=False).digest())


def place_of_chunk(chunk_id: ChunkID) -> Place:
    """The first 160 bits of the chunk's hash."""
    return Place(chunk_id[:ID_BYTES])


Bytes = bytes | memoryview
"""A chunk's bytes: whole, or a view of memory that nobody changes any more."""

STRIPE, SHARD = 4, 5
"""Codec bytes that a chunk's id tells of: what such a chunk needs of its holders differs (p2pkv/core/erasure.py)."""
_MARKS = {STRIPE: b"\xffEC0", SHARD: b"\xffEC1"}
_HASHED_BYTES = CHUNK_ID_BYTES - 4


def chunk_id_of(stored: bytes | bytearray | memoryview) -> ChunkID:
    """The name of a chunk: the hash of its stored bytes, so whoever holds it can check it."""
    codec = stored[0] if stored else 0
    if codec == SHARD and len(stored) > 1:
        return shard_id(stored[1], shard_sum(memoryview(stored)[2:]))
    digest = blake3(stored).digest()
    if codec == STRIPE:
        return ChunkID(digest[:_HASHED_BYTES] + _MARKS[STRIPE])
    if digest.endswith(tuple(_MARKS.values())):  # by chance, once in 2,000 million chunks
        return ChunkID(digest[:-1] + b"\0")
    return ChunkID(digest)


def shard_sum(payload: Bytes) -> bytes:
    """What of a shard's id does not depend on its salt."""
    return blake3(payload).digest()


def shard_id(salt: int, payload_sum: bytes) -> ChunkID:
    """The id of a shard: another salt brings it to other peers, at next to no cost."""
    return ChunkID(blake3(bytes([SHARD, salt]) + payload_sum).digest(length=_HASHED_BYTES) + _MARKS[SHARD])


def is_stripe(chunk_id: bytes) -> bool:
    """Whether this is the id of a stripe chunk."""
    return chunk_id.endswith(_MARKS[STRIPE])


def is_shard(chunk_id: bytes) -> bool:
    """Whether this is the id of a shard: one peer keeps it."""
    return chunk_id.endswith(_MARKS[SHARD])


def node_id_of(public_key: PublicKey) -> NodeID:
    """A peer's NodeID. It can be proven by a signature and not be chosen freely."""
    return NodeID(blake3(public_key, derive_key_context=_NODE_ID_CONTEXT).digest(length=ID_BYTES))


def distance(a: bytes, b: bytes) -> int:
    """The XOR metric of Kademlia (Maymounkov and Mazières 2002, section 2.1)."""
    return int.from_bytes(a, "big") ^ int.from_bytes(b, "big")
