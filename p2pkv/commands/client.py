"""The command line's way to a running peer: the methods of `Peer`, synchronous, over the peer's Unix socket.

Errors of the peer are raised here as what they were there. A stream is a generator: closing it cancels the request, and
it raises IncompleteError where it was cut off. Imports neither asyncio nor anything of the swarm, for the sake of
start-up time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from p2pkv.commands.client_http import Body, Response, request
from p2pkv.errors import InvalidError
from p2pkv.gateway import batches, shapes
from p2pkv.gateway.targets import Value, file_target, query, segment, stream_name
from p2pkv.limits import HTTP_BATCH_BYTES_MAX, HTTP_BATCH_LINES_MAX
from p2pkv.outcomes import (
    Acks,
    BatchChange,
    BatchOutcome,
    ContactInfo,
    FileInfo,
    FileStat,
    LookupTrace,
    Order,
    PutOutcome,
    Record,
    ReplicaInfo,
    Sighting,
    Status,
    TransferOutcome,
    TransferProgress,
)

T = TypeVar("T")
Key = bytes | str
Progress = Callable[[TransferProgress], None]
_BATCH_PAUSE_S = 0.05  # a slow source does not make its values wait for a full batch


class Client:
    """Speaks to the peer whose socket is `socket`. Each call has its own connection, so streams may overlap."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held between calls."""

    # --- records ---
    def put(
        self,
        key: Key,
        value: bytes | Iterable[bytes],
        *,
        name: str | None = None,
        once: bool = False,
        own: bool = False,
        if_version: str | None = None,
        ttl_s: float | None = None,
        acks: Acks = "quorum",
    ) -> PutOutcome:
        """Put one record; a long value may come in blocks. Raises IncompleteError with the outcome of a short one."""
        values = {"name": name, "once": once, "own": own, "if_version": if_version, "ttl": ttl_s, "acks": acks}
        return shapes.put_of(self._json("POST", f"/v1/keys/{segment(key)}{query(values)}", shapes.PutLine, value))

    def put_many(
        self,
        key: Key,
        values: Iterable[bytes],
        *,
        own: bool = False,
        ttl_s: float | None = None,
        acks: Acks = "quorum",
    ) -> Iterator[PutOutcome]:
        """Put one record per value; the outcomes in the order of the values, those not reached among them."""
        target = f"/v1/keys/{segment(key)}{query({'ttl': ttl_s, 'own': own, 'acks': acks})}"
        for batch in _batches(values):
            lines = self._lines("POST", target, batch, shapes.NDJSON)
            yield from (shapes.put_of(msgspec.convert(line, shapes.PutLine)) for line in lines)

    def put_batch(self, changes: Iterable[BatchChange], *, acks: Acks = "quorum") -> BatchOutcome:
        """Put and delete records of any keys, all of them or none. Raises where nothing of it was stored."""
        body = batches.body_of(changes)
        response = self._request(
            "POST", f"/v1/batch{query({'acks': acks})}", body, headers={"Content-Type": shapes.NDJSON}
        )
        return batches.batch_of(shapes.decode(_checked(response).read(), batches.BatchShape))

    def get(
        self,
        key: Key,
        *,
        name: str | None = None,
        prefix: str = "",
        limit: int | None = None,
        after: str | None = None,
        reverse: bool = False,
        order: Order = "time",
        since_s: float | None = None,
        until_s: float | None = None,
    ) -> Iterator[Record]:
        """The records of a key; nothing where it has none. Raises IncompleteError where the answer is incomplete."""
        values: dict[str, str | int | float | None] = {"name": name, "prefix": prefix, "limit": limit, "after": after}
        values |= {"reverse": reverse, "order": order, "since": since_s, "until": until_s}
        return self._records(f"/v1/keys/{segment(key)}{query(values)}")

    def stream(self, key: Key, record: Record) -> Iterator[bytes]:
        """The value of a record, in blocks, however long it is."""
        target = f"/v1/keys/{segment(key)}/{segment(record.name)}"
        response = _checked(self._request("GET", target + query({"raw": True, "version": record.version})))
        yield from response.blocks()

    def count(self, key: Key, *, prefix: str = "") -> int:
        return self._json("GET", f"/v1/count/{segment(key)}{query({'prefix': prefix})}", shapes.Count).count

    def delete(self, key: Key, *, name: str | None = None, acks: Acks = "quorum") -> int:
        """Delete a record, or all records of the key; how many there were."""
        target = f"/v1/keys/{segment(key)}" + ("" if name is None else f"/{segment(name)}")
        return self._json("DELETE", target + query({"acks": acks}), shapes.Deleted).deleted

    def watch(self, key: Key, *, after: str | None = None) -> Iterator[Record]:
        """Records as they arrive, without end."""
        return self._records(f"/v1/watch/{segment(key)}{query({'after': after})}")

    def keys(self, prefix: Key = b"") -> Iterator[tuple[bytes, int]]:
        """The keys that the peer holds, each with its number of records."""
        for item in self._lines("GET", f"/v1/keys{query({'prefix': prefix})}"):
            line = msgspec.convert(item, shapes.KeyLine)
            yield shapes.bytes_of(line.key, line.key_base64), line.count

    # --- files ---
    def upload(
        self,
        source: Path | Iterable[bytes],
        name: str | None = None,
        *,
        to: str = "",
        replicas: int | None = None,
        erasure: str | None = None,
        encrypt: bool = False,
        once: bool = False,
        acks: Acks = "quorum",
        progress: Progress | None = None,
    ) -> TransferOutcome:
        """Store a file or a whole folder, or a stream of bytes (which needs `name` and reports no progress)."""
        if isinstance(source, Path):
            path = str(source.absolute())
            asked = shapes.UploadRequest(path, name, to, replicas, encrypt, once, acks, erasure)
            return self._transfer("/v1/local/upload", asked, progress)
        values: dict[str, Value] = {
            "replicas": replicas,
            "erasure": erasure,
            "encrypt": encrypt,
            "once": once,
            "acks": acks,
        }
        return self._json("PUT", file_target(stream_name(name, to)) + query(values), TransferOutcome, source)

    def download(
        self,
        name_or_link: str,
        target: Path,
        *,
        byte_range: tuple[int, int] | None = None,
        progress: Progress | None = None,
    ) -> TransferOutcome:
        """Fetch a file or folder to this machine. `byte_range`: first and last byte, both included."""
        asked = shapes.DownloadRequest(name_or_link, str(target.absolute()), byte_range)
        return self._transfer("/v1/local/download", asked, progress)

    def open_file(
        self, name_or_link: str, *, byte_range: tuple[int, int] | None = None
    ) -> tuple[FileInfo, Iterator[bytes]]:
        """A file's description, and its content in blocks."""
        headers = {} if byte_range is None else {"Range": f"bytes={byte_range[0]}-{byte_range[1]}"}
        response = _checked(self._request("GET", file_target(name_or_link), headers=headers))
        if byte_range and response.status != 206:
            response.close()
            raise InvalidError(
                f"no range of bytes: {byte_range[0]}-{byte_range[1]}", "give the first and the last byte"
            )
        return shapes.file_of_header(response.headers[shapes.FILE_HEADER.lower()]), response.blocks()

    def list_files(self, prefix: str = "", *, recursive: bool = True) -> Iterator[FileInfo]:
        lines = self._lines("GET", f"/v1/files{query({'prefix': prefix, 'flat': not recursive})}")
        return (msgspec.convert(line, FileInfo) for line in lines)

    def delete_file(self, name: str, *, recursive: bool = False, acks: Acks = "quorum") -> int:
        """How many files, links and folders went."""
        target = file_target(name) + query({"recursive": recursive, "acks": acks})
        return self._json("DELETE", target, shapes.Deleted).deleted

    def stat_file(self, name: str) -> FileStat:
        return self._json("GET", f"/v1/stat/{segment(name)}", FileStat)

    # --- the peer ---
    def status(self) -> Status:
        return self._json("GET", "/v1/status", Status)

    def peers(self) -> list[ContactInfo]:
        return self._json("GET", "/v1/peers", list[ContactInfo])

    def seen_as(self) -> list[Sighting]:
        return self._json("GET", "/v1/seen-as", list[Sighting])

    def where(self, key: Key) -> list[ReplicaInfo]:
        return self._json("GET", f"/v1/where/{segment(key)}", list[ReplicaInfo])

    def trace(self, key: Key) -> LookupTrace:
        return self._json("GET", f"/v1/trace/{segment(key)}", LookupTrace)

    def config(self) -> dict[str, Any]:
        """What the peer was started with."""
        return self._json("GET", "/v1/config", dict[str, Any])

    def verify(self) -> dict[str, Any]:
        return self._json("POST", "/v1/verify", dict[str, Any])

    def repair(self) -> dict[str, Any]:
        return self._json("POST", "/v1/repair", dict[str, Any])

    def stop(self) -> None:
        """Ask the peer to leave; it goes on answering until it has handed over."""
        self._json("POST", "/v1/stop", shapes.Stopping)

    # --- how ---
    def _request(
        self, method: str, target: str, body: Body = None, *, headers: Mapping[str, str] | None = None
    ) -> Response:
        return request(self.socket, method, target, body, headers or {})

    def _json(self, method: str, target: str, type_: type[T], body: Body = None) -> T:
        return shapes.decode(_checked(self._request(method, target, body)).read(), type_)

    def _lines(self, method: str, target: str, body: Body = None, content_type: str = "") -> Iterator[dict[str, Any]]:
        """The objects of a stream up to its end. Raises what the end says, and IncompleteError where there is none."""
        response = _checked(
            self._request(method, target, body, headers={"Content-Type": content_type} if body else None)
        )
        try:
            for line in response.lines():
                item = shapes.item_of(line)
                if item is None:
                    return
                yield item
            raise shapes.cut_off()
        finally:
            response.close()

    def _records(self, target: str) -> Iterator[Record]:
        return (shapes.record_of(msgspec.convert(line, shapes.RecordLine)) for line in self._lines("GET", target))

    def _transfer(self, target: str, asked: object, progress: Progress | None) -> TransferOutcome:
        outcome: TransferOutcome | None = None
        for item in self._lines("POST", target, shapes.encode(asked), "application/json"):
            line = msgspec.convert(item, shapes.TransferLine)
            if line.progress and progress:
                progress(line.progress)
            outcome = line.outcome or outcome
        if outcome is None:
            raise shapes.cut_off()
        return outcome


def _checked(response: Response) -> Response:
    """The response, unless it is a problem: then its error."""
    if response.status < 400:
        return response
    raise shapes.error_of(shapes.decode(response.read(), shapes.Problem))


def _batches(values: Iterable[bytes]) -> Iterator[bytes]:
    """Bodies of many values, none so long that peer and client could wait for each other."""
    lines: list[bytes] = []
    size, begun_s = 0, time.monotonic()
    for value in values:
        line = shapes.line(shapes.ValueLine(*shapes.text_or_base64(value)))
        if lines and size + len(line) > HTTP_BATCH_BYTES_MAX:
            yield b"".join(lines)
            lines, size = [], 0
        lines.append(line)
        size += len(line)
        if len(lines) >= HTTP_BATCH_LINES_MAX or time.monotonic() - begun_s > _BATCH_PAUSE_S:
            yield b"".join(lines)
            lines, size, begun_s = [], 0, time.monotonic()
    if lines:
        yield b"".join(lines)
