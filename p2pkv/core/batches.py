"""One signature for many versions: the author signs the root of a Merkle tree over a batch.

Layout of a batch signature: Ed25519 signature of the root (64) | number of the leaf (1) | sibling hashes from the leaf
up (16 each). A plain signature is the 64 bytes alone, so the length tells them apart, and each version is verifiable
by itself wherever it goes. A leaf is the first 16 bytes of BLAKE3(0x00 | signed bytes), a node of
BLAKE3(0x01 | left | right); a level of odd length repeats its last hash. What is signed is a context and the root.
16 bytes withstand a second preimage, which is all that a forger of another's batch could use.

Owns the tree and its bytes. Signs and verifies nothing by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from blake3 import blake3

from p2pkv.limits import BATCH_SIGNED_MAX

ROOT_CONTEXT: Final = b"p2pkv batch of versions 1\x00"
SIGNATURE_BYTES: Final = 64
HASH_BYTES: Final = 16
LEVELS_MAX: Final = (BATCH_SIGNED_MAX - 1).bit_length()


def _leaf(signed: bytes) -> bytes:
    return blake3(b"\x00" + signed).digest(length=HASH_BYTES)


def _node(left: bytes, right: bytes) -> bytes:
    return blake3(b"\x01" + left + right).digest(length=HASH_BYTES)


def root_text(root: bytes) -> bytes:
    """What the author of a batch signs."""
    return ROOT_CONTEXT + root


class Batch:
    """The tree over what the author signs of each version."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        """1 to BATCH_SIGNED_MAX texts."""
        self._levels = [[_leaf(text) for text in texts]]
        while len(self._levels[-1]) > 1:
            level = self._levels[-1]
            if len(level) % 2:
                level.append(level[-1])
            self._levels.append([_node(level[i], level[i + 1]) for i in range(0, len(level), 2)])

    @property
    def root(self) -> bytes:
        return self._levels[-1][0]

    def signature(self, index: int, of_root: bytes) -> bytes:
        """The signature of one version, from the signature of the root."""
        path = [level[(index >> height) ^ 1] for height, level in enumerate(self._levels[:-1])]
        return b"".join((of_root, index.to_bytes(1, "big"), *path))


def root_of(signed: bytes, signature: bytes) -> bytes | None:
    """The root that a batch signature leads to; None where it has not the shape of one."""
    path_bytes = len(signature) - SIGNATURE_BYTES - 1
    if path_bytes < 0 or path_bytes % HASH_BYTES or path_bytes > LEVELS_MAX * HASH_BYTES:
        return None
    index, node = signature[SIGNATURE_BYTES], _leaf(signed)
    if index >> (path_bytes // HASH_BYTES):
        return None
    for offset in range(SIGNATURE_BYTES + 1, len(signature), HASH_BYTES):
        sibling = signature[offset : offset + HASH_BYTES]
        node = _node(sibling, node) if index & 1 else _node(node, sibling)
        index >>= 1
    return node
