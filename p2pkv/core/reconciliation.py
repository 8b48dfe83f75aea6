"""What two replicas hold in common, compared at a cost that follows what differs.

Theory of operation. Everything held is a set of items of 10 bytes: the first two bytes of the place, then a hash of the
place and the content. An item says what it stands for to whoever holds it. The items form a tree of hexadecimal digits;
a node is called by its prefix, and its digest is a hash of its children's digests, deep down of the items themselves.
One peer asks another about prefixes and says its digest of each. The answer is that they are the same, or the digests
of the children, or, where few items lie below, these items. So the asker descends only where something differs
(range-based set reconciliation, Meyer 2023, with ranges fixed by digits), and ends with the items that it lacks.

An asker only ever learns what itself lacks. Both peers ask in their turn, so in the end both hold all.

Digests are kept per node and forgotten when a cell (the items of one prefix of four digits) changes: keeping a million
items takes 10 MB, and a comparison without differences one digest.

Owns the tree and the walk. Never knows records, chunks, messages, time or peers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from blake3 import blake3

from p2pkv.errors import RemoteError
from p2pkv.limits import COMPARE_ITEMS_MAX, COMPARE_PREFIXES_MAX, COMPARE_WHOLE_ITEMS_MAX

CELL_BYTES: Final = 2
CELL_DIGITS: Final = 2 * CELL_BYTES
MARK_BYTES: Final = 8
ITEM_BYTES: Final = CELL_BYTES + MARK_BYTES
ITEM_DIGITS: Final = 2 * ITEM_BYTES
DIGEST_BYTES: Final = 8
EMPTY: Final = b""  # the digest of a node without items
DIGITS: Final = b"0123456789abcdef"

SAME: Final = 0
CHILDREN: Final = 1  # bitmap of two bytes, then the digest of each child that holds something
ITEMS: Final = 2  # all items of the node


def item_of(place: bytes, content: bytes) -> bytes:
    """The item of something that lies at a place, told apart from all else there by `content`."""
    return place[:CELL_BYTES] + blake3(place + content).digest(length=MARK_BYTES)


def items_in(data: bytes) -> list[bytes]:
    """Items that stand one behind the other. Raises RemoteError where the length is wrong."""
    if len(data) % ITEM_BYTES:
        raise RemoteError("malformed", "items of a wrong length")
    return [data[start : start + ITEM_BYTES] for start in range(0, len(data), ITEM_BYTES)]


def check_prefix(prefix: bytes) -> None:
    """Raise RemoteError where a prefix named by a peer is none."""
    if len(prefix) > ITEM_DIGITS or prefix.strip(DIGITS):
        raise RemoteError("malformed", "no prefix")


class Part(NamedTuple):
    """The answer about one prefix."""

    kind: int
    data: bytes


class Inventory:
    """The items of one peer."""

    def __init__(self) -> None:
        self._cells: dict[bytes, bytes] = {}  # by the digits of the cell; sorted, joined
        self._counts: dict[bytes, int] = {}  # of every node down to the cells that holds something
        self._digests: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return self._counts.get(b"", 0)

    def set_cell(self, cell: bytes, items: Iterable[bytes]) -> bool:
        """Say what a cell (two bytes) holds from now on; True where that is a change."""
        return self._set(cell.hex().encode(), b"".join(sorted(set(items))))

    def change_cell(self, cell: bytes, changes: Mapping[bytes, bool]) -> bool:
        """Say of some items of a cell whether they are held from now on; True where that is a change."""
        digits = cell.hex().encode()
        before = self._cells.get(digits, b"")
        parts: list[bytes] = []
        at = 0  # items of before that are dealt with
        for item in sorted(changes):
            low = _place_of(item, before, at)
            parts.append(before[at * ITEM_BYTES : low * ITEM_BYTES])
            if changes[item]:
                parts.append(item)
            at = low + (before[low * ITEM_BYTES : (low + 1) * ITEM_BYTES] == item)
        parts.append(before[at * ITEM_BYTES :])
        return self._set(digits, b"".join(parts))

    def _set(self, digits: bytes, joined: bytes) -> bool:
        before = self._cells.get(digits, b"")
        if joined == before:
            return False
        growth = (len(joined) - len(before)) // ITEM_BYTES
        for depth in range(CELL_DIGITS + 1):
            self._grow(digits[:depth], growth)
        if joined:
            self._cells[digits] = joined
        else:
            del self._cells[digits]
        return True

    def _grow(self, prefix: bytes, growth: int) -> None:
        self._digests.pop(prefix, None)
        self._counts[prefix] = self._counts.get(prefix, 0) + growth
        if not self._counts[prefix]:
            del self._counts[prefix]

    def cells(self) -> list[bytes]:
        """The digits of all cells that hold something."""
        return list(self._cells)

    def count(self, prefix: bytes) -> int:
        if len(prefix) <= CELL_DIGITS:
            return self._counts.get(prefix, 0)
        low, high = self._span(prefix)
        return high - low

    def digest(self, prefix: bytes) -> bytes:
        """8 bytes that are the same where two peers hold the same below a prefix; empty where nothing is held."""
        if len(prefix) > CELL_DIGITS:
            return _hash(self._slice(prefix))
        if prefix not in self._counts:
            return EMPTY
        digest = self._digests.get(prefix)
        if digest is None:
            digest = self._digests[prefix] = self._make_digest(prefix)
        return digest

    def _make_digest(self, prefix: bytes) -> bytes:
        if len(prefix) == CELL_DIGITS:
            return _hash(self._slice(prefix))
        return _hash(b"".join(digit + digest for digit, digest in self.children(prefix)))

    def children(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The digits of the children that hold something, and their digests."""
        if len(prefix) >= CELL_DIGITS:
            yield from self._children_in_cell(prefix)
            return
        for index in range(16):
            digit = DIGITS[index : index + 1]
            digest = self.digest(prefix + digit)
            if digest:
                yield digit, digest

    def _children_in_cell(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The same below a cell, whose items stand in order: each child begins where the one before it ends."""
        held = self._cells.get(prefix[:CELL_DIGITS], b"")
        low, end = self._span(prefix)
        for index in range(16):
            behind = bytes.fromhex((prefix + DIGITS[index + 1 : index + 2]).ljust(ITEM_DIGITS, b"0").decode())
            high = _place_of(behind, held, low) if index < 15 else end
            if high > low:
                yield DIGITS[index : index + 1], _hash(held[low * ITEM_BYTES : high * ITEM_BYTES])
            low = high

    def items(self, prefix: bytes) -> bytes:
        """All items below a prefix, in order."""
        if len(prefix) >= CELL_DIGITS:
            return self._slice(prefix)
        nodes = (DIGITS[index : index + 1] for index in range(16))
        return b"".join(self.items(prefix + digit) for digit in nodes if self.count(prefix + digit))

    def has(self, item: bytes) -> bool:
        held = self._cells.get(item[:CELL_BYTES].hex().encode(), b"")
        at = _place_of(item, held, 0) * ITEM_BYTES
        return held[at : at + ITEM_BYTES] == item

    def _slice(self, prefix: bytes) -> bytes:
        low, high = self._span(prefix)
        return self._cells[prefix[:CELL_DIGITS]][low * ITEM_BYTES : high * ITEM_BYTES] if high > low else b""

    def _span(self, prefix: bytes) -> tuple[int, int]:
        """Which items of its cell a prefix covers."""
        held = self._cells.get(prefix[:CELL_DIGITS], b"")
        count = len(held) // ITEM_BYTES
        if len(prefix) == CELL_DIGITS:
            return 0, count
        lowest = bytes.fromhex(prefix.ljust(ITEM_DIGITS, b"0").decode())
        highest = bytes.fromhex(prefix.ljust(ITEM_DIGITS, b"f").decode())
        low = _place_of(lowest, held, 0)
        high = _place_of(highest, held, low)
        return low, high + (held[high * ITEM_BYTES : (high + 1) * ITEM_BYTES] == highest)

    def answer(self, prefix: bytes, theirs: bytes) -> Part:
        """What to tell a peer whose digest below the prefix is `theirs`."""
        if self.digest(prefix) == theirs:
            return Part(SAME, b"")
        few = COMPARE_ITEMS_MAX if theirs else COMPARE_WHOLE_ITEMS_MAX
        if self.count(prefix) <= few or len(prefix) >= ITEM_DIGITS:
            return Part(ITEMS, self.items(prefix))
        bitmap, digests = 0, b""
        for digit, digest in self.children(prefix):
            bitmap |= 1 << DIGITS.index(digit)
            digests += digest
        return Part(CHILDREN, bitmap.to_bytes(2, "big") + digests)


class Walk:
    """One peer's descent through what another holds."""

    def __init__(self, own: Inventory, prefixes: Sequence[bytes]) -> None:
        self.surplus: list[bytes] = []  # what the other lacks, as far as the walk has come
        self._own = own
        self._open = deque(prefixes)

    def questions(self) -> list[tuple[bytes, bytes]]:
        """Prefixes to ask about next, each with this peer's digest; none where the walk has ended."""
        asked = [self._open.popleft() for _ in range(min(COMPARE_PREFIXES_MAX, len(self._open)))]
        return [(prefix, self._own.digest(prefix)) for prefix in asked]

    def take(self, questions: Sequence[tuple[bytes, bytes]], parts: Sequence[Part]) -> list[bytes]:
        """Take the answers to the first questions (the others are asked again); the items that this peer lacks."""
        if not 0 < len(parts) <= len(questions):
            raise RemoteError("misbehaved", "a wrong number of answers")
        lacking: list[bytes] = []
        deeper: list[bytes] = [prefix for prefix, _ in questions[len(parts) :]]
        for (prefix, _), part in zip(questions, parts, strict=False):
            if part.kind == ITEMS:
                lacking += self._lacking(prefix, part.data)
            elif part.kind == CHILDREN:
                deeper += self._differing(prefix, part.data)
        self._open.extendleft(reversed(deeper))
        return lacking

    def _lacking(self, prefix: bytes, data: bytes) -> list[bytes]:
        theirs = items_in(data)
        if any(not item.hex().encode().startswith(prefix) for item in theirs):
            raise RemoteError("misbehaved", "items that do not lie below the prefix")
        own, there = items_in(self._own.items(prefix)), set(theirs)
        self.surplus += [item for item in own if item not in there]
        here = set(own)
        return [item for item in theirs if item not in here]

    def _differing(self, prefix: bytes, data: bytes) -> list[bytes]:
        if len(prefix) >= ITEM_DIGITS:
            raise RemoteError("misbehaved", "an item has no children")
        bitmap = int.from_bytes(data[:2], "big")
        digits = [DIGITS[index : index + 1] for index in range(16) if bitmap >> index & 1]
        if len(data) != 2 + DIGEST_BYTES * len(digits):
            raise RemoteError("misbehaved", "a wrong number of digests")
        for absent in (DIGITS[index : index + 1] for index in range(16) if not bitmap >> index & 1):
            self.surplus += items_in(self._own.items(prefix + absent))
        digests = [data[start : start + DIGEST_BYTES] for start in range(2, len(data), DIGEST_BYTES)]
        children = zip(digits, digests, strict=True)
        return [prefix + digit for digit, digest in children if self._own.digest(prefix + digit) != digest]


def _place_of(item: bytes, joined: bytes, low: int) -> int:
    """Where an item stands, or would stand, among sorted ones that are joined; not before `low`."""
    high = len(joined) // ITEM_BYTES
    while low < high:
        middle = (low + high) // 2
        if joined[middle * ITEM_BYTES : (middle + 1) * ITEM_BYTES] < item:
            low = middle + 1
        else:
            high = middle
    return low


def _hash(data: bytes) -> bytes:
    return blake3(data).digest(length=DIGEST_BYTES) if data else EMPTY
