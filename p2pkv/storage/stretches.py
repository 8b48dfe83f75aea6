"""Pages as items to compare with other replicas: what counts, and how it is called.

Owns what replicas of a page must have in common. Reads nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from p2pkv.core.reconciliation import item_of
from p2pkv.core.records import Flag, Version, content_hash
from p2pkv.ids import Place
from p2pkv.storage.interface import Held


def itemize(place: Place, key: bytes, versions: Iterable[Version]) -> dict[bytes, Held]:
    """What other replicas of a page should hold too, by item.

    Values of stock peers are not: their peers publish them again. Nor are the records of a split page, which are on
    their way to its children; of such a page the marker alone counts.
    """
    if not key:
        return {}
    named = [version for version in versions if version.name]
    markers = [version for version in named if version.flags & Flag.SPLIT]
    return {item_of(place, content_hash(version)): Held(place, key, version) for version in markers or named}
