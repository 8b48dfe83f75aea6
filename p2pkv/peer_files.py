"""What users do with files: the half of `Peer` over `files/`.

Owns no state; the peer has it. `Client` has the same methods with the same results.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from p2pkv.files.names import parse as parse_link
from p2pkv.files.progress import Progress
from p2pkv.files.service import Files
from p2pkv.outcomes import Acks, FileInfo, FileStat, Linked, TransferOutcome
from p2pkv.peer_events import Events
from p2pkv.swarm.node import SwarmNode
from p2pkv.translation import as_transfer


class PeerFiles:
    """The operations on files."""

    files: Files
    node: SwarmNode
    _events: Events

    async def upload(
        self,
        source: Path | str | AsyncIterator[bytes],
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
        """Store a file, a whole folder or a stream. Raises where anything of it did not reach its replicas.

        `erasure` "K/N": cut every chunk into N shards, each on another peer, of which any K bring it back.
        """
        origin = Path(source) if isinstance(source, str) else source
        folder = isinstance(origin, Path) and origin.is_dir() and not origin.is_symlink()
        call = self._upload_folder if folder else self.files.upload
        label = name if name is not None else str(getattr(origin, "name", ""))
        with self._events.transfer("upload", f"{to.rstrip('/')}/{label}".lstrip("/")):
            outcome: TransferOutcome = await call(
                origin,
                name,
                to=to,
                replicas=replicas,
                erasure=erasure,
                encrypt=encrypt,
                once=once,
                acks=acks,
                progress=progress,
            )
        self._events.done("upload", outcome)
        return outcome

    async def _upload_folder(self, source: Any, name: str | None, **options: Any) -> TransferOutcome:
        return as_transfer(await self.files.upload_folder(source, name, **options), "uploaded")

    async def download(
        self,
        name_or_link: Linked,
        target: Path | str,
        *,
        byte_range: tuple[int, int] | None = None,
        progress: Progress | None = None,
    ) -> TransferOutcome:
        """Fetch a file, or a folder with all in it, to a path. `byte_range`: first and last byte, both included.

        Resumes what a broken run left there; the final name never holds a half file.
        """
        link, path = str(name_or_link), Path(target)
        with self._events.transfer("download", parse_link(link).name):
            info = await self.files.find(link)
            if info is not None and info.kind == "folder" and byte_range is None:
                outcome = await self._download_folder(link, path, progress)
            else:
                outcome = await self.files.download(link, path, byte_range=byte_range, progress=progress)
        self._events.done("download", outcome)
        return outcome

    async def _download_folder(self, link: str, target: Path, progress: Progress | None) -> TransferOutcome:
        inside = _inside(target, parse_link(link).name)
        return as_transfer(await self.files.download_folder(link, inside, progress=progress), "downloaded")

    async def open_file(
        self, name_or_link: Linked, *, byte_range: tuple[int, int] | None = None
    ) -> tuple[FileInfo, AsyncIterator[bytes]]:
        """A file's entry and its bytes in order, or those of a range (inclusive)."""
        info, blocks = await self.files.open(str(name_or_link), byte_range)
        return self._told(info), blocks

    async def list_files(self, prefix: str = "", *, recursive: bool = True) -> AsyncIterator[FileInfo]:
        """Files and folders whose full name begins with `prefix`, sorted. Raises IncompleteError."""
        async for info in self.files.list_files(prefix, recursive=recursive):
            yield self._told(info)

    async def delete_file(self, name: str, *, recursive: bool = False, acks: Acks = "quorum") -> int:
        """Delete a file, or with `recursive` a folder with all in it; how many files, links and folders went."""
        outcome = await self.files.delete_file(name, recursive=recursive, acks=acks)
        count = outcome.files + outcome.links + outcome.folders
        self._events.emit("delete-file", name=name, count=count)
        as_transfer(outcome, "deleted")
        return count

    async def stat_file(self, name_or_link: Linked) -> FileStat:
        """A file's manifest and where its chunks lie."""
        stat = await self.files.stat_file(str(name_or_link))
        wanted = stat.replicas_wanted or self.node.k
        return msgspec.structs.replace(stat, info=self._told(stat.info), replicas_wanted=wanted)

    def _told(self, info: FileInfo) -> FileInfo:
        """With the number of replicas that are kept where the file asks for none of its own."""
        if info.replicas or info.kind != "file":
            return info
        return msgspec.structs.replace(info, replicas=self.node.k)


def _inside(target: Path, name: str) -> Path:
    """A folder goes into a folder that is there, else it becomes the one that is named."""
    return target / name.rstrip("/").rpartition("/")[2] if target.is_dir() else target
