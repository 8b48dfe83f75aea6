"""The JSON of the HTTP interface: what a record, a key, an outcome, a problem and the end of a stream look like.

Both sides use it: the gateway encodes, the clients decode. Imports nothing heavy, because the command line loads it.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import msgspec
from msgspec import UNSET, UnsetType

from p2pkv import errors
from p2pkv.errors import IncompleteError, P2pkvError, RefusedError
from p2pkv.outcomes import (
    Acks,
    ChunkStat,
    FileInfo,
    FileStat,
    PutOutcome,
    Record,
    ReplicaFailure,
    TransferOutcome,
    TransferProgress,
)

NDJSON = "application/x-ndjson"
PROBLEM = "application/problem+json"
FILE_HEADER = "P2pkv-File"
T = TypeVar("T")


class RecordLine(msgspec.Struct, frozen=True):
    """A record. Its value is text under `value`, other bytes under `value_base64`, and null where it is too long."""

    name: str
    size: int
    author: str
    time: float
    version: str
    cursor: str
    expires: float | None = None
    own: bool = False
    once: bool = False
    value: str | UnsetType | None = UNSET
    value_base64: str | UnsetType = UNSET


class ValueLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One value of a body of many."""

    value: str | UnsetType = UNSET
    value_base64: str | UnsetType = UNSET


class KeyLine(msgspec.Struct, frozen=True):
    """A key that this peer holds, and how many records of it."""

    count: int
    key: str | UnsetType = UNSET
    key_base64: str | UnsetType = UNSET


class PutLine(msgspec.Struct, frozen=True):
    """The outcome of a put."""

    name: str
    version: str
    asked: int
    stored: int
    needed: int
    reached: bool
    failures: list[ReplicaFailure] = []


class FileStatShape(msgspec.Struct, frozen=True):
    """A file's manifest and health."""

    info: FileInfo
    link: str
    replicas_wanted: int
    healthy: bool
    chunks: list[ChunkStat]


class Count(msgspec.Struct, frozen=True):
    count: int


class Deleted(msgspec.Struct, frozen=True):
    deleted: int


class Stopping(msgspec.Struct, frozen=True):
    stopping: bool


class Problem(msgspec.Struct, frozen=True):
    """RFC 9457, with the mend, the command line's exit code and what else the error knows."""

    type: str
    title: str
    status: int
    detail: str
    mend: str = ""
    exit_code: int = 1
    current: str | UnsetType = UNSET
    outcome: PutLine | UnsetType = UNSET


class End(msgspec.Struct, frozen=True):
    """The last line of a stream."""

    complete: bool
    count: int = 0
    reason: str | UnsetType = UNSET
    problem: Problem | UnsetType = UNSET


class TransferLine(msgspec.Struct, frozen=True):
    """A line of a local upload or download: exactly one of the two."""

    progress: TransferProgress | UnsetType = UNSET
    outcome: TransferOutcome | UnsetType = UNSET


class UploadRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to store of this machine, and how."""

    path: str
    name: str | None = None
    to: str = ""
    replicas: int | None = None
    encrypt: bool = False
    once: bool = False
    acks: Acks = "quorum"
    erasure: str | None = None


class DownloadRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to fetch, and where to put it. `range`: first and last byte, both included."""

    name: str
    target: str
    range: tuple[int, int] | None = None


encode = msgspec.json.Encoder().encode


def line(shape: object) -> bytes:
    return encode(shape) + b"\n"


def text_or_base64(data: bytes) -> tuple[str | UnsetType, str | UnsetType]:
    """Bytes as JSON can carry them: as text, or else in base64."""
    try:
        return data.decode(), UNSET
    except UnicodeDecodeError:
        return UNSET, base64.b64encode(data).decode()


def bytes_of(text: str | UnsetType | None, encoded: str | UnsetType) -> bytes:
    """The bytes of a pair of fields. Raises ValueError unless exactly one is there and well-formed."""
    if isinstance(text, str) and encoded is UNSET:
        return text.encode()
    if isinstance(encoded, str) and text is UNSET:
        try:
            return base64.b64decode(encoded, validate=True)
        except binascii.Error as error:
            raise ValueError(f"not base64: {error}") from error
    raise ValueError("exactly one of the text and the base64 field is wanted")


def record_line(record: Record) -> RecordLine:
    text: str | UnsetType | None = None
    encoded: str | UnsetType = UNSET
    if record.value is not None:
        text, encoded = text_or_base64(record.value)
    fields = {name: getattr(record, name) for name in record.__struct_fields__ if name != "value"}
    return RecordLine(**fields, value=text, value_base64=encoded)


def record_of(shape: RecordLine) -> Record:
    value = None if shape.value is None else bytes_of(shape.value, shape.value_base64)
    fields = {name: getattr(shape, name) for name in Record.__struct_fields__ if name != "value"}
    return Record(**fields, value=value)


def key_line(key: bytes, count: int) -> KeyLine:
    text, encoded = text_or_base64(key)
    return KeyLine(count, text, encoded)


def put_line(outcome: PutOutcome) -> PutLine:
    return PutLine(**msgspec.structs.asdict(outcome), reached=outcome.reached)


def put_of(shape: PutLine) -> PutOutcome:
    fields = msgspec.structs.asdict(shape)
    del fields["reached"]
    return PutOutcome(**fields)


def stat_shape(stat: FileStat) -> FileStatShape:
    return FileStatShape(**msgspec.structs.asdict(stat), healthy=stat.healthy)


def file_header(info: FileInfo) -> str:
    return quote(encode(info))


def file_of_header(header: str) -> FileInfo:
    return msgspec.json.decode(unquote(header), type=FileInfo)


def decode(data: bytes, type_: type[T]) -> T:
    """JSON from the other side. Raises P2pkvError where it is not what was agreed."""
    try:
        return msgspec.json.decode(data, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise P2pkvError(f"the peer's answer makes no sense: {error}", MEND_VERSIONS) from error


MEND_VERSIONS = "check that the peer and this program have the same version"
_ERRORS: dict[str, type[P2pkvError]] = {
    error.kind: error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, P2pkvError)
}
# Kinds of the gateway's own (busy, unauthorized, range) are to a client what ends with the same exit code.
_BY_EXIT_CODE = {error.exit_code: error for error in _ERRORS.values() if error.exit_code != P2pkvError.exit_code}


def problem_of(error: P2pkvError) -> Problem:
    """An error as HTTP tells it."""
    title = error.kind.replace("-", " ").capitalize()
    current = getattr(error, "current", "") or UNSET
    outcome = getattr(error, "outcome", None)
    shape = put_line(outcome) if isinstance(outcome, PutOutcome) else UNSET
    return Problem(
        error.kind, title, error.http_status, str(error), error.mend, error.exit_code, current=current, outcome=shape
    )


def error_of(problem: Problem) -> P2pkvError:
    """The error that a problem stands for."""
    kind = _ERRORS.get(problem.type) or _BY_EXIT_CODE.get(problem.exit_code, P2pkvError)
    if kind is RefusedError:
        return RefusedError(problem.detail, problem.mend, current=problem.current or "")
    if kind is IncompleteError:
        return IncompleteError(
            problem.detail, problem.mend, outcome=put_of(problem.outcome) if problem.outcome else None
        )
    return kind(problem.detail, problem.mend)


def item_of(data: bytes) -> dict[str, Any] | None:
    """A line of a stream, or None where it is the end that says "complete". Raises the error of one that does not."""
    item = decode(data, dict[str, Any])
    if "complete" not in item:
        return item
    end = msgspec.convert(item, End)
    if not end.complete:
        raise error_of(end.problem) if isinstance(end.problem, Problem) else IncompleteError(str(end.reason))
    return None


def cut_off() -> IncompleteError:
    """What a stream without its last line means."""
    return IncompleteError("the peer's answer was cut off", "see whether the peer still runs, then try again")
