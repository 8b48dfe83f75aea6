"""A stand-in for a peer behind its Unix socket: keeps records in a dict and fails on demand.

Runs in a thread (`FakePeer`) or as a process of its own (`python -m tests.commands.fake_server HOME`).
"""

from __future__ import annotations

import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, unquote_to_bytes

from p2pkv.errors import IncompleteError, NotFoundError, P2pkvError, RefusedError
from p2pkv.gateway import batches, shapes
from p2pkv.outcomes import (
    BatchOutcome,
    BatchRecord,
    ChunkStat,
    ContactInfo,
    FileInfo,
    FileStat,
    Hop,
    LookupTrace,
    PutOutcome,
    Record,
    ReplicaFailure,
    ReplicaInfo,
    Sighting,
    Status,
    TransferOutcome,
    TransferProgress,
)

NODE = "ab" * 20


class FakePeer(socketserver.ThreadingUnixStreamServer):
    """`records` and `files` are its world; `stored` below 5 makes puts fall short; `broken` cuts every get off."""

    daemon_threads = True

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.records: dict[bytes, list[Record]] = {}
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.stored = 8
        self.sightings: list[Sighting] = []
        self.broken: P2pkvError | None = None
        self.hold = threading.Event()  # transfers wait for it
        self.hold.set()
        super().__init__(str(home / "peer.sock"), _Handler)

    def __enter__(self) -> FakePeer:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that left is no news."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def add(self, key: bytes, value: bytes | None, name: str | None = None, size: int | None = None) -> PutOutcome:
        records = self.records.setdefault(key, [])
        number = f"{len(records):06d}"
        length = len(value or b"") if size is None else size
        records.append(Record(name or number, value, length, "ff" * 32, time.time(), f"v{number}", f"c{number}"))
        failures = [ReplicaFailure(NODE, "127.0.0.1:9", "silent")] * (8 - self.stored)
        return PutOutcome(name or number, f"v{number}", 8, self.stored, 5, failures)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakePeer

    def address_string(self) -> str:
        return "client"

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def _answer(self) -> None:
        path, _, query = self.path.partition("?")
        self.query = {name: values[0] for name, values in parse_qs(query).items()}
        self.server.asked.append((f"{self.command} {unquote(path)}", self.query))
        body = self._body()
        parts = path.split("/")[2:]
        try:
            getattr(self, f"_{parts[0].replace('-', '_')}")([unquote_to_bytes(part) for part in parts[1:]], body)
        except P2pkvError as error:
            self._send(error.http_status, shapes.encode(shapes.problem_of(error)), shapes.PROBLEM)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        blocks = []
        while size := int(self.rfile.readline(), 16):
            blocks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(blocks)

    def _send(
        self, status: int, body: bytes, kind: str = "application/json", headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, items: list[Any]) -> None:
        end = shapes.End(True, len(items))
        if self.server.broken is not None:
            end = shapes.End(False, len(items), str(self.server.broken), shapes.problem_of(self.server.broken))
        self._send(200, b"".join(map(shapes.line, [*items, end])), shapes.NDJSON)

    def _keys(self, path: list[bytes], body: bytes) -> None:
        if not path:
            self._stream([shapes.key_line(key, len(found)) for key, found in sorted(self.server.records.items())])
        elif self.command == "POST" and self.headers["Content-Type"] == shapes.NDJSON:
            values = [shapes.decode(line, shapes.ValueLine) for line in body.splitlines()]
            added = [self.server.add(path[0], shapes.bytes_of(one.value, one.value_base64)) for one in values]
            self._stream([shapes.put_line(outcome) for outcome in added])
        elif self.command in {"POST", "PUT"}:
            self._put(path[0], body)
        elif self.command == "DELETE":
            self._send(200, shapes.encode(shapes.Deleted(len(self.server.records.pop(path[0], [])))))
        elif len(path) == 2:
            self._send(200, b"x" * 1000)
        else:
            self._stream([shapes.record_line(record) for record in self._selected(path[0])])

    def _batch(self, path: list[bytes], body: bytes) -> None:
        changes = batches.Changes()
        for line in body.splitlines():
            changes.add(line)
        if self.server.broken is not None:
            raise self.server.broken
        records = []
        for change in changes.all:
            assert isinstance(change.key, bytes)
            outcome = self.server.add(change.key, change.value, change.name)
            records.append(BatchRecord(change.key, outcome, change.delete))
        self._send(201, shapes.encode(batches.batch_shape(BatchOutcome("ab" * 16, records))))

    def _put(self, key: bytes, body: bytes) -> None:
        name = self.query.get("name")
        if self.query.get("once") and any(record.name == name for record in self.server.records.get(key, [])):
            raise RefusedError(f"{name!r} is write-once and exists", "choose another name", current="v0")
        outcome = self.server.add(key, body, name)
        if outcome.reached:
            self._send(201, shapes.encode(shapes.put_line(outcome)))
            return
        error = IncompleteError("too few replicas")
        error.outcome = outcome  # type: ignore[attr-defined]
        raise error

    def _selected(self, key: bytes) -> list[Record]:
        found = self.server.records.get(key, [])
        found = [record for record in found if record.name == self.query.get("name", record.name)]
        found = [record for record in found if record.cursor > self.query.get("after", "")]
        found = found[::-1] if self.query.get("reverse") else found
        return found[: int(self.query.get("limit", len(found)))]

    def _count(self, path: list[bytes], body: bytes) -> None:
        self._send(200, shapes.encode(shapes.Count(len(self.server.records.get(path[0], [])))))

    def _watch(self, path: list[bytes], body: bytes) -> None:
        self._stream([shapes.record_line(record) for record in self._selected(path[0])])

    def _where(self, path: list[bytes], body: bytes) -> None:
        holds = path[0] in self.server.records
        self._send(200, shapes.encode([ReplicaInfo(NODE, "127.0.0.1:9", holds, "\x1b[31mred")]))

    def _trace(self, path: list[bytes], body: bytes) -> None:
        hop = Hop(NODE, "127.0.0.1:9", 158, 0, 0.1, 1.5, "answered", 8, 2)
        self._send(200, shapes.encode(LookupTrace("cd" * 20, [hop], [NODE], 2.0)))

    def _peers(self, path: list[bytes], body: bytes) -> None:
        self._send(200, shapes.encode([ContactInfo(NODE, "127.0.0.1:9", "p2pkv", 0.4, 65.0, 1.0, 0)]))

    def _status(self, path: list[bytes], body: bytes) -> None:
        found = Status(
            NODE, "ff" * 32, "0", "/home", ["127.0.0.1:8468"], "", 61.0, 3, 4, 5, 2, 1, 2048, None, True, [], "asyncio",
            1 << 20, ["the clock \x1b[2Jjumps"], {}
        )  # fmt: skip
        self._send(200, shapes.encode(found))

    def _seen_as(self, path: list[bytes], body: bytes) -> None:
        self._send(200, shapes.encode(self.server.sightings))

    def _verify(self, path: list[bytes], body: bytes) -> None:
        damaged = ["ee" * 32] if self.server.broken else []
        self._send(200, shapes.encode({"chunks_checked": 3, "chunks_damaged": damaged}))

    def _repair(self, path: list[bytes], body: bytes) -> None:
        self._send(200, shapes.encode({"records_sent": 0}))

    def _stat(self, path: list[bytes], body: bytes) -> None:
        name = path[0].decode()
        replicas = [ReplicaInfo(NODE, f"127.0.0.1:{number}", number < self.server.stored) for number in range(8)]
        chunk = ChunkStat("cc" * 32, len(self.server.files[name]), replicas)
        stat = FileStat(_info(name, self.server.files[name]), f"p2pkv:{name}", 8, [chunk])
        self._send(200, shapes.encode(shapes.stat_shape(stat)))

    def _files(self, path: list[bytes], body: bytes) -> None:
        if not path:
            prefix = self.query.get("prefix", "")
            self._stream([_info(name, data) for name, data in self.server.files.items() if name.startswith(prefix)])
            return
        name = path[0].decode()
        if self.command == "PUT":
            self.server.files[name] = body
            self._send(201, shapes.encode(_outcome(name, body)))
            return
        if name not in self.server.files:
            raise NotFoundError(f"no file {name!r}", "list-files lists all")
        if self.command == "DELETE":
            self.server.files.pop(name)
            self._send(200, shapes.encode(shapes.Deleted(1)))
        else:
            header = {shapes.FILE_HEADER: shapes.file_header(_info(name, self.server.files[name]))}
            self._send(200, self.server.files[name], "application/octet-stream", header)

    def _local(self, path: list[bytes], body: bytes) -> None:
        self.server.hold.wait()
        if path[0] == b"upload":
            asked = shapes.decode(body, shapes.UploadRequest)
            name = "/".join(filter(None, [asked.to, asked.name or Path(asked.path).name]))
            self.server.files[name] = Path(asked.path).read_bytes()
        else:
            wanted = shapes.decode(body, shapes.DownloadRequest)
            name = wanted.name
            if name not in self.server.files:
                raise NotFoundError(f"no file {name!r}", "list-files lists all")
            target = Path(wanted.target)
            (target / Path(name).name if target.is_dir() else target).write_bytes(self.server.files[name])
        data = self.server.files[name]
        parts = (0, len(data))
        progress = [TransferProgress(name, "sending", n, len(data), peers={"127.0.0.1:7001": n}) for n in parts]
        steps = [shapes.TransferLine(step) for step in progress]
        self._stream([*steps, shapes.TransferLine(outcome=_outcome(name, data))])


def _info(name: str, data: bytes) -> FileInfo:
    return FileInfo(name, len(data), 1_700_000_000.0, 0o644, "file", "aa" * 32)


def _outcome(name: str, data: bytes) -> TransferOutcome:
    return TransferOutcome(name, f"p2pkv:{name}", len(data), "aa" * 32, 1, 1, 8, 0.5)


if __name__ == "__main__":
    with FakePeer(Path(sys.argv[1])) as peer:
        peer.add(b"k", b"one")
        peer.add(b"k", b"two")
        print("ready", flush=True)
        threading.Event().wait()
