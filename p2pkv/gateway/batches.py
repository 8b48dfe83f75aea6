"""The JSON of atomic batches: a line for each record that is put or deleted, and what became of them.

Both sides use it, the command line too: it reads the same lines from a file. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import UNSET, UnsetType

from p2pkv.errors import InvalidError
from p2pkv.gateway.shapes import bytes_of, put_line, text_or_base64
from p2pkv.limits import ATOMIC_BYTES_MAX, ATOMIC_RECORDS_MAX
from p2pkv.outcomes import BatchChange, BatchOutcome, BatchRecord, PutOutcome, ReplicaFailure

MEND_LINE = 'a line is {"key": "...", "name": "...", "value": "..."} or {"key": "...", "name": "...", "delete": true}'


class ChangeLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One record of a batch: what is to stand under a key and name, or to be deleted there."""

    key: str | UnsetType = UNSET
    key_base64: str | UnsetType = UNSET
    name: str | None = None
    value: str | UnsetType = UNSET
    value_base64: str | UnsetType = UNSET
    ttl: float | None = None
    own: bool = False
    delete: bool = False
    once: bool = False  # known, so that it is refused with a word of why
    if_version: str | None = None


class BatchRecordShape(msgspec.Struct, frozen=True):
    """One record of a batch that was committed."""

    name: str
    version: str
    asked: int
    stored: int
    needed: int
    reached: bool
    deleted: bool = False
    failures: list[ReplicaFailure] = []
    key: str | UnsetType = UNSET
    key_base64: str | UnsetType = UNSET


class BatchShape(msgspec.Struct, frozen=True):
    """A batch that was committed."""

    batch: str
    committed: bool
    records: list[BatchRecordShape]


def change_line(change: BatchChange) -> ChangeLine:
    key = change.key.encode(errors="surrogateescape") if isinstance(change.key, str) else change.key
    value = (UNSET, UNSET) if change.delete else text_or_base64(change.value)
    return ChangeLine(*text_or_base64(key), change.name, *value, change.ttl_s, change.own, change.delete)


class Changes:
    """A batch read line by line, within its bounds."""

    def __init__(self) -> None:
        self.all: list[BatchChange] = []
        self._lines = self._size_bytes = 0

    def add(self, line: bytes) -> None:
        """Raises InvalidError, which names the line."""
        self._lines += 1
        if not line.strip():
            return
        try:
            change = _change_of(msgspec.json.decode(line, type=ChangeLine))
        except InvalidError as error:
            raise InvalidError(f"line {self._lines}: {error}", error.mend) from error
        except ValueError as error:  # msgspec's errors are such, too
            raise InvalidError(f"line {self._lines}: {error}", MEND_LINE) from error
        self.all.append(change)
        self._size_bytes += len(change.value)
        if len(self.all) > ATOMIC_RECORDS_MAX or self._size_bytes > ATOMIC_BYTES_MAX:
            raise InvalidError(
                f"line {self._lines}: the batch is too large",
                f"an atomic batch has at most {ATOMIC_RECORDS_MAX} records and {ATOMIC_BYTES_MAX} bytes of values",
            )


def _change_of(line: ChangeLine) -> BatchChange:
    if line.once or line.if_version is not None:
        raise InvalidError("write-once and compare-and-set do not go in a batch", "put such a record by itself")
    no_value = line.value is UNSET and line.value_base64 is UNSET
    value = b"" if line.delete and no_value else bytes_of(line.value, line.value_base64)
    return BatchChange(bytes_of(line.key, line.key_base64), value, line.name, line.ttl, line.own, line.delete)


def batch_shape(outcome: BatchOutcome) -> BatchShape:
    return BatchShape(outcome.batch, True, [_record_shape(record) for record in outcome.records])


def _record_shape(record: BatchRecord) -> BatchRecordShape:
    fields = msgspec.structs.asdict(put_line(record.outcome))
    text, encoded = text_or_base64(record.key)
    return BatchRecordShape(**fields, deleted=record.deleted, key=text, key_base64=encoded)


def batch_of(shape: BatchShape) -> BatchOutcome:
    return BatchOutcome(shape.batch, [_record_of(record) for record in shape.records])


def _record_of(shape: BatchRecordShape) -> BatchRecord:
    outcome = PutOutcome(shape.name, shape.version, shape.asked, shape.stored, shape.needed, shape.failures)
    return BatchRecord(bytes_of(shape.key, shape.key_base64), outcome, shape.deleted)


def body_of(changes: Iterable[BatchChange]) -> bytes:
    """A whole batch as a request has it."""
    return b"".join(msgspec.json.encode(change_line(change)) + b"\n" for change in changes)
