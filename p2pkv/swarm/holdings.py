"""What a replica knows of the pages that it holds: whether each is split, and whether it has outgrown its bound.

Owns a bounded memory in front of the store, which is asked once a page. It decides that a page must split, and tells
those who carry it out (`on_full`, `on_split`, `on_read`). Sends nothing.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from p2pkv.core.records import SPLIT_NAME
from p2pkv.ids import Place
from p2pkv.limits import PAGE_BYTES_MAX, PAGE_HOLDINGS_MAX, PAGE_RECORDS_MAX
from p2pkv.storage.interface import RangeQuery, Store


@dataclass
class PageBound:
    """What a page may hold before it splits."""

    records: int = PAGE_RECORDS_MAX
    size_bytes: int = PAGE_BYTES_MAX


@dataclass(slots=True)
class Holding:
    """One page here. The totals are never below the truth; replaced records count again until they are looked up."""

    split: bool
    total: int
    size_bytes: int
    full: bool = False  # its split was asked for
    waits: int = 0  # not 0: something here may wait in an atomic batch


def _ignore(*_: object) -> None:
    """Nobody listens yet."""


class Holdings:
    """The pages of one store."""

    def __init__(self, store: Store, bound: PageBound) -> None:
        self.bound = bound
        self.on_full: Callable[[Place], None] = _ignore
        self.on_split: Callable[[Place], None] = _ignore
        self.on_read: Callable[[], None] = _ignore
        self.store = store
        self._known: OrderedDict[Place, Holding] = OrderedDict()

    async def of(self, place: Place) -> Holding:
        """The state of a page; an absent one is empty and not split."""
        holding = self._known.get(place)
        if holding is None:
            return await self._look(place)
        self._known.move_to_end(place)
        return holding

    def known(self, place: Place) -> Holding | None:
        """The state of a page, where it is in memory."""
        return self._known.get(place)

    async def look(self, places: Iterable[Place]) -> None:
        """Bring the states of pages into memory, those that are not there all at once: one by one they take long."""
        unknown = {place for place in places if place not in self._known}
        if len(unknown) > 1:
            await asyncio.gather(*map(self._look, unknown))

    async def _look(self, place: Place) -> Holding:
        # One question that brings a small page into the store's cache; the marker is first in the order of time.
        found = await self.store.read(RangeQuery(place, limit=1, dead=True))
        head = found.versions
        info = await self.store.page(place) if head or found.batches else None
        split = bool(head) and head[0].name == SPLIT_NAME
        fresh = Holding(split, info.total if info else 0, info.size_bytes if info else 0, waits=len(found.batches))
        holding = self._known.setdefault(place, fresh)
        holding.split = holding.split or split
        if len(self._known) > PAGE_HOLDINGS_MAX:
            self._known.popitem(last=False)
        return holding

    def grew(self, place: Place, records: int, size_bytes: int) -> bool:
        """Note that records were committed to a page, where that has no consequences; else False, for `stored`."""
        holding = self._known.get(place)
        if holding is None or holding.split:
            return False
        if not holding.full and (
            holding.total + records > self.bound.records or holding.size_bytes + size_bytes > self.bound.size_bytes
        ):
            return False
        holding.total += records
        holding.size_bytes += size_bytes
        return True

    async def stored(self, place: Place, records: int, size_bytes: int) -> None:
        """Records were committed to a page."""
        holding = await self.of(place)
        holding.total += records
        holding.size_bytes += size_bytes
        if holding.split:
            self.on_split(place)
        elif self._above(holding) and not holding.full:
            await self._weigh(place, holding)

    async def _weigh(self, place: Place, holding: Holding) -> None:
        """It seems to be full: look what it really holds."""
        info = await self.store.page(place)
        holding.total = info.total if info else 0
        holding.size_bytes = info.size_bytes if info else 0
        if self._above(holding) and not holding.split:
            holding.full = True
            self.on_full(place)

    def _above(self, holding: Holding) -> bool:
        return holding.total > self.bound.records or holding.size_bytes > self.bound.size_bytes

    def still_whole(self, place: Place) -> None:
        """Splitting failed: the next record that comes tries again."""
        holding = self._known.get(place)
        if holding is not None:
            holding.full = False

    async def split(self, place: Place) -> None:
        """The marker of a page was committed."""
        (await self.of(place)).split = True
        self.on_split(place)

    def leftover(self, place: Place) -> None:
        """Somebody reads what a split page still holds."""
        self.on_read()
        self.on_split(place)

    def below_leftovers(self) -> None:
        """Somebody looks for such records in the pages below."""
        self.on_read()
