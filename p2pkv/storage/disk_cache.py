"""Small pages kept in memory beside the disk: read without a thread, kept up by every commit.

Owns what is kept and for how long: least recently used goes first, and a page that is written to again and again and
never read, since keeping it up would cost as much as writing it. A page that is not small is brought in only once it
was read several times since it was written to, since the next write may throw it out again. Holds only what is
durable: a commit reaches it when its transaction has ended.
"""

from __future__ import annotations

from collections import OrderedDict

from p2pkv.ids import Place
from p2pkv.limits import (
    STORE_CACHE_BYTES_MAX,
    STORE_CACHE_PAGES_MAX,
    STORE_CACHED_PAGE_BYTES_MAX,
    STORE_CACHED_READS_MIN,
    STORE_CACHED_SOON_BYTES_MAX,
    STORE_CACHED_UNREAD_WRITES_MAX,
)
from p2pkv.storage.disk_batch import Committed
from p2pkv.storage.interface import DropVersion, PutRegister, PutVersion, Result
from p2pkv.storage.page import Page


class PageCache:
    """Whole pages by place; an absent page is kept as an empty one."""

    def __init__(self) -> None:
        self._pages: OrderedDict[Place, Page] = OrderedDict()
        self._size_bytes = 0
        self._loading: dict[Place, object] = {}
        self._reads: OrderedDict[Place, int] = OrderedDict()  # of pages that are not here, since they were written to

    def __len__(self) -> int:
        return len(self._pages)

    def __contains__(self, place: Place) -> bool:
        return place in self._pages

    def get(self, place: Place) -> Page | None:
        page = self._pages.get(place)
        if page is not None:
            page.unread_writes = 0
            self._pages.move_to_end(place)
        return page

    def begin_load(self, place: Place) -> object:
        """A token for `end_load`. A commit to the page in between makes what was loaded too old to keep."""
        token = self._loading[place] = object()
        self._reads[place] = self._reads.pop(place, 0) + 1
        if len(self._reads) > STORE_CACHE_PAGES_MAX:
            self._reads.popitem(last=False)
        return token

    def loaded_bytes_max(self, place: Place) -> int:
        """How large the page may be to be worth it to bring it in now."""
        often = self._reads.get(place, 0) >= STORE_CACHED_READS_MIN
        return STORE_CACHED_PAGE_BYTES_MAX if often else STORE_CACHED_SOON_BYTES_MAX

    def end_load(self, place: Place, token: object, page: Page | None) -> None:
        if self._loading.get(place) is not token:
            return
        del self._loading[place]
        if page is not None:
            self._keep(page)

    def forget(self, place: Place) -> None:
        self._loading.pop(place, None)
        page = self._pages.pop(place, None)
        if page is not None:
            self._size_bytes -= page.size_bytes

    def clear(self) -> None:
        self._loading.clear()
        self._reads.clear()
        self._pages.clear()
        self._size_bytes = 0

    def apply(self, committed: Committed) -> None:
        """Bring the pages up to a batch that is durable now."""
        for place in committed.created:
            if place not in self._pages:
                self._keep(Page(place))
        written = {write.place for write in committed.writes if not isinstance(write, PutRegister)}
        for place in written:
            self._loading.pop(place, None)
            self._reads.pop(place, None)
        if self._pages.keys().isdisjoint(written):
            return  # the usual case where many records come
        sizes_bytes = iter(committed.sizes_bytes)
        for write, outcome in zip(committed.writes, committed.outcomes, strict=True):
            if isinstance(write, PutRegister):
                continue
            stored = outcome.result is Result.STORED
            size_bytes = next(sizes_bytes) if stored and isinstance(write, PutVersion) else 0
            page = self._pages.get(write.place)
            if page is not None:
                self._apply(page, write, size_bytes)

    def _apply(self, page: Page, write: PutVersion | DropVersion, size_bytes: int) -> None:
        """`size_bytes`: of a version that was stored."""
        before = page.size_bytes
        if isinstance(write, DropVersion):
            page.drop((write.name, write.owner), write.content_hash)
        else:
            if size_bytes:
                page.replace(write.version.identity, write.version, size_bytes)
            page.key = page.key or write.key
        if not len(page):
            page.key = b""
        self._size_bytes += page.size_bytes - before
        page.unread_writes += 1
        if page.size_bytes > STORE_CACHED_PAGE_BYTES_MAX or page.unread_writes > STORE_CACHED_UNREAD_WRITES_MAX:
            self.forget(page.place)
        self._shrink()

    def _keep(self, page: Page) -> None:
        self.forget(page.place)
        self._pages[page.place] = page
        self._size_bytes += page.size_bytes
        self._shrink()

    def _shrink(self) -> None:
        while len(self._pages) > STORE_CACHE_PAGES_MAX or self._size_bytes > STORE_CACHE_BYTES_MAX:
            _, page = self._pages.popitem(last=False)
            self._size_bytes -= page.size_bytes
