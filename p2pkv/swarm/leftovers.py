"""What a read has found in split pages, on its way to their children: what lies below may be older.

Owns the memory of it, for one read, and its bound. A version stands in front of the older ones of its record, or in
their place; so what the read has passed outdates nothing any more and is forgotten. In reverse order of time it stands
in front of them as the reader sees it: there it has to be kept, and so has a write-once version, whose rank does not
follow its clock.
"""

from __future__ import annotations

from p2pkv.core.records import Cursor, Flag, Version, merge, rank
from p2pkv.core.replication import Identity, position
from p2pkv.limits import SPLIT_LEFTOVERS_ALL_MAX, SPLIT_LEFTOVERS_MAX, SPLIT_OPENED_RECORDS
from p2pkv.outcomes import Order


class Leftovers:
    """Of each record that was found, the version of the highest rank."""

    def __init__(self, order: Order, *, reverse: bool) -> None:
        self.pages = 1  # split pages that are being read
        self._order = order
        self._reverse = reverse
        self._all_kept = reverse and order == "time"
        self._found: dict[Identity, Version] = {}
        self._settled = SPLIT_LEFTOVERS_MAX  # beyond so many it is looked what may be forgotten

    def __len__(self) -> int:
        return len(self._found)

    @property
    def share_max(self) -> int:
        """How many records of one page may be read at once: the more pages are split, the fewer."""
        return max(SPLIT_OPENED_RECORDS, min(SPLIT_LEFTOVERS_MAX, SPLIT_LEFTOVERS_ALL_MAX // max(1, self.pages)))

    def add(self, version: Version) -> None:
        self._found[version.identity] = merge(self._found.get(version.identity), version)

    def outdate(self, version: Version) -> bool:
        """Does a newer version of the record stand in a page above?"""
        newest = self._found.get(version.identity) if self._found else None
        return newest is not None and newest != version and rank(newest) > rank(version)

    def pass_by(self, frontier: Cursor) -> None:
        """Everything before this position was given out."""
        if self._all_kept or len(self._found) <= self._settled:
            return
        self._found = {
            identity: version for identity, version in self._found.items() if self._counts(version, frontier)
        }
        self._settled = len(self._found) + max(SPLIT_LEFTOVERS_MAX, len(self._found) // 2)

    def _counts(self, version: Version, frontier: Cursor) -> bool:
        here = position(version, self._order)
        return bool(version.flags & Flag.ONCE) or (here <= frontier if self._reverse else here >= frontier)
