"""Who is nearest to a place, as far as this peer knows, and whether it belongs among them itself.

Owns the one definition of "the replicas of a place" that writers, readers and replicas share. Sends nothing.
"""

from __future__ import annotations

from typing import Protocol

from blake3 import blake3
from kademlia.node import Node

from p2pkv.ids import NodeID, Place, distance
from p2pkv.limits import NODES_IN_ANSWER_MAX
from p2pkv.swarm.contact import Contact
from p2pkv.wire import NodeTuple

VIEW_BYTES = 8


class Router(Protocol):
    """What is needed of the routing table."""

    def find_neighbors(self, node: Node, k: int | None = None, exclude: Node | None = None) -> list[Contact]: ...


class Neighbourhood:
    """This peer's picture of the k replicas of any place."""

    def __init__(self, router: Router, node_id: NodeID, k: int, *, stores: bool = True) -> None:
        """`stores` is False for a peer that keeps nothing and is nobody's replica."""
        self.node_id = node_id
        self.k = k
        self.stores = stores
        self._router = router

    def nearest(self, place: bytes) -> list[Contact]:
        """The contacts among the k nearest peers of a place, nearest first, this peer not counted."""
        return self._picture(place)[0]

    def keeps(self, place: bytes) -> bool:
        """Is this peer itself one of the k nearest that it knows of?"""
        return self._picture(place)[1]

    def view(self, place: Place) -> tuple[bytes, list[Contact]]:
        """A short hash of who the replicas are, equal for two peers of the same opinion, and the contacts of it."""
        contacts, here = self._picture(place)
        ids = [contact.id for contact in contacts]
        if here:
            ids.append(self.node_id)
        return blake3(b"".join(sorted(ids))).digest(length=VIEW_BYTES), contacts

    def _picture(self, place: bytes) -> tuple[list[Contact], bool]:
        """The contacts among the k replicas, and whether this peer is one of them."""
        contacts = [c for c in self._router.find_neighbors(Node(place), self.k) if c.kind != "stock"]
        if not self.stores:
            return contacts, False
        if len(contacts) < self.k:
            return contacts, True
        if distance(self.node_id, place) < distance(contacts[-1].id, place):
            return contacts[:-1], True
        return contacts, False


def node_tuples(contacts: list[Contact]) -> list[NodeTuple]:
    """Contacts as they are named to others."""
    return [NodeTuple(c.id, c.ip, c.port) for c in contacts[:NODES_IN_ANSWER_MAX]]
