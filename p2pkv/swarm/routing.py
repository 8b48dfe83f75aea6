"""The routing table: which contacts a peer keeps, and the exact k nearest of them to any point.

Theory of operation. Only the bucket that covers our own id splits, so the buckets are, from far to near, the peers
that share 0, 1, 2 ... leading bits with us. The first five hold 32, 16, 8, 4 and 2 times k contacts, after
libtorrent, whose first four hold 16, 8, 4 and 2: so a swarm of some 300 peers is known whole at k = 8 and a lookup
takes one round of questions, and in larger ones each step of a lookup gains up to five more bits. The table stays
ids of all contacts lie sorted beside the buckets: those that share their first bits with a point are neighbours in
that order, so the nearest to it are found among a few, exactly, however many the table holds.

Owns buckets, replacements and the bound per address. Never sends: who answered and who did not, the protocol says.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

from kademlia.node import Node
from kademlia.routing import KBucket, RoutingTable

from p2pkv.ids import ID_BITS
from p2pkv.limits import CONTACTS_PER_ADDRESS_MAX, NEIGHBOURS_CACHED_MAX, REFRESH_S, REPLACEMENTS_PER_BUCKET_MAX
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.environment import Address
from p2pkv.swarm.udp import is_loopback

EXTENSIONS = (32, 16, 8, 4, 2)  # times k, for the buckets of peers that share 0, 1, 2, 3 and 4 leading bits with us
TOUCH_INTERVAL_S = 1.0  # a contact that answers often is moved to its bucket's tail at most this often


class Bucket(KBucket):  # type: ignore[misc]
    """Contacts of one range of ids, least recently seen first. The upper bound is exclusive."""

    nodes: OrderedDict[bytes, Contact]
    replacement_nodes: OrderedDict[bytes, Contact]
    range: tuple[int, int]

    def __init__(self, lower: int, upper: int, capacity: int, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        super().__init__(lower, upper, capacity)
        self.max_replacement_nodes = REPLACEMENTS_PER_BUCKET_MAX

    def touch_last_updated(self) -> None:
        self.last_updated = self._now_s()

    def has_in_range(self, node: Node) -> bool:
        return bool(self.range[0] <= node.long_id < self.range[1])

    def touch(self, contact: Contact) -> None:
        """The contact was heard: it is the most recently seen."""
        if contact.id in self.nodes:
            self.nodes.move_to_end(contact.id)
            self.touch_last_updated()

    def remove_node(self, node: Node) -> Contact | None:
        """Take a contact out; the replacement seen last takes its place and is returned."""
        self.replacement_nodes.pop(node.id, None)
        if self.nodes.pop(node.id, None) is None or not self.replacement_nodes:
            return None
        _, replacement = self.replacement_nodes.popitem()
        self.nodes[replacement.id] = replacement
        return replacement


class PeerTable(RoutingTable):  # type: ignore[misc]
    """All contacts of one peer."""

    buckets: list[Bucket]

    def __init__(self, protocol: Any, ksize: int, node: Node, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        super().__init__(protocol, ksize, node)

    def flush(self) -> None:
        """Forget everyone."""
        self.buckets = [Bucket(0, 1 << ID_BITS, self._capacity(0), self._now_s)]
        self._contacts: dict[int, Contact] = {}
        self._sorted: list[int] = []
        self._by_id: dict[bytes, Contact] = {}
        self._of_address: Counter[str] = Counter()
        self._nearest: dict[tuple[bytes, int], list[Contact]] = {}

    def _capacity(self, shared_bits: int) -> int:
        extension = EXTENSIONS[shared_bits] if shared_bits < len(EXTENSIONS) else 1
        return int(self.ksize * extension)

    def __len__(self) -> int:
        return len(self._contacts)

    def contacts(self) -> list[Contact]:
        return list(self._contacts.values())

    def get(self, node_id: bytes) -> Contact | None:
        return self._by_id.get(node_id)

    def bucket_of(self, node: Node) -> Bucket:
        index: int = self.get_bucket_for(node)
        return self.buckets[index]

    # --- keeping ---

    def add_contact(self, node: Contact) -> bool:
        """Keep a proven contact; True where it is in the table and was not. A full bucket makes it a replacement."""
        if node.id == self.node.id or node.id in self._by_id or not self._address_has_room(node):
            return False
        while True:
            index = self.get_bucket_for(node)
            bucket = self.buckets[index]
            if len(bucket) < bucket.ksize:
                bucket.nodes[node.id] = node
                bucket.replacement_nodes.pop(node.id, None)
                bucket.touch_last_updated()
                self._note(node)
                return True
            if not bucket.has_in_range(self.node) or bucket.range[1] - bucket.range[0] == 1:
                self._keep_as_replacement(bucket, node)
                return False
            self.split_bucket(index)

    def has_room(self, node_id: bytes) -> bool:
        """Would a contact of this id be kept, and is it not there yet?"""
        if node_id in self._by_id:
            return False
        long_id = int.from_bytes(node_id, "big")
        for bucket in self.buckets:
            if long_id < bucket.range[1]:
                return len(bucket) < bucket.ksize or bucket.has_in_range(self.node)
        return False

    def remove_contact(self, node: Node) -> Contact | None:
        """Take a contact out; whoever took its place is returned."""
        bucket = self.bucket_of(node)
        if node.id not in bucket.nodes:
            bucket.replacement_nodes.pop(node.id, None)
            return None
        contact = bucket.nodes[node.id]
        replacement = bucket.remove_node(contact)
        self._forget(contact)
        if replacement is not None:
            self._note(replacement)
        return replacement

    def forget_replacement(self, node: Node) -> None:
        """A contact that waits for a place was silent."""
        self.bucket_of(node).replacement_nodes.pop(node.id, None)

    def split_bucket(self, index: int) -> None:
        """Halve the bucket of our own id. Each half has the capacity of the bits that its peers share with us."""
        full = self.buckets[index]
        lower, upper = full.range
        middle = (lower + upper) // 2
        shared_bits = ID_BITS - (upper - lower).bit_length() + 1
        halves = []
        for begin, end in ((lower, middle), (middle, upper)):
            ours = begin <= self.node.long_id < end
            half = Bucket(begin, end, self._capacity(shared_bits + ours), self._now_s)
            half.last_updated = full.last_updated
            half.nodes = OrderedDict((key, c) for key, c in full.nodes.items() if begin <= c.long_id < end)
            halves.append(half)
        self.buckets[index : index + 1] = halves

    def touch(self, contact: Contact, now_s: float) -> None:
        """The contact was heard."""
        if now_s - contact.touched_s >= TOUCH_INTERVAL_S:
            contact.touched_s = now_s
            self.bucket_of(contact).touch(contact)

    def stale_head(self, node: Node, stale_s: float) -> Contact | None:
        """The least recently seen contact of a full bucket, if it was not heard for so long."""
        bucket = self.bucket_of(node)
        if len(bucket) < bucket.ksize:
            return None
        head = next(iter(bucket.nodes.values()))
        return head if self._now_s() - head.last_seen_s >= stale_s else None

    def _keep_as_replacement(self, bucket: Bucket, node: Contact) -> None:
        bucket.replacement_nodes.pop(node.id, None)
        bucket.replacement_nodes[node.id] = node
        if len(bucket.replacement_nodes) > bucket.max_replacement_nodes:
            bucket.replacement_nodes.popitem(last=False)

    def _address_has_room(self, node: Contact) -> bool:
        return is_loopback(node.ip) or self._of_address[node.ip] < CONTACTS_PER_ADDRESS_MAX

    def _note(self, contact: Contact) -> None:
        self._contacts[contact.long_id] = contact
        insort(self._sorted, contact.long_id)
        self._by_id[contact.id] = contact
        self._of_address[contact.ip] += 1
        self._nearest.clear()

    def _forget(self, contact: Contact) -> None:
        del self._contacts[contact.long_id], self._by_id[contact.id]
        del self._sorted[bisect_left(self._sorted, contact.long_id)]
        self._of_address[contact.ip] -= 1
        if not self._of_address[contact.ip]:
            del self._of_address[contact.ip]
        self._nearest.clear()

    # --- finding ---

    def nearest(self, target: bytes, k: int) -> list[Contact]:
        """The k contacts nearest to a point, nearest first; not to be changed by the caller."""
        known = self._nearest.get((target, k))
        if known is None:
            point = int.from_bytes(target, "big")
            contacts = self._contacts
            distances = sorted([long_id ^ point for long_id in self._around(point, k)])
            known = [contacts[distance ^ point] for distance in distances[:k]]
            if len(self._nearest) >= NEIGHBOURS_CACHED_MAX:
                self._nearest.clear()
            self._nearest[target, k] = known
        return known

    def _around(self, point: int, k: int) -> list[int]:
        """Ids among which the k nearest to a point are: those that share the most leading bits with it."""
        ids = self._sorted
        bits = ID_BITS - max(0, (len(ids) // (2 * k or 1)).bit_length() - 1)  # about 2 k, were ids spread evenly
        while True:
            lower = point >> bits << bits
            begin, end = bisect_left(ids, lower), bisect_left(ids, lower + (1 << bits))
            if end - begin >= k or bits == ID_BITS:
                return ids[begin:end]
            bits += 1

    def find_neighbors(self, node: Node, k: int | None = None, exclude: Node | None = None) -> list[Contact]:
        """The k nearest contacts, nearest first; `exclude` is left out by its id and by its address."""
        k = k or self.ksize
        if exclude is None:
            return list(self.nearest(node.id, k))
        return self.nearest_but(node.id, k, exclude.id, (exclude.ip, exclude.port))

    def nearest_but(self, target: bytes, k: int, node_id: bytes, address: Address) -> list[Contact]:
        """The same without one peer, whatever other ids its address has."""
        spare = 1
        while True:
            found = self.nearest(target, k + spare)
            others = [c for c in found if c.id != node_id and c.address != address]
            if len(others) >= k or len(found) < k + spare:
                return others[:k]
            spare *= 4

    # --- refreshing ---

    def lonely_buckets(self) -> list[Bucket]:
        """Those that nobody was heard from for REFRESH_S."""
        since_s = self._now_s() - REFRESH_S
        return [bucket for bucket in self.buckets if bucket.last_updated < since_s]
