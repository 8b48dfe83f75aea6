"""One page of records in memory: its merge, its orders and its totals.

The memory engine keeps all its pages so, the disk engine those in its cache. An order is built when it is first read
and kept up from then on. Never reads a clock and knows nothing of other pages, quotas or files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from p2pkv.core.records import Version, content_hash, encoded_bytes, rank
from p2pkv.ids import Place
from p2pkv.outcomes import Order
from p2pkv.storage.interface import Admit, PageInfo, RangeQuery, RangeResult, Result, WriteOutcome
from p2pkv.storage.ranges import Budget, collect, order_key, span_of
from p2pkv.storage.sorted_keys import Key, SortedKeys

Identity = tuple[bytes, bytes]
STORED = WriteOutcome(Result.STORED)
ALREADY = WriteOutcome(Result.ALREADY)


def merged(
    incoming: Version, current: Version | None, admit: Admit | None, held: Callable[[], Sequence[Version]]
) -> WriteOutcome:
    """What becomes of a version where another, or none, stands under the same name and owner.

    `held` tells all that lies under the name; it is called only where `admit` may have to be asked.
    """
    if incoming == current:
        return ALREADY
    if admit is not None and (standing := held()) and (reason := admit(incoming, standing)):
        return WriteOutcome(Result.REFUSED, detail=reason)
    if current is None:
        return STORED
    new, old = rank(incoming), rank(current)
    if new > old:
        return WriteOutcome(Result.STORED, replaced=current)
    return ALREADY if new == old else WriteOutcome(Result.STALE, current)


class Page:
    """The records of one place."""

    __slots__ = ("_entries", "_expiring", "_orders", "batches", "dead", "key", "place", "size_bytes", "unread_writes")

    def __init__(self, place: Place, key: bytes = b"") -> None:
        self.place = place
        self.key = key
        self.dead = 0
        self.size_bytes = 0
        self.unread_writes = 0  # counted by the cache
        self.batches: dict[bytes, int] = {}  # how many versions of each wait here
        self._entries: dict[Identity, tuple[Version, int]] = {}
        self._orders: dict[Order, SortedKeys] = {}
        self._expiring: SortedKeys | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, version: Version, admit: Admit | None = None) -> WriteOutcome:
        """Merge a version."""
        outcome = merged(version, self.get(version.identity), admit, lambda: self.named(version.name))
        if outcome.result is Result.STORED:
            self.replace(version.identity, version)
        return outcome

    def drop(self, identity: Identity, hash_: bytes) -> WriteOutcome:
        """Forget a version where it still is the one with this hash."""
        standing = self._entries.get(identity)
        if standing is None:
            return ALREADY
        if content_hash(standing[0]) != hash_:
            return WriteOutcome(Result.STALE, standing[0])
        self.replace(identity, None)
        return STORED

    def get(self, identity: Identity) -> Version | None:
        entry = self._entries.get(identity)
        return entry[0] if entry else None

    def versions(self) -> Iterator[Version]:
        """Every version, in no order."""
        return (version for version, _ in self._entries.values())

    def replace(self, identity: Identity, version: Version | None, size_bytes: int | None = None) -> None:
        """Set or remove a record, whatever stood there."""
        standing = self._entries.pop(identity, None)
        if standing is not None:
            self._forget(*standing)
        if version is not None:
            self._learn(identity, version, encoded_bytes(version) if size_bytes is None else size_bytes)

    def _learn(self, identity: Identity, version: Version, size_bytes: int) -> None:
        self._entries[identity] = version, size_bytes
        self.size_bytes += size_bytes
        self.dead += version.dead
        if version.pending:
            self.batches[version.batch] = self.batches.get(version.batch, 0) + 1
        for order, keys in self._orders.items():
            keys.add(order_key(version, order))
        if version.expires_ms and not version.dead:
            self._expiring = self._expiring or SortedKeys()
            self._expiring.add((version.expires_ms, *identity))

    def _forget(self, version: Version, size_bytes: int) -> None:
        self.size_bytes -= size_bytes
        self.dead -= version.dead
        if version.pending:
            self._forget_pending(version.batch)
        for order, keys in self._orders.items():
            keys.remove(order_key(version, order))
        if version.expires_ms and not version.dead and self._expiring is not None:
            self._expiring.remove((version.expires_ms, *version.identity))

    def _forget_pending(self, batch: bytes) -> None:
        self.batches[batch] -= 1
        if not self.batches[batch]:
            del self.batches[batch]

    def select(self, query: RangeQuery, now_s: float, budget: Budget | None = None) -> RangeResult:
        """The part of the page that a query asks for."""
        found = collect((self._entries[key[-2:]] for key in self._walk(query)), query, now_s, budget)
        return msgspec.structs.replace(found, batches=sorted(self.batches)) if self.batches else found

    def _walk(self, query: RangeQuery) -> Iterator[Key]:
        span, keys = span_of(query), self._order(query.order)
        if query.reverse:
            for key in keys.descending(span.high, beyond=span.high_open):
                if span.low is not None and (key < span.low or (span.low_open and key == span.low)):
                    return
                yield key
            return
        for key in keys.ascending(span.low, beyond=span.low_open):
            if span.high is not None and (key > span.high or (span.high_open and key == span.high)):
                return
            yield key

    def _order(self, order: Order) -> SortedKeys:
        keys = self._orders.get(order)
        if keys is None:
            keys = self._orders[order] = SortedKeys(order_key(v, order) for v in self.versions())
        return keys

    def named(self, name: bytes) -> list[Version]:
        """Every owner's version under a name, the shared one first."""
        found: list[Version] = []
        for key in self._order("name").ascending((name, b"")):
            if key[0] != name:
                break
            found.append(self._entries[key][0])
        return found

    def info(self, now_s: float) -> PageInfo:
        expired = self._expiring.count_through((int(now_s * 1000) + 1,)) if self._expiring else 0
        live = len(self._entries) - self.dead - expired
        return PageInfo(self.place, self.key, live, len(self._entries), self.size_bytes)
