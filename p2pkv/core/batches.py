"""One signature for many versions: the author signs the root of a Merkle tree over a batch.

Layout of a batch signature: Ed25519 signature of the root (64) | number of the leaf (1) | sibling hashes from the leaf
up (16 each). A plain signature is the 64 bytes alone, so the length tells them apart, and each version is verifiable
by itself wherever it goes. A leaf is the first 16 bytes of BLAKE3(0x00 | signed bytes), a node of
BLAKE3(0x01 | left | right); a level of odd length repeats its last hash. What is signed is a context and the root.
16 bytes withstand a second preimage, which is all that a forger of another's batch could use.

Owns the tree and its bytes. Signs and verifies no signature by itself.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from blake3 import blake3

from p2pkv.limits import BATCH_SIGNED_MAX, BATCH_TREES_KEPT_MAX

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


_Tree = dict[int, tuple[bytes, bytes]]
"""The proven nodes and the hashes that their paths go on with, by their positions: 1 is the root, 2n and 2n + 1 are
the children of n."""


class Proofs:
    """Checks of batch signatures that climb no further than to a node of the tree that is proven already.

    What comes together was mostly signed together, so most versions need one or two hashes and not a whole path. The
    rest of a path is compared with the proven one: a replica must not keep what others could not verify.
    """

    def __init__(self, trees_max: int = BATCH_TREES_KEPT_MAX) -> None:
        self._trees: OrderedDict[bytes, _Tree] = OrderedDict()
        self._trees_max = trees_max
        self._last: tuple[bytes, _Tree] = b"", {}  # the tree that was asked for last, and by what it is called

    def hold(self, author: bytes, signed: bytes, signature: bytes, root_signed: Callable[[bytes], bool]) -> bool:
        """Did the author sign this text? `root_signed` verifies the signature of a root, for a tree that is new."""
        begin = SIGNATURE_BYTES + 1  # of the path
        levels, rest = divmod(len(signature) - begin, HASH_BYTES)
        if levels < 0 or rest or levels > LEVELS_MAX or signature[SIGNATURE_BYTES] >> levels:
            return False
        tree_id = author + signature[:SIGNATURE_BYTES]
        last_id, tree = self._last
        if last_id != tree_id:
            tree = self._trees.get(tree_id, {})
        position, node = 1 << levels | signature[SIGNATURE_BYTES], _leaf(signed)
        climbed: list[tuple[int, bytes, int, bytes]] = []
        while (proven := tree.get(position)) is None and position > 1:
            sibling = signature[begin : begin + HASH_BYTES]
            climbed.append((position, node, begin, sibling))
            node = _node(sibling, node) if position & 1 else _node(node, sibling)
            begin, position = begin + HASH_BYTES, position >> 1
        if proven is None:
            if tree or not root_signed(node):
                return False
            tree[position] = node, b""
        elif proven != (node, signature[begin:]):
            return False
        for position, node, begin, sibling in climbed:
            tree[position] = node, signature[begin:]
            tree[position ^ 1] = sibling, node + signature[begin + HASH_BYTES :]
        if last_id != tree_id:
            self._keep(tree_id, tree)
        return True

    def _keep(self, tree_id: bytes, tree: _Tree) -> None:
        self._last = tree_id, tree
        self._trees[tree_id] = tree
        self._trees.move_to_end(tree_id)
        if len(self._trees) > self._trees_max:
            self._trees.popitem(last=False)
