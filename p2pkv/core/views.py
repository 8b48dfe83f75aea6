"""Whom a read must hear where peers differ about who a page's replicas are.

Theory of operation. A writer counts its majority among those that it takes for the page's replicas: it leaves out whom
it takes for dead, and others stand in for them. A read that hears a read quorum of its own picture of the replicas
meets every majority of that picture, but perhaps none of another one. So whoever answers names its picture where it
differs from the reader's (a view), and the read is sure only of what it heard a read quorum of every view of. Views
that differ in a few dead peers have most members in common, so mostly the same few answers meet all of them.

Peers that differ about newcomers may each know one that the others do not. What a lookup would find, the nearest of
all that anybody named, counts as one more view.

Owns this arithmetic. Asks nobody, and judges no answer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet

from p2pkv.core.replication import read_quorum

View = frozenset[bytes]
"""NodeIDs of those who are taken for a page's replicas."""


class Views:
    """All that is believed of one page's replicas."""

    __slots__ = ("_all", "_named", "_place", "k")

    def __init__(self, place: bytes, k: int, own: Iterable[bytes]) -> None:
        """`own`: the reader's view."""
        self.k = k
        self._place = place
        self._named = {View(own)}
        self._all = self._with_quorums(self._named)

    def add(self, view: Iterable[bytes]) -> bool:
        """Somebody has this view; was it a new one?"""
        ids = View(view)
        if ids in self._named:
            return False
        self._named.add(ids)
        point = int.from_bytes(self._place, "big")
        named = sorted(View().union(*self._named), key=lambda node_id: int.from_bytes(node_id, "big") ^ point)
        self._all = self._with_quorums({*self._named, View(named[: self.k])})
        return True

    @staticmethod
    def _with_quorums(views: Collection[View]) -> dict[View, int]:
        return {view: read_quorum(len(view)) for view in views}

    @property
    def agree(self) -> bool:
        """Has everybody the reader's view?"""
        return len(self._all) == 1

    def unmet(self, heard: AbstractSet[bytes]) -> list[View]:
        """The views of which these are no read quorum."""
        return [view for view, quorum in self._all.items() if len(view & heard) < quorum]

    def lacking(self, heard: AbstractSet[bytes]) -> AbstractSet[bytes]:
        """Who was not heard of these."""
        return View().union(*self.unmet(heard)) - heard

    def naming(self, node_id: bytes) -> int:
        """In how many views is a peer?"""
        return sum(node_id in view for view in self._all)

    def cover(self, heard: Sequence[bytes]) -> list[bytes]:
        """A few of these that are a read quorum of every view; empty where all of them are not."""
        if self.unmet(set(heard)):
            return []
        if self.agree:
            ((view, quorum),) = self._all.items()
            return [node_id for node_id in heard if node_id in view][:quorum]
        chosen: list[bytes] = []
        for node_id in sorted(heard, key=self.naming, reverse=True):
            unmet = self.unmet(set(chosen))
            if any(node_id in view for view in unmet):
                chosen.append(node_id)
        return chosen
