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


_LEVELS: Final = {SIGNATURE_BYTES + 1 + levels * HASH_BYTES: levels for levels in range(LEVELS_MAX + 1)}
"""How high a tree is, by the length of its signatures."""
_Tree = dict[int, bytes]
"""Of the proven nodes, by their positions (1 is the root, 2n and 2n + 1 are the children of n): the hash, and behind it
those that its path goes on with."""


class Proofs:
    """Checks of batch signatures that climb no further than to a node of the tree that is proven already.

    What comes together was mostly signed together, so most versions need one or two hashes and not a whole path. The
    rest of a path is compared with the proven one: a replica must not keep what others could not verify.
    """

    def __init__(self, trees_max: int = BATCH_TREES_KEPT_MAX) -> None:
        self._trees: OrderedDict[bytes, _Tree] = OrderedDict()
        self._trees_max = trees_max
        self._last: tuple[bytes, bytes, _Tree] = b"", b"", {}  # the author, signature and tree that were asked for last

    def hold(self, author: bytes, signed: bytes, signature: bytes, root_signed: Callable[[bytes], bool]) -> bool:
        """Did the author sign this text? `root_signed` verifies the signature of a root, for a tree that is new."""
        levels = _LEVELS.get(len(signature))
        if levels is None or signature[SIGNATURE_BYTES] >> levels:
            return False
        last_author, of_root, tree = self._last
        if not signature.startswith(of_root) or author != last_author or not of_root:
            of_root = signature[:SIGNATURE_BYTES]
            tree = self._trees.get(author + of_root, {})
        position = 1 << levels | signature[SIGNATURE_BYTES]
        node, path = _leaf(signed), signature[SIGNATURE_BYTES + 1 :]
        proven = tree.get(position)
        if proven is not None:
            return proven == node + path
        climbed: _Tree = {}
        while proven is None and position > 1:
            sibling, behind = path[:HASH_BYTES], path[HASH_BYTES:]
            climbed[position], climbed[position ^ 1] = node + path, sibling + node + behind
            node = _node(sibling, node) if position & 1 else _node(node, sibling)
            path, position = behind, position >> 1
            proven = tree.get(position)
        if proven is None:
            if tree or not root_signed(node):
                return False
            climbed[position] = node
        elif proven != node + path:
            return False
        tree.update(climbed)
        if tree is not self._last[2]:
            self._keep(author, of_root, tree)
        return True

    def _keep(self, author: bytes, of_root: bytes, tree: _Tree) -> None:
        self._last = author, of_root, tree
        tree_id = author + of_root
        self._trees[tree_id] = tree
        self._trees.move_to_end(tree_id)
        if len(self._trees) > self._trees_max:
            self._trees.popitem(last=False)
