"""Which parts of the id space this peer shares with which neighbours, as prefixes to compare with each of them.

Theory of operation. The replicas of a place depend on its first digits alone, down to the depth at which the peers
around differ. So the id space is cut by digits until all places of a part have the same replicas (four places of each
are looked at; where they agree, so, nearly always, do the others; a place that does not costs a comparison in vain).
A part with k peers in it and not this one is not its business. Parts next to each other that are shared with the same
neighbour are compared as one.

Owns the cutting. Knows nothing of what lies there, and asks nobody.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from p2pkv.core.reconciliation import DIGITS
from p2pkv.ids import ID_BYTES, Place
from p2pkv.limits import UPKEEP_PREFIX_DIGITS_MAX
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.neighbourhood import Neighbourhood

_PROBES = b"05af"  # the digits that the places looked at go on with
_PLACE_DIGITS = 2 * ID_BYTES

Duties = dict[Contact, list[bytes]]
"""The prefixes that this peer shares with each neighbour."""


def parts_of(neighbourhood: Neighbourhood, contacts: Iterable[Contact]) -> Iterator[tuple[bytes, list[Contact]]]:
    """The parts of the id space that this peer is a replica of, each with the other replicas.

    `contacts` is everybody known. It yields an empty list at parts that are not this peer's, so that a caller can take
    its time.
    """
    ids = sorted(contact.id for contact in contacts if contact.kind != "stock")
    stack = [b""]
    while stack:
        prefix = stack.pop()
        if _others_enough(prefix, ids, neighbourhood):
            continue
        places = [Place(bytes.fromhex((prefix.ljust(_PLACE_DIGITS, bytes([probe]))).decode())) for probe in _PROBES]
        views = {neighbourhood.view(place)[0] for place in places}
        if len(views) > 1 and len(prefix) < UPKEEP_PREFIX_DIGITS_MAX:
            stack += [prefix + DIGITS[index : index + 1] for index in reversed(range(16))]
            yield prefix, []
            continue
        mine = any(neighbourhood.keeps(place) for place in places)
        replicas = {contact.id: contact for place in places for contact in neighbourhood.nearest(place)}
        yield prefix, list(replicas.values()) if mine else []


def _others_enough(prefix: bytes, ids: Sequence[bytes], neighbourhood: Neighbourhood) -> bool:
    """Are there k other peers below the prefix, and not this one?"""
    low = bytes.fromhex(prefix.ljust(_PLACE_DIGITS, b"0").decode())
    high = bytes.fromhex(prefix.ljust(_PLACE_DIGITS, b"f").decode())
    if low <= neighbourhood.node_id <= high:
        return False
    return bisect_left(ids, high) - bisect_left(ids, low) >= neighbourhood.k


def by_contact(parts: Iterable[tuple[bytes, list[Contact]]]) -> Duties:
    """The parts to be compared with each neighbour, joined where all 16 of a node are."""
    shared: dict[Contact, set[bytes]] = defaultdict(set)
    for prefix, contacts in parts:
        for contact in contacts:
            shared[contact].add(prefix)
    return {contact: sorted(joined(prefixes)) for contact, prefixes in shared.items()}


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
