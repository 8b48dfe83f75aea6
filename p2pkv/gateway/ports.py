"""What the gateway needs of a peer and of its home. `Peer` and `Home` are such things; the tests use fakes."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

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

Key = bytes | str
Progress = Callable[[TransferProgress], None]
ByteRange = tuple[int, int]
"""First and last byte, both included."""


class HomeLike(Protocol):
    """Where the gateway's files are."""

    @property
    def folder(self) -> Path: ...
    @property
    def socket(self) -> Path: ...
    @property
    def token(self) -> Path: ...


class PlainHome:
    """A folder with the usual names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "peer.sock"
        self.token = folder / "http.token"


class PeerLike(Protocol):
    """The operations of a running peer, as `Peer` has them. Every one may raise P2pkvError."""

    async def put(
        self,
        key: Key,
        value: bytes | AsyncIterator[bytes],
        *,
        name: str | None = None,
        once: bool = False,
        own: bool = False,
        if_version: str | None = None,
        ttl_s: float | None = None,
        acks: Acks = "quorum",
    ) -> PutOutcome: ...

    def put_many(
        self,
        key: Key,
        values: Iterable[bytes] | AsyncIterable[bytes],
        *,
        ttl_s: float | None = None,
        own: bool = False,
        acks: Acks = "quorum",
    ) -> AsyncIterator[PutOutcome]: ...

    async def put_batch(self, changes: Iterable[BatchChange], *, acks: Acks = "quorum") -> BatchOutcome: ...

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
    ) -> AsyncIterator[Record]: ...

    def stream(self, key: Key, record: Record) -> AsyncIterator[bytes]: ...

    async def count(self, key: Key, *, prefix: str = "") -> int: ...

    async def delete(self, key: Key, *, name: str | None = None, acks: Acks = "quorum") -> int: ...

    def watch(self, key: Key, *, after: str | None = None) -> AsyncIterator[Record]: ...

    def keys(self, prefix: Key = b"") -> AsyncIterator[tuple[bytes, int]]: ...

    async def upload(
        self,
        source: Path | AsyncIterator[bytes],
        name: str | None = None,
        *,
        to: str = "",
        replicas: int | None = None,
        erasure: str | None = None,
        encrypt: bool = False,
        once: bool = False,
        acks: Acks = "quorum",
        progress: Progress | None = None,
    ) -> TransferOutcome: ...

    async def download(
        self,
        name_or_link: str,
        target: Path,
        *,
        byte_range: ByteRange | None = None,
        progress: Progress | None = None,
    ) -> TransferOutcome: ...

    async def open_file(
        self, name_or_link: str, *, byte_range: ByteRange | None = None
    ) -> tuple[FileInfo, AsyncIterator[bytes]]: ...

    def list_files(self, prefix: str = "", *, recursive: bool = True) -> AsyncIterator[FileInfo]: ...

    async def delete_file(self, name: str, *, recursive: bool = False, acks: Acks = "quorum") -> int: ...

    async def stat_file(self, name: str) -> FileStat: ...

    async def status(self) -> Status: ...

    async def peers(self) -> list[ContactInfo]: ...

    async def seen_as(self) -> list[Sighting]: ...

    async def where(self, key: Key) -> list[ReplicaInfo]: ...

    async def trace(self, key: Key) -> LookupTrace: ...

    async def verify(self) -> dict[str, Any]: ...

    async def repair(self) -> dict[str, Any]: ...

    def events(self) -> AsyncIterator[dict[str, Any]]: ...
