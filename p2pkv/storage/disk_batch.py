"""Record writes on the way into SQLite: staged in memory, weighed, then written together.

Theory of operation. A group of batches shares one staging area. What the group touches is read by a few statements for
many rows (`load`), since each statement costs a turn of the interpreter's lock. Then the writes are staged one after
the other, each on what those before it left; a batch that does not fit is taken back (`undo`). In the end the rows
that changed are written by as few statements (`flush`). Staging only reads, so what was taken back leaves no trace.
The rows of pages are remembered from group to group (`Heads`), and where each ends: most names are made by the clock,
so what comes mostly stands behind all that is there. It need not be looked for, and is written many records to a row
(`disk_blocks`).

Runs in the writer's thread, inside its transaction. Never commits, never touches chunks.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from zlib import crc32

import msgspec

from p2pkv.core.records import Version, content_hash, encode
from p2pkv.ids import Place
from p2pkv.limits import STORE_HEADS_KEPT_MAX, STORE_ROWS_AT_ONCE_MAX
from p2pkv.storage import disk_blocks
from p2pkv.storage.disk_blocks import Block, Fresh, Identity
from p2pkv.storage.interface import DropVersion, PutRegister, PutVersion, Usage, Write, WriteOutcome
from p2pkv.storage.interface import Result as _Result
from p2pkv.storage.page import ALREADY, STORED, merged

T = TypeVar("T")
_decoder = msgspec.msgpack.Decoder(Version)
_FIND_PAGES = (
    "SELECT place, id, key, total, dead, size_bytes, (SELECT max(name) FROM versions WHERE page = pages.id), "  # noqa: S608
    f"(SELECT max(clock) FROM versions WHERE page = pages.id), {disk_blocks.LAST} FROM pages WHERE place IN ({{}})"
)
_FIND_NAMES = (
    "WITH wanted (wanted_page, wanted_name) AS (VALUES {}) SELECT page, name, owner, crc, data, dead "
    "FROM wanted CROSS JOIN versions ON page = wanted_page AND name = wanted_name"
)
_SAVE_PAGES = (
    "INSERT INTO pages (id, place, key, total, dead, size_bytes) VALUES {} ON CONFLICT (id) DO UPDATE SET "
    "key = excluded.key, total = excluded.total, dead = excluded.dead, size_bytes = excluded.size_bytes"
)
_SAVE_VERSIONS = (
    "INSERT INTO versions (page, name, owner, clock, dead, expires_ms, crc, data) VALUES {} "
    "ON CONFLICT (page, name, owner) DO UPDATE SET clock = excluded.clock, dead = excluded.dead, "
    "expires_ms = excluded.expires_ms, crc = excluded.crc, data = excluded.data"
)


@dataclass(slots=True)
class Head:
    """A page's row, as the group leaves it."""

    id: int
    key: bytes = b""
    total: int = 0
    dead: int = 0
    size_bytes: int = 0
    last_name: bytes = b""  # no name behind it is there
    last_clock: int = -1  # nor any clock
    blocks: bool = False  # are there any?
    new: bool = False
    changed: bool = False

    def reach(self, name: bytes, clock: int) -> None:
        """The page has a record of this name and clock."""
        self.last_name, self.last_clock = max(self.last_name, name), max(self.last_clock, clock)


class Heads:
    """The rows of the pages that were written to lately, as the last transaction left them."""

    def __init__(self, next_page_id: int) -> None:
        self.next_page_id = next_page_id
        self._known: OrderedDict[Place, Head] = OrderedDict()

    def get(self, place: Place) -> Head | None:
        return self._known.get(place)

    def make(self) -> Head:
        """Of a page that is not there yet."""
        head = Head(self.next_page_id, new=True)
        self.next_page_id += 1
        return head

    def keep(self, heads: dict[Place, Head]) -> None:
        """The transaction that these were changed in has ended."""
        for place, head in heads.items():
            head.new = head.changed = False
            self._known[place] = head
            self._known.move_to_end(place)
            if not head.total:
                del self._known[place]
        while len(self._known) > STORE_HEADS_KEPT_MAX:
            self._known.popitem(last=False)

    def forget(self) -> None:
        """Rows were changed by others, or a transaction was rolled back."""
        self._known.clear()


NOWHERE, ROW = -1, -2


@dataclass(slots=True)
class Slot:
    """A record's row, as the group leaves it. `version` is None where there is none, or a damaged one."""

    version: Version | None = None
    dead: bool = False
    size_bytes: int = 0  # 0 where there is no row, and only there
    data: bytes = b""  # of `version`, where it changed
    changed: bool = False
    block_id: int = NOWHERE  # the block that it lies in, or one of the following


Slots = dict[bytes, Slot]
"""What lies under one name, by its owner."""


@dataclass(slots=True)
class Committed:
    """What the caller and the cache learn of a batch."""

    writes: Sequence[Write]
    outcomes: list[WriteOutcome]
    created: set[Place]  # pages that did not exist before
    sizes_bytes: list[int]  # of the versions that were stored, in order


@dataclass(slots=True)
class _Undo:
    """How things were before a batch."""

    keys: int
    records: int
    size_bytes: int
    heads: dict[int, tuple[Head, bytes, int, int, int]] = field(default_factory=dict)  # by their ids
    added: list[tuple[Slots, bytes]] = field(default_factory=list)  # and their owners
    slots: list[tuple[Slot, Version | None, bool, int, bytes, bool]] = field(default_factory=list)
    registers: list[tuple[tuple[Place, bytes], bytes | None]] = field(default_factory=list)
    sizes_bytes: list[int] = field(default_factory=list)
    created: set[Place] = field(default_factory=set)


def decode(page_id: int, crc: int, data: bytes) -> Version | None:
    """The version of a row; None where its bytes are damaged."""
    return disk_blocks.sound(_decoder, page_id, crc, data)


def _row(page_id: int, name: bytes, owner: bytes, version: Version, data: bytes) -> tuple[Any, ...]:
    crc = disk_blocks.checksum(page_id, data)
    return page_id, name, owner, version.clock, state_of(version), version.expires_ms, crc, data


def state_of(version: Version) -> int:
    """The column `dead`: 0 of what lives, 1 of a tombstone, 2 of what waits in an atomic batch."""
    return 2 if version.pending else int(version.dead)


class Staging:
    """Stages batches of writes in order; `flush` then writes what they came to."""

    def __init__(self, database: sqlite3.Connection, heads: Heads) -> None:
        self._database = database
        self._remembered = heads
        self._heads: dict[Place, Head] = {}
        self._names: dict[tuple[int, bytes], Slots] = {}  # by page and name
        self._blocks: dict[int, Block] = {}  # in which something was found
        self._registers: dict[tuple[Place, bytes], bytes] = {}
        self.keys = self.records = self.size_bytes = 0  # by how much the group changes the usage
        self._undo = _Undo(0, 0, 0)

    # --- what is there ---

    def load(self, writes: Iterable[Write]) -> None:
        """Read what the writes touch: all of it is asked for at once."""
        at = dict.fromkeys(
            (w.place, w.version.name if isinstance(w, PutVersion) else w.name) for w in writes if _is_record(w)
        )  # in their order: the records of a page are mostly in order then, too
        self._load_heads({place for place, _ in at if place not in self._heads})
        wanted: list[tuple[int, bytes]] = []
        in_blocks: list[tuple[int, bytes]] = []
        for place, name in at:
            head = self._heads[place]
            if (head.id, name) not in self._names:
                self._names[head.id, name] = {}
                if name <= head.last_name:
                    wanted.append((head.id, name))
                    if head.blocks:
                        in_blocks.append((head.id, name))
        self._load_rows(wanted)
        self._load_blocks(in_blocks)

    def _load_rows(self, wanted: list[tuple[int, bytes]]) -> None:
        for run in runs(wanted):
            sql = _FIND_NAMES.format(", ".join(["(?, ?)"] * len(run)))
            for page_id, name, owner, crc, data, dead in self._database.execute(sql, _flat(run)):
                version = decode(page_id, crc, data)
                was_dead = version.dead if version is not None else dead == 1
                self._names[page_id, name][owner] = Slot(version, was_dead, max(1, len(data)), block_id=ROW)

    def _load_blocks(self, wanted: list[tuple[int, bytes]]) -> None:
        found: dict[int, Block] = {}
        for run in runs(wanted):
            found |= disk_blocks.at_names(self._database, run)
        wanted.sort()
        for block_id, block in found.items():
            for version, entry in block.records(wanted):
                slots = self._names[block.page_id, version.name]
                slots[version.owner] = Slot(version, size_bytes=len(entry), block_id=block_id)
        self._blocks |= found

    def _load_heads(self, places: set[Place]) -> None:
        unknown = list[Place]()
        for place in places:
            head = self._remembered.get(place)
            if head is not None:
                self._heads[place] = head
            else:
                unknown.append(place)
        for run in runs(unknown):
            for place, *row, name, clock, high, high_clock in self._database.execute(
                _FIND_PAGES.format(", ".join("?" * len(run))), run
            ):
                head = self._heads[place] = Head(*row)
                head.blocks = high is not None
                for last_name, last_clock in ((name, clock), (high, high_clock)):
                    if last_name is not None:
                        head.reach(last_name, last_clock)
        for place in unknown:
            if place not in self._heads:
                self._heads[place] = self._remembered.make()

    # --- staging ---

    def stage(self, writes: Sequence[Write]) -> list[WriteOutcome]:
        """One batch, whose rows are loaded."""
        self._undo = _Undo(self.keys, self.records, self.size_bytes)
        return [self._stage(write) for write in writes]

    def undo(self) -> None:
        """Take the last batch back."""
        undo = self._undo
        self.keys, self.records, self.size_bytes = undo.keys, undo.records, undo.size_bytes
        for head, key, total, dead, size_bytes in undo.heads.values():
            head.key, head.total, head.dead, head.size_bytes = key, total, dead, size_bytes
        for slot, version, was_dead, size_bytes, data, changed in reversed(undo.slots):
            slot.version, slot.dead, slot.size_bytes, slot.data, slot.changed = (
                version, was_dead, size_bytes, data, changed,
            )  # fmt: skip
        for slots, owner in undo.added:
            del slots[owner]
        for at, state in reversed(undo.registers):
            if state is None:
                del self._registers[at]
            else:
                self._registers[at] = state

    @property
    def grown_bytes(self) -> int:
        """By how much the last batch changes the usage."""
        return self.size_bytes - self._undo.size_bytes

    def committed(self, writes: Sequence[Write], outcomes: list[WriteOutcome]) -> Committed:
        """What the last batch came to, once the transaction has ended."""
        return Committed(writes, outcomes, self._undo.created, self._undo.sizes_bytes)

    def _stage(self, write: Write) -> WriteOutcome:
        if isinstance(write, PutVersion):
            return self._put(write)
        if isinstance(write, DropVersion):
            return self._drop(write)
        return self._set_register(write)

    def _put(self, write: PutVersion) -> WriteOutcome:
        head, version = self._heads[write.place], write.version
        slots = self._names[head.id, version.name]
        if slots:
            slot = slots.get(version.owner)
            outcome = merged(version, slot.version if slot else None, write.admit, lambda: _held(slots))
        else:  # the usual case
            slot, outcome = None, STORED
        if outcome.result is _Result.STORED:
            if slot is None:
                slot = self._add(write, head, slots)
            else:
                self._change(head, slot, version, write.encoded)
            self._undo.sizes_bytes.append(slot.size_bytes)
        if write.key and not head.key:
            self._remember(head)
            head.key = write.key
        return outcome

    def _drop(self, write: DropVersion) -> WriteOutcome:
        head = self._heads[write.place]
        slot = self._names[head.id, write.name].get(write.owner)
        if slot is None or slot.version is None:
            return ALREADY
        if content_hash(slot.version) != write.content_hash:
            return WriteOutcome(_Result.STALE, slot.version)
        self._change(head, slot, None)
        return STORED

    def _add(self, write: PutVersion, head: Head, slots: Slots) -> Slot:
        """A record that was not there."""
        if head.new and not head.total:
            self._undo.created.add(write.place)
        version = write.version
        data, owner, dead = write.encoded or encode(version), version.owner, version.dead
        self._count(head, +1, dead, len(data))
        self.records += not dead
        self._undo.added.append((slots, owner))
        slot = slots[owner] = Slot(version, dead, len(data), data, True)
        return slot

    def _change(self, head: Head, slot: Slot, version: Version | None, encoded: bytes = b"") -> None:
        self._undo.slots.append((slot, slot.version, slot.dead, slot.size_bytes, slot.data, slot.changed))
        dead = version is not None and version.dead
        data = b"" if version is None else encoded or encode(version)
        here, was_here = version is not None, slot.size_bytes > 0
        self._count(head, here - was_here, dead - slot.dead, len(data) - slot.size_bytes)
        self.records += (here and not dead) - (was_here and not slot.dead)
        slot.version, slot.dead, slot.size_bytes, slot.data, slot.changed = version, dead, len(data), data, True

    def _count(self, head: Head, total: int, dead: int, size_bytes: int) -> None:
        """By how much a page and the whole change."""
        self._remember(head)
        before = head.total
        head.total += total
        head.dead += dead
        head.size_bytes += size_bytes
        self.size_bytes += size_bytes
        if not before or not head.total:
            self.keys += (head.total > 0) - (before > 0)
            head.key = head.key if head.total else b""

    def _remember(self, head: Head) -> None:
        if head.id not in self._undo.heads:
            head.changed = True
            self._undo.heads[head.id] = head, head.key, head.total, head.dead, head.size_bytes

    def _set_register(self, write: PutRegister) -> WriteOutcome:
        at = (write.place, write.name)
        before = self._registers.get(at)
        self._undo.registers.append((at, before))
        if before is None:
            row = self._database.execute("SELECT state FROM registers WHERE place = ? AND name = ?", at).fetchone()
            before = row[0] if row else b""
        self._registers[at] = write.state
        if before == write.state:
            return ALREADY
        self.size_bytes += len(write.state) - len(before)
        return STORED

    def usage_after(self, usage: Usage) -> Usage:
        return Usage(
            usage.keys + self.keys, usage.records + self.records, usage.chunks, usage.size_bytes + self.size_bytes
        )

    def remember(self) -> None:
        """The transaction has ended: the rows of the pages are so."""
        self._remembered.keep(self._heads)

    # --- writing ---

    def flush(self) -> None:
        """Write the staged state; the transaction is the caller's."""
        self._flush_heads()
        self._flush_slots()
        for at, state in self._registers.items():
            if state:
                self._database.execute("REPLACE INTO registers VALUES (?, ?, ?, ?)", (*at, crc32(state), state))
            else:
                self._database.execute("DELETE FROM registers WHERE place = ? AND name = ?", at)

    def _flush_heads(self) -> None:
        rows = [
            (head.id, place, head.key, head.total, head.dead, head.size_bytes)
            for place, head in self._heads.items()
            if head.total and head.changed
        ]
        self._save(_SAVE_PAGES, rows)
        empty = [(head.id,) for head in self._heads.values() if not head.total and head.changed and not head.new]
        self._database.executemany("DELETE FROM pages WHERE id = ?", empty)

    def _flush_slots(self) -> None:
        rows: list[tuple[Any, ...]] = []
        gone: list[tuple[int, bytes, bytes]] = []
        fresh = defaultdict[int, list[Fresh]](list)
        leaving = defaultdict[int, set[Identity]](set)  # their blocks
        for (page_id, name), slots in self._names.items():
            for owner, slot in slots.items():
                version = slot.version
                if not slot.changed:
                    continue
                if slot.block_id >= 0:
                    leaving[slot.block_id].add((name, owner))
                if version is None:
                    gone.append((page_id, name, owner))
                elif slot.block_id == NOWHERE and not slot.dead and not version.expires_ms:
                    fresh[page_id].append((name, owner, version, slot.data))
                else:
                    rows.append(_row(page_id, name, owner, version, slot.data))
        for block_id, identities in leaving.items():
            disk_blocks.take_out(self._database, block_id, self._blocks[block_id], identities)
        heads = {head.id: head for head in self._heads.values()}
        for page_id, records in fresh.items():
            rows += [_row(page_id, *record) for record in self._flush_blocks(heads[page_id], records)]
        for page_id, name, _, clock, *_ in rows:
            heads[page_id].reach(name, clock)
        self._save(_SAVE_VERSIONS, rows)
        self._database.executemany("DELETE FROM versions WHERE page = ? AND name = ? AND owner = ?", gone)

    def _flush_blocks(self, head: Head, records: list[Fresh]) -> list[Fresh]:
        """Write new records of a page as blocks; those that are to have rows."""
        records.sort()
        blocks, others = disk_blocks.choose(records, head.last_name, head.last_clock)
        disk_blocks.save(self._database, head.id, blocks)
        between, others = disk_blocks.choose(sorted(others))
        for block in between:
            if disk_blocks.fits(self._database, head.id, block):
                disk_blocks.save(self._database, head.id, [block])
                blocks.append(block)
            else:
                others += block
        for block in blocks:
            name, _, version, _ = block[-1]
            head.reach(name, version.clock)
        head.blocks |= bool(blocks)
        return others

    def _save(self, sql: str, rows: list[tuple[Any, ...]]) -> None:
        rows.sort(key=lambda row: row[:3])  # neighbours in the index are written one after the other
        for run in runs(rows):
            places = "(" + ", ".join("?" * len(run[0])) + ")"
            self._database.execute(sql.format(", ".join([places] * len(run))), _flat(run))


def _is_record(write: Write) -> bool:
    return not isinstance(write, PutRegister)


def _held(slots: Slots) -> list[Version]:
    """Every owner's version, the shared one first."""
    return [slot.version for _, slot in sorted(slots.items()) if slot.version is not None]


def runs(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Rows in runs of a few lengths, so that there are only a few statements, which SQLite then knows already."""
    start, length = 0, STORE_ROWS_AT_ONCE_MAX
    while start < len(rows):
        while length > len(rows) - start:
            length //= 2
        yield rows[start : start + length]
        start += length


def _flat(rows: Iterable[Iterable[Any]]) -> list[Any]:
    return [value for row in rows for value in row]
