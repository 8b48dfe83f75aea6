"""One page that is being opened with others: who may be asked of it, what they said, and whether that opens it.

Theory of operation. A page is open as soon as a read quorum of every view of its replicas says the same, and something.
Where they differ, or nobody has anything, which is odd, all are asked; what they say then is given out as it is, for
the reader to settle. Of replicas that are silent, or long enough in doubt, no more can be had: so a page of which too
few others are left is open with whoever stands in for them, as a lookup would have it. Never are all replaced.

Owns what is known of one page. Asks nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from p2pkv.core.replication import read_quorum, within
from p2pkv.core.views import Views
from p2pkv.ids import distance
from p2pkv.messages import FindRecords, FindRecordsReply
from p2pkv.outcomes import Order
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.runs import Asked
from p2pkv.swarm.sources import Opening, Source, view_of


class Page:
    """What is known of it so far."""

    __slots__ = (
        "asked",
        "done",
        "heard",
        "here",
        "opening",
        "quorum",
        "request",
        "silent",
        "spares",
        "strangers",
        "views",
        "waiting",
        "waits",
    )

    def __init__(
        self,
        request: FindRecords,
        views: Views,
        here: bool,
        spares: list[Contact],
        silent: set[bytes],
    ) -> None:
        self.request = request
        self.views = views
        self.here = here
        self.spares = spares  # replicas that are not asked yet
        self.silent = silent  # replicas that are not asked, as they were silent lately; ids
        self.asked: set[bytes] = set()
        self.heard: dict[bytes, tuple[Source, FindRecordsReply]] = {}
        self.strangers: dict[bytes, tuple[Source, FindRecordsReply]] = {}  # who answered and is no replica
        self.waiting: dict[Contact, Asked] = {}
        self.opening: Opening | None = None
        self.quorum = read_quorum(views.k)
        self.waits = False  # do versions wait in batches?
        self.done = False

    def hear(self, contact: Contact, source: Source, reply: FindRecordsReply) -> bool:
        """Take an answer. True where it shows another view of the replicas than those that were known.

        Somebody who is none of the replicas, or knows too few peers to tell, is not heard, but that view counts.
        """
        view = view_of(contact.id, reply)
        if view and len(view) != self.views.k:
            return False
        (self.heard if reply.mine else self.strangers)[contact.id] = source, reply
        self.waits = self.waits or bool(reply.batches)
        return bool(view) and self.views.add(view)

    def judge(self) -> bool:
        """Is it open, or can it not be opened so? False where more answers must be had, whatever they say."""
        if self.waits:
            self.done = True
            return True
        quorum = self.quorum
        if len(self.heard) < quorum or self.views.unmet(self.heard.keys()):
            return False
        split = any(reply.split for _, reply in self.heard.values())
        agreeing = list(self.heard) if split else self.views.cover(self._agreeing())
        if agreeing and (split or not self._odd):
            sources, replies = zip(*(self.heard[node_id] for node_id in agreeing), strict=True)
            self.opening = Opening(list(sources), list(replies), self.views.k, quorum, enough=list(sources))
            self.done = True
        return True

    @property
    def _odd(self) -> bool:
        """Does nobody have anything, from the page's beginning?"""
        request = self.request
        begins = request.after is None and not request.prefix
        return begins and all(not reply.versions and reply.end is None for _, reply in self.heard.values())

    def conclude(self, in_doubt: Callable[[Contact], bool]) -> None:
        """Nobody else is waited for: open it with what was said, if that is enough.

        Whoever was not heard, of a view that lacks its quorum, must be silent, or in doubt.
        """
        live = {contact.id for contact in self.waiting if not in_doubt(contact)}
        doubted = {*self.silent, *(contact.id for contact in self.waiting)} - live
        if self.waits or not self.heard or not self.views.lacking(self.heard.keys()) <= doubted:
            return
        answers = [*self.heard.values(), *(self._standing_in(live) if len(self.heard) < self.quorum else ())]
        if len(answers) < self.quorum:
            return
        sources, replies = [source for source, _ in answers], [reply for _, reply in answers]
        enough = [self.heard[node_id][0] for node_id in self.views.cover(list(self.heard))] or sources
        self.opening = Opening(sources, replies, self.views.k, self.quorum, enough=enough, everybody=True)

    def _standing_in(self, live: Collection[bytes]) -> list[tuple[Source, FindRecordsReply]]:
        """What those say who are among the k nearest now that others are in doubt."""
        known = sorted({*self.heard, *self.strangers, *live}, key=lambda node_id: distance(node_id, self.request.place))
        return [self.strangers[node_id] for node_id in known[: self.views.k] if node_id in self.strangers]

    def _agreeing(self) -> list[bytes]:
        """Those who say the same as most do, where nobody else has anything beside it."""
        groups: dict[tuple[bytes, bool], list[bytes]] = {}
        for node_id, (_, reply) in self.heard.items():
            groups.setdefault((reply.digest, reply.more), []).append(node_id)
        if len(groups) == 1:
            return list(self.heard)
        group = max(groups.values(), key=len)
        agreed = self.heard[group[0]][1]
        others = [reply for node_id, (_, reply) in self.heard.items() if node_id not in group]
        return [] if any(self._beside(agreed, other) for other in others) else group

    def _beside(self, agreed: FindRecordsReply, other: FindRecordsReply) -> bool:
        """Does the other hold something, as far as the agreed run goes, that is not in it?"""
        order: Order = "name" if self.request.by_name else "time"
        end = agreed.end if agreed.more else None
        known = set(agreed.versions)
        return any(
            version not in known and within(version, order, None, end, reverse=self.request.reverse)
            for version in other.versions
        )
