"""Who is nearest to a place, as far as this peer knows, and whether it belongs among them itself.

Owns the one definition of "the replicas of a place" that writers, readers and replicas share. Sends nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple, Protocol

from blake3 import blake3

from p2pkv.ids import NodeID, Place, distance
from p2pkv.limits import NEIGHBOURS_CACHED_MAX, NODES_IN_ANSWER_MAX
from p2pkv.swarm.contact import Contact
from p2pkv.wire import NodeTuple

VIEW_BYTES = 8


class Router(Protocol):
    """What is needed of the routing table."""

    def nearest(self, target: bytes, k: int) -> list[Contact]:
        """The same list as before where nothing has changed."""


class Picture(NamedTuple):
    """Who the replicas of one place are."""

    nearest: list[Contact]  # the table's answer that it was taken from
    contacts: list[Contact]
    here: bool  # this peer is one of them
    view: bytes


class Neighbourhood:
    """This peer's picture of the k replicas of any place."""

    def __init__(self, router: Router, node_id: NodeID, k: int, *, stores: bool = True) -> None:
        """`stores` is False for a peer that keeps nothing and is nobody's replica."""
        self.node_id = node_id
        self.k = k
        self.stores = stores
        self._router = router
        self._pictures: dict[bytes, Picture] = {}
        self.doubtful: Callable[[list[Contact]], Collection[bytes]] = _nobody  # who is silent, or was lately; ids
        self.knows_swarm: Callable[[], bool] = _surely  # False of a peer that is just joining, or cut off

    def nearest(self, place: bytes) -> list[Contact]:
        """The contacts among the k nearest peers of a place, nearest first, this peer not counted."""
        return self._picture(place).contacts

    def beyond(self, place: bytes) -> list[Contact]:
        """The next contacts behind those of the replicas, nearest first."""
        replicas = {contact.id for contact in self.nearest(place)}
        nearest = self._router.nearest(place, 2 * self.k)
        return [contact for contact in nearest if contact.id not in replicas and contact.kind != "stock"]

    def keeps(self, place: bytes) -> bool:
        """Is this peer itself one of the k nearest that it knows of?"""
        return self._picture(place).here

    def speaks_for(self, place: bytes) -> bool:
        """May this peer answer as one of the replicas? Not while it cannot know who they are, or what they got."""
        return self.keeps(place) and self.knows_swarm()

    def rank(self, place: bytes) -> int:
        """How many peers are nearer to a place than this one, among the k nearest."""
        own = distance(self.node_id, place)
        return sum(distance(contact.id, place) < own for contact in self.nearest(place))

    def view(self, place: Place) -> tuple[bytes, list[Contact]]:
        """A short hash of who the replicas are, equal for two peers of the same opinion, and the contacts of it."""
        picture = self._picture(place)
        return picture.view, picture.contacts

    def differing(self, place: Place, view: bytes) -> list[NodeTuple]:
        """Who this peer takes for the replicas besides itself, where an asker of some view is to know it.

        Where both agree, it may have doubts all the same: who is silent, or was lately, is left out by writers. What
        these gave to others in its place it lacks, so the asker is told of those.
        """
        picture = self._picture(place)
        if picture.view == view and self.doubtful(picture.contacts):
            nearest = self._router.nearest(place, 2 * self.k)
            doubtful = self.doubtful(nearest)
            sure = [contact for contact in nearest if contact.id not in doubtful]
            picture = self._take_picture(place, sure[: self.k])
        return [] if picture.view == view else node_tuples(picture.contacts)

    def _picture(self, place: bytes) -> Picture:
        """Taken anew only where the table has changed: every request of a page asks for it several times."""
        nearest = self._router.nearest(place, self.k)
        picture = self._pictures.get(place)
        if picture is None or picture.nearest is not nearest:
            if len(self._pictures) >= NEIGHBOURS_CACHED_MAX:
                self._pictures.clear()
            picture = self._pictures[place] = self._take_picture(place, nearest)
        return picture

    def _take_picture(self, place: bytes, nearest: list[Contact]) -> Picture:
        contacts = [contact for contact in nearest if contact.kind != "stock"]
        here = self.stores
        if here and len(contacts) >= self.k:
            here = distance(self.node_id, place) < distance(contacts[-1].id, place)
            contacts = contacts[:-1] if here else contacts
        ids = [contact.id for contact in contacts]
        if here:
            ids.append(self.node_id)
        ids.sort()
        return Picture(nearest, contacts, here, blake3(b"".join(ids)).digest(length=VIEW_BYTES))


def _nobody(_: list[Contact]) -> Collection[bytes]:
    return ()


def _surely() -> bool:
    return True


def node_tuples(contacts: list[Contact]) -> list[NodeTuple]:
    """Contacts as they are named to others."""
    return [NodeTuple(c.id, c.ip, c.port) for c in contacts[:NODES_IN_ANSWER_MAX]]
