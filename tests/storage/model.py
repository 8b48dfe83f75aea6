"""The plainest store there could be: what the engines are compared with."""

from __future__ import annotations

import msgspec

from p2pkv.core.records import Version, content_hash, rank
from p2pkv.storage.interface import (
    Cursor,
    DropVersion,
    PutRegister,
    PutVersion,
    RangeQuery,
    RangeResult,
    Result,
    Write,
    WriteOutcome,
)


class Model:
    """Dictionaries, sorted anew at every read."""

    def __init__(self) -> None:
        self.records: dict[tuple[bytes, bytes, bytes], Version] = {}
        self.registers: dict[tuple[bytes, bytes], bytes] = {}

    def commit(self, writes: list[Write]) -> list[WriteOutcome]:
        return [self._write(write) for write in writes]

    def _write(self, write: Write) -> WriteOutcome:
        if isinstance(write, PutRegister):
            same = self.registers.get((write.place, write.name), b"") == write.state
            self.registers[write.place, write.name] = write.state
            return WriteOutcome(Result.ALREADY if same else Result.STORED)
        if isinstance(write, PutVersion):
            at = (write.place, write.version.name, write.version.owner)
            current = self.records.get(at)
            if current is not None and rank(current) == rank(write.version):
                return WriteOutcome(Result.ALREADY)
            if current is not None and rank(current) > rank(write.version):
                return WriteOutcome(Result.STALE, current)
            self.records[at] = write.version
            return WriteOutcome(Result.STORED, replaced=current)
        assert isinstance(write, DropVersion)
        at = (write.place, write.name, write.owner)
        current = self.records.get(at)
        if current is None:
            return WriteOutcome(Result.ALREADY)
        if content_hash(current) != write.content_hash:
            return WriteOutcome(Result.STALE, current)
        del self.records[at]
        return WriteOutcome(Result.STORED)

    def page(self, place: bytes) -> list[Version]:
        return [version for at, version in self.records.items() if at[0] == place]

    def read(self, query: RangeQuery, now_s: float) -> RangeResult:
        def position(v: Version | Cursor) -> tuple:
            return (v.clock, v.name, v.owner) if query.order == "time" else (v.name, v.owner)

        found = sorted(self.page(query.place), key=position, reverse=query.reverse)
        batches = sorted({v.batch for v in found if v.pending})
        found = [v for v in found if v.pending is query.pending]
        if not query.dead and not query.pending:
            found = [v for v in found if not v.dead and not v.expired(now_s)]
        found = [v for v in found if v.name.startswith(query.prefix)]
        sign = -1 if query.reverse else 1
        if query.after:
            found = [v for v in found if compare(position(v), position(query.after)) * sign > 0]
        if query.until:
            found = [v for v in found if compare(position(v), position(query.until)) * sign <= 0]
        taken, size = [], 0
        for version in found:
            size += len(msgspec.msgpack.encode(version))
            if len(taken) == query.limit or (taken and size > query.bytes_max):
                return RangeResult(taken, True, batches)
            taken.append(version)
        return RangeResult(taken, False, batches)


def compare(a: tuple, b: tuple) -> int:
    return (a > b) - (a < b)
