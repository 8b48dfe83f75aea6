"""One batch of record writes on the way into SQLite: staged whole, weighed, then written.

Staging only reads, so a batch that does not fit leaves no trace. Runs in the writer's thread, inside its transaction.
Never commits, never touches chunks.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from zlib import crc32

import msgspec

from p2pkv.core.records import Version, content_hash
from p2pkv.ids import Place
from p2pkv.storage.interface import DropVersion, PutRegister, PutVersion, Usage, Write, WriteOutcome
from p2pkv.storage.interface import Result as _Result
from p2pkv.storage.page import ALREADY, STORED, outranks
from p2pkv.storage.ranges import encode

_decoder = msgspec.msgpack.Decoder(Version)
_UPSERT = (
    "INSERT INTO versions (page, name, owner, clock, dead, expires_ms, crc, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (page, name, owner) DO UPDATE SET clock = excluded.clock, dead = excluded.dead, "
    "expires_ms = excluded.expires_ms, crc = excluded.crc, data = excluded.data"
)


@dataclass(slots=True)
class Head:
    """A page's row, as the batch leaves it."""

    id: int
    key: bytes
    total: int
    dead: int
    size_bytes: int
    new: bool


@dataclass(slots=True)
class Slot:
    """A record's row, as the batch leaves it. `version` is None where there is none, or a damaged one."""

    version: Version | None
    dead: bool
    size_bytes: int  # 0 where there is no row, and only there
    changed: bool = False


@dataclass(slots=True)
class Committed:
    """What the caller and the cache learn of a batch."""

    writes: Sequence[Write]
    outcomes: list[WriteOutcome]
    created: set[Place]  # pages that did not exist before


def checksum(page_id: int, data: bytes) -> int:
    """Bound to the page, so a row under a wrong page is noticed too."""
    return crc32(data, page_id & 0xFFFFFFFF)


def decode(page_id: int, crc: int, data: bytes) -> Version | None:
    """The version of a row; None where its bytes are damaged."""
    if checksum(page_id, data) != crc:
        return None
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, TypeError):
        return None


def state_of(version: Version) -> int:
    """The column `dead`: 0 of what lives, 1 of a tombstone, 2 of what waits in an atomic batch."""
    return 2 if version.pending else int(version.dead)


class Batch:
    """Stages writes in order; `flush` then writes what they came to."""

    def __init__(self, database: sqlite3.Connection, next_page_id: int) -> None:
        self._database = database
        self.next_page_id = next_page_id
        self._heads: dict[Place, Head] = {}
        self._slots: dict[tuple[Place, bytes, bytes], Slot] = {}
        self._registers: dict[tuple[Place, bytes], bytes] = {}
        self.keys = self.records = self.size_bytes = 0  # by how much the batch changes the usage

    def stage(self, writes: Iterable[Write]) -> list[WriteOutcome]:
        return [self._stage(write) for write in writes]

    def _stage(self, write: Write) -> WriteOutcome:
        if isinstance(write, PutVersion):
            return self._put(write)
        if isinstance(write, DropVersion):
            return self._drop(write)
        return self._set_register(write)

    def _put(self, write: PutVersion) -> WriteOutcome:
        head = self._head(write.place)
        version = write.version
        slot = self._slot(write.place, head, version.name, version.owner)
        outcome = STORED if slot.version is None else outranks(version, slot.version)
        if outcome is STORED:
            self._change(head, slot, version)
        if write.key and not head.key:
            head.key = write.key
        return outcome

    def _drop(self, write: DropVersion) -> WriteOutcome:
        head = self._head(write.place)
        slot = self._slot(write.place, head, write.name, write.owner)
        if slot.version is None:
            return ALREADY
        if content_hash(slot.version) != write.content_hash:
            return WriteOutcome(_Result.STALE, slot.version)
        self._change(head, slot, None)
        return STORED

    def _change(self, head: Head, slot: Slot, version: Version | None) -> None:
        dead = version is not None and version.dead
        size_bytes = 0 if version is None else len(encode(version))
        total_delta = (size_bytes > 0) - (slot.size_bytes > 0)
        self.keys += (head.total + total_delta > 0) - (head.total > 0)
        self.records += (size_bytes > 0 and not dead) - (slot.size_bytes > 0 and not slot.dead)
        self.size_bytes += size_bytes - slot.size_bytes
        head.total += total_delta
        head.dead += dead - slot.dead
        head.size_bytes += size_bytes - slot.size_bytes
        if not head.total:
            head.key = b""
        slot.version, slot.dead, slot.size_bytes, slot.changed = version, dead, size_bytes, True

    def _set_register(self, write: PutRegister) -> WriteOutcome:
        at = (write.place, write.name)
        before = self._registers.get(at)
        if before is None:
            row = self._database.execute("SELECT state FROM registers WHERE place = ? AND name = ?", at).fetchone()
            before = row[0] if row else b""
        if before == write.state:
            return ALREADY
        self._registers[at] = write.state
        self.size_bytes += len(write.state) - len(before)
        return STORED

    def _head(self, place: Place) -> Head:
        head = self._heads.get(place)
        if head is None:
            sql = "SELECT id, key, total, dead, size_bytes FROM pages WHERE place = ?"
            row = self._database.execute(sql, (place,)).fetchone()
            if row is None:
                head = Head(self._new_page_id(), b"", 0, 0, 0, new=True)
            else:
                head = Head(row[0], row[1], row[2], row[3], row[4], new=False)
            self._heads[place] = head
        return head

    def _new_page_id(self) -> int:
        self.next_page_id += 1
        return self.next_page_id - 1

    def _slot(self, place: Place, head: Head, name: bytes, owner: bytes) -> Slot:
        slot = self._slots.get((place, name, owner))
        if slot is None:
            row = None
            if not head.new:
                sql = "SELECT crc, data, dead FROM versions WHERE page = ? AND name = ? AND owner = ?"
                row = self._database.execute(sql, (head.id, name, owner)).fetchone()
            slot = (
                Slot(decode(head.id, row[0], row[1]), bool(row[2]), max(1, len(row[1])))
                if row
                else Slot(None, False, 0)
            )
            self._slots[place, name, owner] = slot
        return slot

    def created(self) -> set[Place]:
        return {place for place, head in self._heads.items() if head.new}

    def usage_after(self, usage: Usage) -> Usage:
        return Usage(
            usage.keys + self.keys, usage.records + self.records, usage.chunks, usage.size_bytes + self.size_bytes
        )

    def flush(self) -> None:
        """Write the staged state; the transaction is the caller's."""
        self._flush_heads()
        for (place, name, owner), slot in self._slots.items():
            if slot.changed:
                self._flush_slot(self._heads[place].id, name, owner, slot.version)
        for at, state in self._registers.items():
            if state:
                self._database.execute("REPLACE INTO registers VALUES (?, ?, ?, ?)", (*at, crc32(state), state))
            else:
                self._database.execute("DELETE FROM registers WHERE place = ? AND name = ?", at)

    def _flush_heads(self) -> None:
        for place, head in self._heads.items():
            if head.total:
                self._database.execute(
                    "INSERT INTO pages VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET key = excluded.key, "
                    "total = excluded.total, dead = excluded.dead, size_bytes = excluded.size_bytes",
                    (head.id, place, head.key, head.total, head.dead, head.size_bytes),
                )
            elif not head.new:
                self._database.execute("DELETE FROM pages WHERE id = ?", (head.id,))

    def _flush_slot(self, page_id: int, name: bytes, owner: bytes, version: Version | None) -> None:
        if version is None:
            at = (page_id, name, owner)
            self._database.execute("DELETE FROM versions WHERE page = ? AND name = ? AND owner = ?", at)
            return
        data = encode(version)
        state = state_of(version)
        row = (page_id, name, owner, version.clock, state, version.expires_ms, checksum(page_id, data), data)
        self._database.execute(_UPSERT, row)
