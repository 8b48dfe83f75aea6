"""What this peer holds, as inventories to compare with other peers', kept in line with the store.

Theory of operation. At the start the whole store is read once, in small steps with pauses. From then on the store
tells what it writes. Of records that is enough to keep the inventory by; only where a page was split are its cells read
anew, and so are those of chunks. Changes count a little later, many at once (changes.py). An inventory may therefore
lag by seconds: a comparison then names something that is not there any more, or not yet, which costs a few bytes and
loses nothing.

Owns the inventories and the task that keeps them. Asks no peer for anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from p2pkv.core.reconciliation import CELL_BYTES, ITEM_BYTES, Inventory, item_of
from p2pkv.core.records import Flag, Version, content_hash
from p2pkv.errors import RemoteError
from p2pkv.ids import ChunkID, Place, is_shard
from p2pkv.limits import (
    CELLS_APART_MAX,
    CELLS_COUNTED_AT_ONCE,
    CELLS_REFRESHED_AT_ONCE_MAX,
    CELLS_RUN_MAX,
    CHUNK_SETTLE_S,
    INVENTORY_COUNT_DUTY,
    INVENTORY_DUTY,
    INVENTORY_FOLLOW_DUTY,
    INVENTORY_LAG_S_MAX,
    INVENTORY_REFRESH_PAUSE_S,
    INVENTORY_STEP_PAGES,
    RECORDS_SETTLE_S,
)
from p2pkv.messages import CHUNKS, RECORDS
from p2pkv.storage.interface import (
    Held,
    PutRegister,
    PutVersion,
    Result,
    Store,
    StoreFailedError,
    Stretch,
    Write,
    WriteOutcome,
)
from p2pkv.swarm.changes import Changes

log = logging.getLogger(__name__)
_CELLS = 1 << 8 * CELL_BYTES


class Change(NamedTuple):
    """What a write did in a page: a version came, one went, or one replaced another."""

    place: Place
    came: Version | None
    came_hash: bytes  # of the content; and so below
    went: Version | None  # None too where it was dropped and only its hash is known
    went_hash: bytes


OnChanged = Callable[[Sequence[Change] | None, Collection[Place]], None]
"""Told of changes (None: records were lost, nobody knows which), and of the pages that did not exist before them."""


def _changes(writes: Sequence[Write], outcomes: Sequence[WriteOutcome]) -> Iterator[Change]:
    for write, outcome in zip(writes, outcomes, strict=True):
        if outcome.result is not Result.STORED or isinstance(write, PutRegister):
            continue
        if isinstance(write, PutVersion):
            went = outcome.replaced
            went_hash = b"" if went is None else content_hash(went)
            yield Change(write.place, write.version, content_hash(write.version, write.encoded), went, went_hash)
        else:
            yield Change(write.place, None, b"", None, write.content_hash)


class Ledger:
    """One inventory and the cells of it that have changed."""

    def __init__(self, store: Store) -> None:
        self.inventory = Inventory()
        self.changed: set[bytes] = set()
        self.ready = False
        self._store = store

    async def refresh(self, cells: Iterable[bytes]) -> None:
        """Read cells anew: those that lie close together at once, with what lies between them."""
        for first, last in _runs(sorted(cells)):
            run = [number.to_bytes(CELL_BYTES, "big") for number in range(first, last + 1)]
            changed = self.changed.intersection(run)
            self.changed -= changed
            try:
                items = await self.items(run[0], behind(run[-1]))
            except BaseException:
                self.changed |= changed
                raise
            found: dict[bytes, list[bytes]] = {}
            for item in items:
                found.setdefault(item[:CELL_BYTES], []).append(item)
            for cell in run:
                self.inventory.set_cell(cell, found.get(cell, ()))

    async def items(self, low: bytes, high: bytes | None) -> Iterable[bytes]:
        """What the store holds from one cell up to, not with, another."""
        raise NotImplementedError

    async def take(self) -> None:
        """Read all anew."""
        raise NotImplementedError

    def recheck(self) -> None:
        """Count all cells among the changed: some may be empty by now."""
        self.changed |= {bytes.fromhex(cell.decode()) for cell in self.inventory.cells()}


class RecordLedger(Ledger):
    """The records."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.changes = Changes()
        self._split: set[Place] = set()  # pages here whose marker alone counts
        self._turned_s = 0.0

    def note(self, changes: Iterable[Change]) -> None:
        """What the store has written."""
        for place, came, came_hash, _, went_hash in changes:
            if place in self._split:
                continue
            if came is not None and came.flags & Flag.SPLIT:
                self._split.add(place)
                self.changed.add(place[:CELL_BYTES])  # its records count no more
                continue
            if came is not None and not came.name:
                continue
            if went_hash:
                self.changes.note(item_of(place, went_hash), here=False)
            if came is not None:
                self.changes.note(item_of(place, came_hash), here=True)

    def has(self, item: bytes) -> bool:
        """Is it here now?"""
        here = self.changes.has(item)
        return self.inventory.has(item) if here is None else here

    def turn(self, *, at_once: bool = False) -> None:
        """Let what has waited long enough be due; `at_once`: all."""
        now_s = asyncio.get_running_loop().time()
        if at_once or self.changes.few:
            self.changes.hurry()
        elif now_s >= self._turned_s + RECORDS_SETTLE_S:
            self._turned_s = now_s
            self.changes.turn()

    def count_due(self, cells: Iterable[bytes]) -> None:
        """Let the inventory follow what is due of some cells."""
        for cell in cells:
            self.inventory.change_cell(cell, self.changes.take(cell))

    async def refresh(self, cells: Iterable[bytes]) -> None:
        self.changes.forget(cells)
        await super().refresh(cells)

    async def items(self, low: bytes, high: bytes | None) -> Iterable[bytes]:
        return await self._between(low, high)

    async def held(self, cell: bytes) -> dict[bytes, Held]:
        """The records of a cell by their items."""
        return await self._between(cell, behind(cell))

    async def _between(self, low: bytes, high: bytes | None) -> dict[bytes, Held]:
        found = dict[bytes, Held]()
        while True:
            part = await self._store.stretch(low, high, INVENTORY_STEP_PAGES)
            self._note_split(part)
            found |= part.items
            if part.end is None:
                return found
            low = part.end + b"\0"

    async def take(self) -> None:
        low, cells = b"", dict[bytes, set[bytes]]()
        self.recheck()
        while True:
            began_s = asyncio.get_running_loop().time()
            part = await self._store.stretch(low, None, INVENTORY_STEP_PAGES)
            self._note_split(part)
            for item in part.items:
                cells.setdefault(item[:CELL_BYTES], set()).add(item)
            last = part.end[:CELL_BYTES] if part.end is not None else None
            for cell in [cell for cell in cells if cell != last]:  # the last one may go on
                self.inventory.set_cell(cell, cells.pop(cell))
            if part.end is None:
                return
            low = part.end + b"\0"
            await rest(began_s)

    def _note_split(self, part: Stretch) -> None:
        self._split.update(held.place for held in part.items.values() if held.version.flags & Flag.SPLIT)


class ChunkLedger(Ledger):
    """The chunks that k peers keep: all but shards. An item is the beginning of the chunk's id."""

    async def items(self, low: bytes, high: bytes | None) -> Iterable[bytes]:
        return [chunk_id[:ITEM_BYTES] for chunk_id in await self._between(low, high)]

    async def within(self, cell: bytes) -> list[ChunkID]:
        """The chunks of a cell."""
        return await self._between(cell, behind(cell))

    async def _between(self, low: bytes, high: bytes | None) -> list[ChunkID]:
        after, found = ChunkID(low), list[ChunkID]()
        while True:
            ids = await self._store.chunk_ids(after, INVENTORY_STEP_PAGES)
            within = [chunk_id for chunk_id in ids if high is None or chunk_id < high]
            found += [chunk_id for chunk_id in within if not is_shard(chunk_id)]
            if len(within) < INVENTORY_STEP_PAGES:
                return found
            after = within[-1]

    async def take(self) -> None:
        after: ChunkID | None = None
        self.recheck()
        while True:
            began_s = asyncio.get_running_loop().time()
            ids = await self._store.chunk_ids(after, INVENTORY_STEP_PAGES)
            self.changed |= {chunk_id[:CELL_BYTES] for chunk_id in ids}
            if len(ids) < INVENTORY_STEP_PAGES:
                return
            after = ids[-1]
            await rest(began_s)

    async def ids(self, items: Sequence[bytes]) -> list[ChunkID]:
        """The chunks here that these items stand for."""
        found: list[ChunkID] = []
        for item in items:
            ids = await self._store.chunk_ids(ChunkID(item), 1)
            found += [chunk_id for chunk_id in ids if chunk_id.startswith(item)]
        return found


class StoreInventory:
    """Both ledgers, and the task that keeps them up."""

    def __init__(self, store: Store) -> None:
        self.records = RecordLedger(store)
        self.chunks = ChunkLedger(store)
        self._arriving: dict[bytes, float] = {}  # cells of chunks that came or went just now, since when
        self._news = asyncio.Event()
        self._retake = False
        self.on_lost: Callable[[], None] = _ignore  # something is lacking here now
        self.on_changed: OnChanged = _ignore

    def ledger(self, kind: int) -> Ledger:
        """Raises RemoteError for a kind that is none."""
        if kind not in (RECORDS, CHUNKS):
            raise RemoteError("malformed", "an unknown kind of holdings")
        return self.records if kind == RECORDS else self.chunks

    # --- the store's watcher ---

    def wrote(self, writes: Sequence[Write], outcomes: Sequence[WriteOutcome], created: Collection[Place]) -> None:
        changes = list(_changes(writes, outcomes))
        self.records.note(changes)
        self._news.set()
        self.on_changed(changes, created)

    @property
    def busy(self) -> bool:
        """Do very many records come or go?"""
        return self.records.changes.many

    def moved_chunks(self, chunk_ids: Iterable[ChunkID]) -> None:
        now_s = asyncio.get_running_loop().time()
        for chunk_id in chunk_ids:
            self._arriving.setdefault(chunk_id[:CELL_BYTES], now_s)
        self._news.set()

    def lost_records(self) -> None:
        """Which records were lost is unknown: all is read again."""
        self._retake = True
        self._news.set()
        self.on_changed(None, ())
        self.on_lost()

    # --- keeping up ---

    async def fresh(self, kind: int, prefixes: Sequence[bytes], *, at_once: bool = False) -> Inventory:
        """The inventory, in line with the store below some prefixes where not too much has changed there.

        What has just come shows only after a while, or `at_once`: whoever put it is still bringing it to the other
        replicas, and they must not fetch it meanwhile. Raises RemoteError while the store is being read.
        """
        ledger = self.ledger(kind)
        self._settle(0.0 if at_once else CHUNK_SETTLE_S)
        if not ledger.ready:
            raise RemoteError("busy", "what is here is still being read")
        below = tuple(prefix[: 2 * CELL_BYTES] for prefix in prefixes)
        if ledger.changed:
            cells = sorted(_below(ledger.changed, below))
            await ledger.refresh(cells if at_once else cells[:CELLS_REFRESHED_AT_ONCE_MAX])
        if ledger is self.records:
            self.records.turn(at_once=at_once)
            due = _below(self.records.changes.cells(), below)
            self.records.count_due(due if at_once else due[:CELLS_REFRESHED_AT_ONCE_MAX])
        return ledger.inventory

    def came(self, kind: int, item: bytes) -> bool:
        """Is something here that does not count in the inventory yet?"""
        return kind == RECORDS and bool(self.records.changes.has(item))

    async def run(self) -> None:
        """Read the store, then what changes in it, until cancelled."""
        while True:
            try:
                await self._take(self.records)
                await self._take(self.chunks)
                self._retake = False
                await self._follow()
            except StoreFailedError as error:
                log.error("what is here cannot be read: %s", error)
                await asyncio.sleep(INVENTORY_REFRESH_PAUSE_S / INVENTORY_DUTY)

    async def _take(self, ledger: Ledger) -> None:
        await ledger.take()
        await self._refresh(ledger)
        ledger.ready = True

    async def _follow(self) -> None:
        while not self._retake:
            if not self._arriving and not self.records.changes:
                await self._news.wait()
            await self._lull()
            self._settle(CHUNK_SETTLE_S)
            await self._refresh(self.records)
            await self._refresh(self.chunks)
            await self._count_due()

    async def _count_due(self) -> None:
        self.records.turn()
        cells = self.records.changes.cells()
        for start in range(0, len(cells), CELLS_COUNTED_AT_ONCE):
            began_s = asyncio.get_running_loop().time()
            self.records.count_due(cells[start : start + CELLS_COUNTED_AT_ONCE])
            await rest(began_s, INVENTORY_COUNT_DUTY)

    def _settle(self, after_s: float) -> None:
        """Count chunks among the changes that came or went so long ago."""
        until_s = asyncio.get_running_loop().time() - after_s
        due = [cell for cell, since_s in self._arriving.items() if since_s <= until_s]
        for cell in due:
            del self._arriving[cell]
        self.chunks.changed.update(due)

    async def _lull(self) -> None:
        """Until nothing has changed for a moment, or for long enough: a page that is written to is not read for each
        record anew."""
        loop = asyncio.get_running_loop()
        latest_s = loop.time() + INVENTORY_LAG_S_MAX
        while True:
            self._news.clear()
            await asyncio.sleep(INVENTORY_REFRESH_PAUSE_S)
            if not self._news.is_set() or loop.time() >= latest_s:
                return

    async def _refresh(self, ledger: Ledger) -> None:
        cells = sorted(ledger.changed)
        for start in range(0, len(cells), CELLS_REFRESHED_AT_ONCE_MAX):
            began_s = asyncio.get_running_loop().time()
            await ledger.refresh(cells[start : start + CELLS_REFRESHED_AT_ONCE_MAX])
            await rest(began_s, INVENTORY_FOLLOW_DUTY)


def _ignore(*_: object) -> None:
    """Nobody listens yet."""


def _below(cells: Iterable[bytes], prefixes: tuple[bytes, ...]) -> list[bytes]:
    return [cell for cell in cells if cell.hex().encode().startswith(prefixes)]


def _runs(cells: Sequence[bytes]) -> list[tuple[int, int]]:
    """Cells in order as runs, first and last, of those that lie close together."""
    runs: list[tuple[int, int]] = []
    for number in (int.from_bytes(cell, "big") for cell in cells):
        if runs and number - runs[-1][1] <= CELLS_APART_MAX and number - runs[-1][0] < CELLS_RUN_MAX:
            runs[-1] = runs[-1][0], number
        else:
            runs.append((number, number))
    return runs


def behind(cell: bytes) -> bytes | None:
    """The cell behind a cell; None behind the last one."""
    number = int.from_bytes(cell, "big") + 1
    return number.to_bytes(CELL_BYTES, "big") if number < _CELLS else None


async def rest(began_s: float, duty: float = INVENTORY_DUTY) -> None:
    """Sleep, so that only a part of the time since `began_s` is used for this."""
    used_s = asyncio.get_running_loop().time() - began_s
    await asyncio.sleep(used_s * (1 / duty - 1))
