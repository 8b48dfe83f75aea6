"""The store in memory: for simulations, tests and peers that keep nothing.

Every method finishes without suspending. It keeps what the interface promises but durability: its contents end with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from p2pkv.core.records import Version
from p2pkv.ids import ChunkID, Place, chunk_id_of
from p2pkv.storage.interface import (
    DamageReport,
    DropVersion,
    Held,
    PageInfo,
    PutRegister,
    PutVersion,
    QuotaExceededError,
    RangeQuery,
    RangeResult,
    Register,
    Result,
    Store,
    Stretch,
    Usage,
    Write,
    WriteOutcome,
)
from p2pkv.storage.page import ALREADY, STORED, Identity, Page
from p2pkv.storage.ranges import Budget
from p2pkv.storage.sorted_keys import SortedKeys
from p2pkv.storage.stretches import itemize

_Undo = Callable[[], object]


class MemoryStore(Store):
    """Pages, registers and chunks in dictionaries, with sorted indexes beside them."""

    kind = "memory"

    def __init__(self, now_s: Callable[[], float], quota_bytes: int | None = None) -> None:
        self._now_s = now_s
        self._quota_bytes = quota_bytes
        self._pages: dict[Place, Page] = {}
        self._places = SortedKeys()
        self._waiting: set[Place] = set()  # pages that hold pending versions
        self._keys = SortedKeys()  # (key, place) of the pages whose key is known
        self._registers: dict[tuple[Place, bytes], bytes] = {}
        self._register_order = SortedKeys()  # (place, name)
        self._chunks: dict[ChunkID, bytes] = {}
        self._chunk_days: dict[ChunkID, int] = {}
        self._chunk_order = SortedKeys()
        self._records = 0
        self._size_bytes = 0

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do; the contents stay until the object ends."""

    # --- records ---
    async def commit(self, writes: Sequence[Write]) -> list[WriteOutcome]:
        before_bytes, undo = self._size_bytes, list[_Undo]()
        created = {write.place for write in writes if isinstance(write, PutVersion) and write.place not in self._pages}
        outcomes = [self._write(write, undo) for write in writes]
        if self._quota_bytes is not None and self._size_bytes > max(before_bytes, self._quota_bytes):
            for step in reversed(undo):
                step()
            raise QuotaExceededError(f"the batch does not fit into {self._quota_bytes} bytes")
        self.watcher.wrote(writes, outcomes, created)
        return outcomes

    def _write(self, write: Write, undo: list[_Undo]) -> WriteOutcome:
        if isinstance(write, PutVersion):
            return self._put(write, undo)
        if isinstance(write, PutRegister):
            return self._set_register((write.place, write.name), write.state, undo)
        return self._drop(write, undo)

    def _put(self, write: PutVersion, undo: list[_Undo]) -> WriteOutcome:
        page = self._pages.get(write.place)
        if page is None:
            page = self._pages[write.place] = Page(write.place)
            self._places.add((write.place,))
        if write.key and not page.key:
            self._name_page(page, write.key)
            undo.append(lambda: self._name_page(page, b""))
        return self._change(page, write.version.identity, lambda: page.put(write.version, write.admit), undo)

    def _drop(self, write: DropVersion, undo: list[_Undo]) -> WriteOutcome:
        page, identity = self._pages.get(write.place), (write.name, write.owner)
        if page is None:
            return ALREADY
        return self._change(page, identity, lambda: page.drop(identity, write.content_hash), undo)

    def _change(
        self, page: Page, identity: Identity, act: Callable[[], WriteOutcome], undo: list[_Undo]
    ) -> WriteOutcome:
        key, before = page.key, page.get(identity)
        self._count(page, -1)
        outcome = act()
        self._count(page, +1)
        if outcome.result is Result.STORED and self._quota_bytes is not None:
            undo.append(lambda: self._restore(page, key, identity, before))
        self._discard_empty(page)
        return outcome

    def _restore(self, page: Page, key: bytes, identity: Identity, version: Version | None) -> None:
        if page.place not in self._pages:
            self._pages[page.place] = page
            self._places.add((page.place,))
            self._name_page(page, key)
        self._count(page, -1)
        page.replace(identity, version)
        self._count(page, +1)
        self._discard_empty(page)

    def _count(self, page: Page, sign: int) -> None:
        self._size_bytes += sign * page.size_bytes
        self._records += sign * (len(page) - page.dead)
        if page.batches:
            self._waiting.add(page.place)
        else:
            self._waiting.discard(page.place)

    def _name_page(self, page: Page, key: bytes) -> None:
        if page.key:
            self._keys.remove((page.key, page.place))
        page.key = key
        if key:
            self._keys.add((key, page.place))

    def _discard_empty(self, page: Page) -> None:
        if not len(page):
            self._name_page(page, b"")
            del self._pages[page.place]
            self._places.remove((page.place,))

    def _set_register(self, at: tuple[Place, bytes], state: bytes, undo: list[_Undo]) -> WriteOutcome:
        before = self._registers.get(at, b"")
        if state == before:
            return ALREADY
        if self._registers.pop(at, None) is not None:
            self._register_order.remove(at)
        if state:
            self._registers[at] = state
            self._register_order.add(at)
        self._size_bytes += len(state) - len(before)
        undo.append(lambda: self._set_register(at, before, []))
        return STORED

    async def read(self, query: RangeQuery) -> RangeResult:
        page = self._pages.get(query.place)
        return page.select(query, self._now_s()) if page else RangeResult([], False)

    async def read_many(self, queries: Sequence[RangeQuery], records_max: int, bytes_max: int) -> list[RangeResult]:
        budget, results = Budget(records_max, bytes_max), list[RangeResult]()
        for query in queries:
            page = self._pages.get(query.place) or Page(query.place)
            results.append(page.select(query, self._now_s(), budget))
            if budget.spent:
                break
        return results

    async def read_name(self, place: Place, name: bytes) -> list[Version]:
        page = self._pages.get(place)
        return page.named(name) if page else []

    async def read_names(self, wanted: Sequence[tuple[Place, Sequence[bytes]]]) -> list[list[list[Version]]]:
        pages = [(self._pages.get(place), names) for place, names in wanted]
        return [[page.named(name) if page else [] for name in names] for page, names in pages]

    async def read_register(self, place: Place, name: bytes) -> bytes | None:
        return self._registers.get((place, name))

    async def registers(self, low: bytes, high: bytes | None, limit: int) -> list[Register]:
        found: list[Register] = []
        for place, name in self._register_order.ascending((low,)):
            if (high is not None and place >= high) or (len(found) >= limit and place != found[-1].place):
                break
            found.append(Register(place, name, self._registers[place, name]))
        return found

    async def page(self, place: Place) -> PageInfo | None:
        page = self._pages.get(place)
        return page.info(self._now_s()) if page else None

    async def pages(self, after: Place | None = None, limit: int = 1000) -> list[PageInfo]:
        places = self._places.ascending((after,) if after is not None else None, beyond=True)
        return [self._pages[place].info(self._now_s()) for (place,) in islice(places, limit)]

    async def waiting(self, limit: int = 1000) -> list[PageInfo]:
        return [self._pages[place].info(self._now_s()) for place in sorted(self._waiting)[:limit]]

    async def stretch(self, low: bytes, high: bytes | None, pages_max: int) -> Stretch:
        items: dict[bytes, Held] = {}
        last: Place | None = None
        for count, (place,) in enumerate(self._places.ascending((low,))):
            if high is not None and place >= high:
                break
            if count >= pages_max:
                return Stretch(items, last)
            items |= itemize(place, self._pages[place].key, self._pages[place].versions())
            last = place
        return Stretch(items, None)

    async def keys(self, prefix: bytes = b"", after: bytes = b"", limit: int = 1000) -> list[PageInfo]:
        found: list[PageInfo] = []
        # A key ends before the same key and one more zero byte begins.
        for key, place in self._keys.ascending((max(prefix, after + b"\0" if after else b""),)):
            if not key.startswith(prefix) or (len(found) >= limit and key != found[-1].key):
                break
            found.append(self._pages[place].info(self._now_s()))
        return found

    # --- chunks ---
    async def put_chunk(self, chunk_id: ChunkID, data: bytes | memoryview) -> bool:
        if chunk_id in self._chunks:
            return False
        if self._quota_bytes is not None and self._size_bytes + len(data) > self._quota_bytes:
            raise QuotaExceededError(f"a chunk of {len(data)} bytes does not fit into {self._quota_bytes} bytes")
        self._chunks[chunk_id] = bytes(data)
        self._chunk_order.add((chunk_id,))
        self._size_bytes += len(data)
        self.watcher.moved_chunks([chunk_id])
        return True

    async def get_chunk(self, chunk_id: ChunkID) -> bytes | None:
        return self._chunks.get(chunk_id)

    async def has_chunks(self, chunk_ids: Sequence[ChunkID]) -> list[bool]:
        return [chunk_id in self._chunks for chunk_id in chunk_ids]

    async def delete_chunk(self, chunk_id: ChunkID) -> bool:
        data = self._chunks.pop(chunk_id, None)
        if data is None:
            return False
        self._chunk_days.pop(chunk_id, None)
        self._chunk_order.remove((chunk_id,))
        self._size_bytes -= len(data)
        self.watcher.moved_chunks([chunk_id])
        return True

    async def vouch_chunks(self, chunk_ids: Sequence[ChunkID], day: int) -> None:
        here = (chunk_id for chunk_id in chunk_ids if chunk_id in self._chunks)
        self._chunk_days |= {chunk_id: max(day, self._chunk_days.get(chunk_id, day)) for chunk_id in here}

    async def chunk_days(self, chunk_ids: Sequence[ChunkID]) -> list[int | None]:
        return [self._chunk_days.get(chunk_id) for chunk_id in chunk_ids]

    async def collect_chunk(self, chunk_id: ChunkID, before_day: int) -> bool:
        day = self._chunk_days.get(chunk_id)
        return day is not None and day < before_day and await self.delete_chunk(chunk_id)

    async def chunk_ids(self, after: ChunkID | None = None, limit: int = 1000) -> list[ChunkID]:
        ids = self._chunk_order.ascending((after,) if after is not None else None, beyond=True)
        return [chunk_id for (chunk_id,) in islice(ids, limit)]

    # --- the whole ---
    def usage(self) -> Usage:
        return Usage(len(self._pages), self._records, len(self._chunks), self._size_bytes)

    async def verify(self) -> DamageReport:
        damaged = [chunk_id for chunk_id, data in self._chunks.items() if chunk_id_of(data) != chunk_id]
        checked = len(self._chunks)
        for chunk_id in damaged:
            await self.delete_chunk(chunk_id)
        total = sum(len(page) for page in self._pages.values())
        return DamageReport(checked, total, [chunk_id.hex() for chunk_id in damaged], [])
