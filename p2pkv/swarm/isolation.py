"""Is this peer cut off from most of the swarm? Then it must not take those that it still hears for all there are.

Theory of operation. Peers die one by one; where half of all that this peer knew fall silent within a short time, the
network has parted, and this is not the side of the majority. From then on nothing that it says of records would be
complete, and what it stored the majority would not see. That ends when it hears most of them again: nearly all, so that
it knows who the replicas of each page are, or some time later, as the rest may be dead. It also ends when they have
been gone for so long that they must be. In a swarm that is not larger than the number of replicas nothing of this is
needed: there the quorums count the silent too (`Lookups.require_swarm`).

Owns this judgement. Sends nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from p2pkv.errors import IncompleteError
from p2pkv.limits import CUT_OFF_CHECK_S, CUT_OFF_HEARD_SHARE, CUT_OFF_WITHIN_S, LOST_S, RETURNED_S
from p2pkv.swarm.contact import Contact


class Known(Protocol):
    """Whom this peer knows."""

    def contacts(self) -> list[Contact]: ...


class Silences(Protocol):
    """Who was silent lately."""

    def __len__(self) -> int: ...
    def is_silent(self, contact: Contact) -> bool: ...


class Isolation:
    """Watches how many of the known fall silent together."""

    def __init__(self, table: Known, silences: Silences, k: int) -> None:
        self._table = table
        self._silences = silences
        self._k = k
        self._checked_s = float("-inf")
        self._cut_off_s: float | None = None  # since when
        self._before = 0  # how many others were known then
        self._back_s: float | None = None  # since when most of them are heard again

    def require_majority(self, former: Collection[Contact], now_s: float) -> None:
        """Raise IncompleteError where this peer is cut off. `former`: contacts that were evicted for their silence."""
        if self._cut_off_s is None and not len(self._silences) and not former:
            return
        if now_s >= self._checked_s + CUT_OFF_CHECK_S:
            self._checked_s = now_s
            self._judge(former, now_s)
        if self._cut_off_s is not None:
            raise IncompleteError(
                f"this peer is cut off: most of the {self._before} others that it knew are silent",
                "check its network, or ask a peer on the other side",
            )

    def _judge(self, former: Collection[Contact], now_s: float) -> None:
        contacts = self._table.contacts()
        heard = [contact for contact in contacts if not self._silences.is_silent(contact)]
        if self._cut_off_s is not None:
            self._judge_end(len(heard), now_s)
            return
        known = {contact.id for contact in contacts}
        gone = {c.id for c in former if c.failed_s + CUT_OFF_WITHIN_S > now_s and c.id not in known}
        others = len(contacts) + len(gone)
        if others > self._k and not majority(len(heard), others):
            self._cut_off_s, self._before = now_s, others

    def _judge_end(self, heard: int, now_s: float) -> None:
        if not majority(heard, self._before):
            self._back_s = None
        elif self._back_s is None:
            self._back_s = now_s
        nearly_all = heard >= CUT_OFF_HEARD_SHARE * self._before
        waited = self._back_s is not None and now_s >= self._back_s + RETURNED_S
        if nearly_all or waited or now_s > (self._cut_off_s or 0) + LOST_S:
            self._cut_off_s = self._back_s = None


def majority(heard: int, others: int) -> bool:
    """Are those that are heard, with this peer itself, more than half of all?"""
    return 2 * (heard + 1) > others + 1
