"""Which parts of the id space this peer shares with which neighbours, as prefixes to compare with each of them.

Theory of operation. The replicas of a place depend on its first digits alone, down to the depth at which the peers
around differ. So the id space is cut by digits until all places of a part have the same replicas (four places of each
are looked at, in which every bit has both values; where they agree, so, nearly always, do the others). Two peers whose
ids differ late would have it cut very small; from some digits on what lies between such two is compared with both,
which costs a comparison in vain here and there.
A part that k others are nearer to in any case is not this peer's business. Parts next to each other that are shared
with the same neighbour are compared as one.

Owns the cutting. Knows nothing of what lies there, and asks nobody.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from p2pkv.core.reconciliation import CELL_DIGITS, DIGITS
from p2pkv.ids import ID_BITS, ID_BYTES
from p2pkv.limits import UPKEEP_PREFIX_DIGITS_MAX, UPKEEP_PREFIXES_MAX, UPKEEP_WHOLE_DIGITS
from p2pkv.swarm.contact import Contact

_PROBES = b"05af"  # the digits that the places looked at go on with
_PLACE_DIGITS = 2 * ID_BYTES


@dataclass
class Duties:
    """What this peer is a replica of."""

    shared: dict[Contact, list[bytes]] = field(default_factory=dict)  # the prefixes that are compared with each
    mine: set[bytes] = field(default_factory=lambda: {b""})  # all prefixes, no longer than a cell's

    def covers(self, cell: bytes) -> bool:
        """May a place of this cell (digits) be this peer's?"""
        return any(cell[:depth] in self.mine for depth in range(len(cell) + 1))


class Part(NamedTuple):
    """A part of the id space."""

    prefix: bytes
    mine: bool
    others: list[Contact]  # the other replicas where it is this peer's


class Parts:
    """The parts of the id space that a peer is a replica of."""

    def __init__(self, node_id: bytes, contacts: Iterable[Contact], k: int) -> None:
        """`contacts`: those nearest to this peer, several times k of them."""
        self._own = int.from_bytes(node_id, "big")
        self._contacts = {int.from_bytes(contact.id, "big"): contact for contact in contacts if contact.kind != "stock"}
        self._everybody = [*self._contacts, self._own]
        self._k = k

    def walk(self) -> Iterator[Part]:
        """This peer's parts, and others here and there, so that callers can take turns."""
        stack = [b""]
        while stack:
            prefix = stack.pop()
            if self._others_enough(prefix):
                continue
            digits = [_PROBES[index : index + 1] for index in range(len(_PROBES))]
            whole = {self._nearest((prefix + digit).ljust(_PLACE_DIGITS, digit)) for digit in digits}
            sets = whole if len(prefix) < UPKEEP_WHOLE_DIGITS else {self._nearest(prefix + digit) for digit in digits}
            if len(sets) > 1 and len(prefix) < UPKEEP_PREFIX_DIGITS_MAX:
                stack += [prefix + DIGITS[index : index + 1] for index in reversed(range(16))]
                yield Part(prefix, False, [])
                continue
            mine = [ids for ids in sets | whole if self._own in ids]
            others = sorted({number for ids in mine for number in ids} - {self._own})
            yield Part(prefix, bool(mine), [self._contacts[number] for number in others])

    def _nearest(self, digits: bytes) -> frozenset[int]:
        """The k peers nearest to the first place with these digits, this one among them where it is."""
        place = int(digits, 16) << (ID_BITS - 4 * len(digits))
        return frozenset(sorted(self._everybody, key=place.__xor__)[: self._k])  # a heap is slower for so few

    def _others_enough(self, prefix: bytes) -> bool:
        """Are k others nearer to every place below the prefix? All that share more digits with it than this peer."""
        if not prefix:
            return False
        place, width = int(prefix, 16) << (ID_BITS - 4 * len(prefix)), ID_BITS - 4 * len(prefix)
        apart = (place ^ self._own) >> width
        if not apart:
            return False
        nearer_below = 1 << (width + apart.bit_length() - 1)
        return sum((place ^ number) < nearer_below for number in self._contacts) >= self._k


def duties_of(parts: Iterable[Part]) -> Duties:
    """The parts to be compared with each neighbour, joined where all 16 of a node are."""
    shared: dict[Contact, set[bytes]] = defaultdict(set)
    mine: set[bytes] = set()
    for part in parts:
        if part.mine:
            mine.add(part.prefix[:CELL_DIGITS])
        for contact in part.others:
            shared[contact].add(part.prefix)
    prefixes = {contact: sorted(joined(prefixes))[:UPKEEP_PREFIXES_MAX] for contact, prefixes in shared.items()}
    return Duties(prefixes, mine)


def joined(prefixes: set[bytes]) -> set[bytes]:
    """The same places by as few prefixes as possible."""
    prefixes = set(prefixes)
    for depth in range(max(map(len, prefixes), default=0), 0, -1):
        children: dict[bytes, int] = defaultdict(int)
        for prefix in prefixes:
            if len(prefix) == depth:
                children[prefix[:-1]] += 1
        for parent in (parent for parent, count in children.items() if count == len(DIGITS)):
            prefixes -= {parent + DIGITS[index : index + 1] for index in range(16)}
            prefixes.add(parent)
    return prefixes
