"""A peer in memory that does what the gateway asks and remembers how it was asked."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from p2pkv.errors import IncompleteError, NotFoundError, RefusedError
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
from p2pkv.translation import reached

NODE = "ab" * 20


def raw(key: bytes | str) -> bytes:
    return key.encode() if isinstance(key, str) else key


class FakePeer:
    def __init__(self) -> None:
        self.records: dict[bytes, list[Record]] = {}
        self.files: dict[str, bytes] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.stored = 8  # replicas that acknowledge
        self.fail_after: int | None = None  # records or blocks after which reading fails
        self.fail_with: Exception = IncompleteError("page 3 is silent", "try again")
        self.hold = asyncio.Event()  # transfers wait here
        self.hold.set()
        self.running = 0
        self.cancelled = 0
        self.stopping = False
        self.contacts = [ContactInfo(NODE, "127.0.0.1:1", "p2pkv", 1.5, 10.0, 1.0, 0)]
        self.counters = {"rpc.requests": 7}
        self.changed = asyncio.Event()
        self.queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    # --- records ---
    async def put(self, key, value, **options) -> PutOutcome:
        if not isinstance(value, bytes):
            value = b"".join([block async for block in value])
        self.calls.append(("put", options))
        names = [record.name for record in self.records.get(raw(key), [])]
        name = options.get("name")
        if options.get("once") and name in names:
            raise RefusedError("it exists", "choose another name", current="v0")
        return reached(self._store(raw(key), name, value), "the record")

    def _store(self, key: bytes, name: str | None, value: bytes) -> PutOutcome:
        records = self.records.setdefault(key, [])
        number = sum(map(len, self.records.values()))
        name = f"{number:06d}" if name is None else name
        records[:] = [record for record in records if record.name != name]
        held = value if len(value) <= 1 << 20 else None
        records.append(Record(name, held, len(value), NODE, 1e9 + number, f"v{number}", f"c{number}"))
        self.long = {**getattr(self, "long", {}), (key, name): value}
        failures = [ReplicaFailure(NODE, "127.0.0.1:9", "silent")] * (8 - self.stored)
        self.changed.set()
        return PutOutcome(name, f"v{number}", 8, self.stored, 5, failures)

    async def put_many(self, key, values, **options) -> AsyncIterator[PutOutcome]:
        self.calls.append(("put_many", options))
        async for value in values:
            yield self._store(raw(key), None, value)

    async def put_batch(self, changes, **options) -> BatchOutcome:
        changes = list(changes)
        self.calls.append(("put_batch", {"changes": changes, **options}))
        if any(change.name == "refused" for change in changes):
            raise RefusedError("nothing of the batch was stored: a/refused: it is write-once", "leave it out")
        stored = [(raw(c.key), self._store(raw(c.key), c.name, c.value), c.delete) for c in changes]
        return BatchOutcome("ab" * 16, [BatchRecord(*record) for record in stored])

    async def get(
        self,
        key,
        *,
        name=None,
        prefix="",
        limit=None,
        after=None,
        reverse=False,
        order="time",
        since_s=None,
        until_s=None,
    ):
        found = [r for r in self.records.get(raw(key), []) if r.name.startswith(prefix) and name in (None, r.name)]
        found = [r for r in found if (since_s or 0) <= r.time and (until_s is None or r.time < until_s)]
        found.sort(key=lambda r: r.time if order == "time" else r.name, reverse=reverse)
        if after is not None:
            found = found[[r.cursor for r in found].index(after) + 1 :]
        self.running += 1
        try:
            for number, record in enumerate(found[:limit]):
                if number == self.fail_after:
                    raise self.fail_with
                await self.hold.wait()
                yield record
            if self.fail_after is not None and self.fail_after >= len(found):
                raise self.fail_with
        finally:
            self.running -= 1

    async def stream(self, key, record):
        value = self.long[raw(key), record.name]
        for at in range(0, len(value), 65536):
            yield value[at : at + 65536]

    async def count(self, key, *, prefix="") -> int:
        return sum(r.name.startswith(prefix) for r in self.records.get(raw(key), []))

    async def delete(self, key, *, name=None, acks="quorum") -> int:
        records = self.records.get(raw(key), [])
        kept = [] if name is None else [r for r in records if r.name != name]
        self.records[raw(key)] = kept
        return len(records) - len(kept)

    async def watch(self, key, *, after=None):
        seen = 0
        self.running += 1
        try:
            while True:
                records = self.records.get(raw(key), [])
                for record in records[seen:]:
                    yield record
                seen = len(records)
                self.changed.clear()
                await self.changed.wait()
        finally:
            self.running -= 1

    async def keys(self, prefix=b""):
        for key in sorted(self.records):
            if key.startswith(raw(prefix)):
                yield key, len(self.records[key])

    # --- files ---
    def _info(self, name: str) -> FileInfo:
        if name not in self.files:
            raise NotFoundError(f"no file {name!r}")
        content = self.files[name]
        return FileInfo(name, len(content), 1e9, 0o644, "file", hashlib.sha256(content).hexdigest(), chunks=1)

    async def upload(self, source, name=None, *, progress=None, **options):
        self.calls.append(("upload", {"name": name, **options}))
        self.running += 1
        try:
            if isinstance(source, Path):
                content = source.read_bytes()
                name = name or source.name
                if progress:
                    progress(TransferProgress(name, "sending", len(content) // 2, len(content)))
            else:
                content = b"".join([block async for block in source])
            await self.hold.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        self.files[name] = content
        return self._outcome(name, content)

    async def download(self, name_or_link, target, *, byte_range=None, progress=None):
        content = self.files[self._info(name_or_link).name]
        if progress:
            progress(TransferProgress(name_or_link, "fetching", 1, len(content)))
        if byte_range:
            content = content[byte_range[0] : byte_range[1] + 1]
        target.write_bytes(content)
        return self._outcome(name_or_link, content)

    def _outcome(self, name: str, content: bytes) -> TransferOutcome:
        return TransferOutcome(name, f"p2pkv:{name}", len(content), "00", 1, 1, 8, 0.5)

    async def open_file(self, name_or_link, *, byte_range=None):
        info = self._info(name_or_link)
        content = self.files[name_or_link]
        if byte_range:
            content = content[byte_range[0] : byte_range[1] + 1]
        return info, self._blocks(content)

    async def _blocks(self, content: bytes):
        self.running += 1
        try:
            for number, at in enumerate(range(0, len(content), 65536)):
                if number == self.fail_after:
                    raise self.fail_with
                yield content[at : at + 65536]
        finally:
            self.running -= 1

    async def list_files(self, prefix="", *, recursive=True):
        for name in sorted(self.files):
            if name.startswith(prefix):
                yield self._info(name)

    async def delete_file(self, name, *, recursive=False, acks="quorum") -> int:
        self._info(name)
        del self.files[name]
        return 1

    async def stat_file(self, name) -> FileStat:
        replicas = [ReplicaInfo(NODE, "127.0.0.1:1", True)]
        return FileStat(self._info(name), f"p2pkv:{name}", 1, [ChunkStat("00" * 32, 5, replicas)])

    # --- the peer ---
    async def status(self) -> Status:
        return Status(
            node=NODE,
            author="cd" * 32,
            version="0.1.0",
            home="/home/x",
            udp=["127.0.0.1:8468"],
            http="",
            uptime_s=12.5,
            contacts=len(self.contacts),
            swarm_size_estimate=5,
            records=sum(map(len, self.records.values())),
            keys=len(self.records),
            chunks=3,
            stored_bytes=1234,
            quota_bytes=None,
            connected=True,
            bootstrap=[],
            loop="asyncio",
            socket_buffer_bytes=1 << 20,
            warnings=[],
            counters=dict(self.counters),
        )

    async def peers(self) -> list[ContactInfo]:
        return self.contacts

    async def seen_as(self) -> list[Sighting]:
        return [Sighting(NODE, "127.0.0.1:1", "192.0.2.1:8468")]

    async def where(self, key) -> list[ReplicaInfo]:
        return [ReplicaInfo(NODE, "127.0.0.1:1", raw(key) in self.records, "")]

    async def trace(self, key) -> LookupTrace:
        return LookupTrace("00" * 20, [Hop(NODE, "127.0.0.1:1", 150, 0, 0.0, 1.0, "answered")], [NODE], 2.0)

    async def verify(self) -> dict[str, Any]:
        return {"chunks_checked": 3}

    async def repair(self) -> dict[str, Any]:
        return {"restored": 0}

    def request_stop(self) -> None:
        self.stopping = True

    async def events(self):
        while True:
            yield await self.queue.get()
