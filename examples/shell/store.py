"""The part of p2pkv's public API that the shell uses, and how to get one: a running peer, or a peer of our own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from p2pkv.outcomes import FileInfo, PutOutcome, Record, TransferOutcome, TransferProgress

    Progress = Callable[[TransferProgress], None]


class Store(Protocol):
    """What `p2pkv.Client` and `p2pkv.Peer` have in common, as far as the shell needs it."""

    async def put(self, key: str, value: bytes, *, name: str | None = None) -> PutOutcome: ...

    def get(self, key: str, *, name: str | None = None) -> AsyncIterator[Record]: ...

    async def count(self, key: str) -> int: ...

    async def delete(self, key: str, *, name: str | None = None) -> int: ...

    async def upload(
        self, path: Path, name: str | None = None, *, to: str = "", progress: Progress | None = None
    ) -> TransferOutcome: ...

    async def download(self, name: str, path: Path, *, progress: Progress | None = None) -> TransferOutcome: ...

    def list_files(self, prefix: str = "") -> AsyncIterator[FileInfo]: ...

    async def delete_file(self, name: str, *, recursive: bool = False) -> int: ...


@asynccontextmanager
async def open_store(home: Path | None, bootstrap: list[str]) -> AsyncIterator[Store]:
    """The peer that runs in `home`; with `bootstrap`, a peer of the shell's own that keeps nothing for others.

    Raises UnreachableError where there is no such peer.
    """
    import p2pkv

    if not bootstrap:
        async with p2pkv.Client(home=home) as client:
            yield client
        return
    async with p2pkv.Peer(listen=["0.0.0.0:0"], bootstrap=bootstrap, ephemeral=True) as peer:
        await peer.wait_connected()
        yield peer
