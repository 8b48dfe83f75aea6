"""`Files`: everything that a user does with files, over the two ports. Owns no bytes and no wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

from p2pkv.core.erasure import Code
from p2pkv.core.manifest import Kind
from p2pkv.core.sealing import SEAL_KEY_BYTES
from p2pkv.errors import InvalidError
from p2pkv.files import names
from p2pkv.files.coding import CodedChunks
from p2pkv.files.concurrency import Job, at_once, in_thread, run_jobs
from p2pkv.files.download import ByteRange, Downloader, span
from p2pkv.files.folder_download import FolderDownload
from p2pkv.files.folder_upload import FolderUpload
from p2pkv.files.folders import Tally, run_all
from p2pkv.files.listing import list_entries
from p2pkv.files.namespace import Entry, Namespace
from p2pkv.files.ports import Chunks, Records
from p2pkv.files.progress import Meter, Progress
from p2pkv.files.upload import Uploader, UploadOptions
from p2pkv.ids import ChunkID
from p2pkv.limits import CHUNKS_IN_FLIGHT_MAX, K_MAX
from p2pkv.outcomes import Acks, ChunkStat, FileInfo, FileStat, FolderOutcome, TransferOutcome


class Files:
    """Files and folders of the swarm. All transfers of one `Files` together stay within 16 MiB in flight."""

    def __init__(
        self,
        records: Records,
        chunks: Chunks,
        *,
        now_s: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        threads: bool = True,
    ) -> None:
        """`threads`: compress, hash and touch the disk outside the event loop; False in a simulation."""
        self._records = records
        self._random_bytes = random_bytes
        self._offload = in_thread if threads else at_once
        self._chunks = chunks = CodedChunks(chunks, self._offload)
        self._namespace = Namespace(records)
        slots = asyncio.Semaphore(CHUNKS_IN_FLIGHT_MAX)
        self._up = Uploader(
            self._namespace, chunks, now_s=now_s, random_bytes=random_bytes, slots=slots, offload=self._offload
        )
        self._down = Downloader(chunks, slots=slots, offload=self._offload)

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
    ) -> TransferOutcome:
        """Store one file, or a stream until it ends, under the full name `to`/`name`.

        Raises InvalidError, NotFoundError, RefusedError, IncompleteError (acks not reached), P2pkvError (it changed).
        """
        place = names.split(self._full_name(source, name, to))
        options = self._options(replicas, erasure, encrypt, once, acks)
        size_bytes = await self._offload(_size_of, source) if isinstance(source, Path) else None
        meter = Meter(progress, place.full, "sending", size_bytes)
        await asyncio.gather(self._up.check_free(place), self._namespace.ensure_folder(place.folder, acks=acks))
        with meter.counting():
            if isinstance(source, Path):
                return await self._up.file(source, place, options, meter)
            return await self._up.stream(source, place, options, meter)

    async def upload_folder(
        self,
        source: Path,
        name: str | None = None,
        *,
        to: str = "",
        replicas: int | None = None,
        erasure: str | None = None,
        encrypt: bool = False,
        once: bool = False,
        acks: Acks = "quorum",
        progress: Progress | None = None,
    ) -> FolderOutcome:
        """Store a folder with all within. A file that fails is told in the outcome and does not stop the others."""
        source = await self._offload(_checked_folder, source)
        path = names.check_folder(self._full_name(source, name, to))
        options = self._options(replicas, erasure, encrypt, once, acks)
        meter = Meter(progress, path, "sending", 0)
        await self._namespace.ensure_folder(path.rpartition("/")[0], acks=acks)
        upload = FolderUpload(self._up, source, path, options, meter)
        with meter.counting():
            await upload.run()
        return upload.tally.outcome(path, str(names.Link(path, options.key)))

    async def download(
        self,
        name_or_link: str,
        target: Path,
        *,
        byte_range: ByteRange | None = None,
        progress: Progress | None = None,
    ) -> TransferOutcome:
        """Fetch a file, or a symbolic link as a link, to `target` (into it, where that is a folder).

        Raises NotFoundError, IncompleteError (what came is kept for the next run), DamagedError, InvalidError.
        """
        link = names.parse(name_or_link)
        place = names.split(link.name)
        entry = await self._namespace.need(place)
        if await self._offload(target.is_dir):
            target = target / names.check_local(place.name)
        meter = Meter(progress, place.full, "fetching", entry.version.size_bytes)
        with meter.counting():
            if entry.meta.kind is Kind.LINK:
                await self._down.symlink(entry, target)
                return TransferOutcome(place.full, str(link), 0, "", 0, 0, 0, meter.seconds)
            start, stop = span(entry, byte_range)
            meter.total = stop - start
            return await self._down.file(entry, link.key, target, meter, byte_range)

    async def download_folder(
        self, name_or_link: str, target: Path, *, progress: Progress | None = None
    ) -> FolderOutcome:
        """Fetch what a folder holds into the folder `target`, which is made. A file that fails stops no other."""
        link = names.parse(name_or_link)
        own = await self._need_folder(link.name)
        meter = Meter(progress, link.name, "fetching", 0)
        download = FolderDownload(self._down, target, link.name, link.key, meter)
        with meter.counting():
            async with aclosing(list_entries(self._records, link.name + "/")) as entries:
                await download.run(entries, own)
        return download.tally.outcome(link.name, str(link))

    async def open(
        self, name_or_link: str, byte_range: ByteRange | None = None
    ) -> tuple[FileInfo, AsyncGenerator[bytes, None]]:
        """A file's entry and its bytes (or a range of them) in order. Close the generator when leaving early."""
        link = names.parse(name_or_link)
        entry = await self._namespace.need(names.split(link.name))
        start, stop = span(entry, byte_range)
        return entry.info(), self._down.source(entry, link.key).stream(start, stop)

    async def list_files(self, prefix: str = "", *, recursive: bool = True) -> AsyncGenerator[FileInfo, None]:
        """Everything whose full name begins with `prefix`, sorted by it. Raises IncompleteError."""
        async with aclosing(list_entries(self._records, prefix, recursive=recursive)) as entries:
            async for entry in entries:
                yield entry.info()

    async def find(self, name_or_link: str) -> FileInfo | None:
        """The file, link or folder of this name, or None where there is none (and the answer is complete)."""
        place = names.split(names.parse(name_or_link).name)
        entry, folder = await asyncio.gather(self._namespace.find(place), self._namespace.find_folder(place.full))
        found = entry or folder
        return found.info() if found else None

    async def delete_file(self, name: str, *, recursive: bool = False, acks: Acks = "quorum") -> FolderOutcome:
        """Delete a file or link; with `recursive` also a folder with all within. Raises NotFoundError, RefusedError."""
        place = names.split(name)
        meter = Meter(None, place.full, "sending", None)
        tally = Tally(meter)
        entry = await self._namespace.find(place)
        if entry is None:
            folder = await self._namespace.find_folder(place.full) if recursive else None
            if folder is None:
                entry = await self._namespace.need(place)
            else:
                await run_all(self._removals(place.full, tally, acks))
                entry = None if tally.failed else folder
        if entry:
            await self._remove(entry, tally, acks)
        return tally.outcome(place.full)

    async def stat_file(self, name_or_link: str) -> FileStat:
        """A file's entry and where each of its chunks lies, the chunks that hold lists included."""
        link = names.parse(name_or_link)
        entry = await self._namespace.find(names.split(link.name)) or await self._need_folder(link.name)
        chunks: list[ChunkStat] = []
        if entry.meta.kind is Kind.FILE:
            jobs = self._chunk_stats(entry)
            async with aclosing(jobs), aclosing(run_jobs(jobs, limit=CHUNKS_IN_FLIGHT_MAX, ordered=True)) as stats:
                chunks = [stat async for stat in stats]
        return FileStat(entry.info(), str(link), entry.meta.replicas, chunks)

    async def _need_folder(self, path: str) -> Entry:
        folder = await self._namespace.find_folder(path)
        return folder or await self._namespace.need(names.split(path))

    async def _removals(self, path: str, tally: Tally, acks: Acks) -> AsyncGenerator[Job[None], None]:
        async with aclosing(list_entries(self._records, path + "/")) as entries:
            async for entry in entries:
                yield self._removal(entry, tally, acks)

    def _removal(self, entry: Entry, tally: Tally, acks: Acks) -> Job[None]:
        async def attempt() -> None:
            await tally.attempt(entry.name, lambda: self._remove(entry, tally, acks))

        return attempt

    async def _remove(self, entry: Entry, tally: Tally, acks: Acks) -> None:
        outcome = await self._namespace.remove(entry, acks=acks)
        tally.meter.add(0, chunks=0, replicas=outcome.stored)
        tally.files += entry.meta.kind is Kind.FILE
        tally.folders += entry.meta.kind is Kind.FOLDER
        tally.links += entry.meta.kind is Kind.LINK
        tally.size += entry.version.size_bytes

    async def _chunk_stats(self, entry: Entry) -> AsyncGenerator[Job[ChunkStat], None]:
        async with aclosing(self._down.chunk_refs(entry)) as refs:
            async for ref in refs:
                yield self._chunk_stat(ref.id, ref.size_bytes)
                for shard in await self._chunks.shards(ref.id):
                    yield self._chunk_stat(shard, ref.size_bytes // entry.meta.code.needed if entry.meta.code else 0, 1)

    def _chunk_stat(self, chunk_id: ChunkID, size_bytes: int, wanted: int = 0) -> Job[ChunkStat]:
        async def ask() -> ChunkStat:
            return ChunkStat(chunk_id.hex(), size_bytes, await self._chunks.holders(chunk_id), wanted)

        return ask

    def _options(
        self, replicas: int | None, erasure: str | None, encrypt: bool, once: bool, acks: Acks
    ) -> UploadOptions:
        if replicas is not None and not 1 <= replicas <= K_MAX:
            raise InvalidError(f"{replicas} replicas are not possible", f"from 1 to {K_MAX}")
        code = Code.parse(erasure) if erasure else None
        self._up.check_code(code)
        key = self._random_bytes(SEAL_KEY_BYTES) if encrypt else None
        return UploadOptions(replicas, key, once, acks, code)

    @staticmethod
    def _full_name(source: Path | AsyncIterator[bytes], name: str | None, to: str) -> str:
        if name is None:
            if not isinstance(source, Path):
                raise InvalidError("a stream has no name of its own", "give it one: --as NAME")
            name = source.name or source.resolve().name
        return names.join(names.check_folder(to), name)


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None  # opening it will say what is wrong


def _checked_folder(path: Path) -> Path:
    path = path.resolve() if path.name in ("", "..") else path
    if not path.is_dir():
        raise InvalidError(f"{path}: no such folder", "check the path")
    return path
