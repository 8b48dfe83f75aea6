"""The first record of each page, kept in memory beside the disk: a read of a key of many pages begins with them.

Theory of operation. Most records that come stand behind the first one of their page, which stays what it is. So the
first is learned when its page begins, or is read from the disk, and kept up by every commit; where a commit may have
changed it in any other way than by a plain new record, it is forgotten, and read again when it is asked for. Of pages
where versions wait in batches nothing is kept.

Owns what is kept and for how long: least recently asked for goes first. Like `disk_cache`, holds only what is durable.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from p2pkv.core.records import Flag, Version, encoded_bytes
from p2pkv.ids import Place
from p2pkv.limits import STORE_FIRST_RECORDS_KEPT_MAX
from p2pkv.storage.disk_batch import Committed
from p2pkv.storage.interface import PutRegister, PutVersion, RangeQuery, RangeResult, Result
from p2pkv.storage.ranges import Budget, order_key


@dataclass(slots=True)
class _First:
    version: Version
    size_bytes: int
    more: bool  # is there anything else in the page?


def asks_for_head(query: RangeQuery) -> bool:
    """Does it ask for whatever is first in a page?"""
    part = query.after or query.until or query.prefix
    return query.limit == 1 and query.dead and not query.pending and not part


def _is_kept(query: RangeQuery) -> bool:
    return asks_for_head(query) and query.order == "time" and not query.reverse


class FirstRecords:
    """By place, in the order of time."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Place, _First] = OrderedDict()
        self._loading: dict[Place, object] = {}

    def has(self, query: RangeQuery) -> bool:
        return query.place in self._kept and _is_kept(query)

    def get(self, query: RangeQuery, budget: Budget) -> RangeResult | None:
        """The answer to a question for the first record, where it is known."""
        first = self._kept.get(query.place)
        if first is None or not _is_kept(query):
            return None
        self._kept.move_to_end(query.place)
        budget.spend(query, 1, first.size_bytes)
        return RangeResult([first.version], first.more)

    def begin_load(self, query: RangeQuery) -> object:
        """A token for `end_load`. A commit to the page in between makes what was loaded too old to keep."""
        token = object()
        if _is_kept(query):
            self._loading[query.place] = token
        return token

    def end_load(self, query: RangeQuery, token: object, result: RangeResult | None) -> None:
        if self._loading.get(query.place) is not token:
            return
        del self._loading[query.place]
        if result is not None and result.versions and not result.batches:
            first = result.versions[0]
            self._keep(query.place, _First(first, encoded_bytes(first), result.more))

    def clear(self) -> None:
        self._kept.clear()
        self._loading.clear()

    def apply(self, committed: Committed) -> None:
        """Bring what is kept up to a batch that is durable now."""
        sizes_bytes = iter(committed.sizes_bytes)
        begun = set[Place]()  # of the pages that were created, those of which a record is known
        for write, outcome in zip(committed.writes, committed.outcomes, strict=True):
            if isinstance(write, PutRegister) or outcome.result is not Result.STORED:
                continue
            place = write.place
            if self._loading:
                self._loading.pop(place, None)
            if not isinstance(write, PutVersion):
                self._kept.pop(place, None)
                begun.add(place)
                continue
            size_bytes, version = next(sizes_bytes), write.version
            if outcome.replaced is not None or version.flags & Flag.PENDING:
                self._kept.pop(place, None)
                begun.add(place)
            elif (first := self._kept.get(place)) is not None:
                first.more = True
                if version.clock <= first.version.clock and order_key(version, "time") < order_key(
                    first.version, "time"
                ):
                    first.version, first.size_bytes = version, size_bytes
            elif place in committed.created and place not in begun:
                begun.add(place)
                self._keep(place, _First(version, size_bytes, more=False))

    def _keep(self, place: Place, first: _First) -> None:
        self._kept[place] = first
        while len(self._kept) > STORE_FIRST_RECORDS_KEPT_MAX:
            self._kept.popitem(last=False)
