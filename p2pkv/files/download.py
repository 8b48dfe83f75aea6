"""Downloading one file: many chunks at once, written where they belong, checked as a whole, then renamed into place.

The target's name never shows a half file. A broken run leaves a part file and its journal (files/partfile.py), and
the next run fetches only what is missing. Never decides about folders (files/folders.py).
"""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from blake3 import blake3

from p2pkv.core.manifest import ChunkRef, Kind, Piece
from p2pkv.core.records import content_hash
from p2pkv.core.sealing import Seal, content_hasher
from p2pkv.errors import InvalidError
from p2pkv.files import names
from p2pkv.files.concurrency import Job, Offload, run_jobs
from p2pkv.files.fetching import Content, Fetched, PieceSource, check_key, cut
from p2pkv.files.keeping import Keeping
from p2pkv.files.namespace import Entry
from p2pkv.files.partfile import CHECK_BYTES, FetchedPiece, PartFile, disk_error, part_path
from p2pkv.files.ports import Chunks
from p2pkv.files.progress import Meter
from p2pkv.files.small import write_small
from p2pkv.ids import Bytes
from p2pkv.limits import CHUNK_BYTES_MAX, CHUNKS_IN_FLIGHT_MAX, PIECES_HELD_MAX
from p2pkv.outcomes import TransferOutcome

ByteRange = tuple[int, int | None]
"""First and last byte, both included; None: to the end."""


class Downloader:
    """Downloads files within the bounds that all transfers of a process share."""

    def __init__(self, chunks: Chunks, *, slots: asyncio.Semaphore, offload: Offload) -> None:
        self.offload = offload
        self._chunks = chunks
        self._slots = slots

    def source(self, entry: Entry, key: bytes | None) -> PieceSource:
        """The content of a file. Raises InvalidError where it is a link, or the key is wrong or missing."""
        if entry.meta.kind is Kind.LINK:
            target = entry.version.body.decode()
            raise InvalidError(f"{entry.name} is a symbolic link to {target}", "ask for what it points to")
        seal = check_key(entry.name, entry.version.flags, key, entry.meta.salt)
        content = Content.of(entry.version, entry.name, entry.meta.hash)
        return PieceSource(self._chunks, content, seal=seal, offload=self.offload)

    async def file(
        self, entry: Entry, key: bytes | None, target: Path, meter: Meter, byte_range: ByteRange | None = None
    ) -> TransferOutcome:
        """Fetch a file, or a range of it, to exactly this path."""
        began_s = asyncio.get_running_loop().time()
        source = self.source(entry, key)
        start, stop = span(entry, byte_range)
        if byte_range is None and await self.offload(_same_file, target, entry, source.seal):
            meter.add(stop, chunks=entry.meta.chunks)
            return _outcome(entry, key, stop, (entry.meta.chunks, 0), began_s)
        if byte_range is None and stop <= CHUNK_BYTES_MAX:
            chunks = await self._small(entry, source, target)
            meter.add(stop, chunks=chunks)
            return _outcome(entry, key, stop, (chunks, chunks), began_s)
        identity = blake3(content_hash(entry.version) + entry.name.encode() + b"%d-%d" % (start, stop)).digest()
        part = PartFile(target, identity, stop - start)
        try:
            await self.offload(part.open)
            run = _Run(self, source, part, (start, stop), meter)
            await run.fetch_all()
            await self.offload(part.finish, entry.meta.mode & 0o777, entry.meta.mtime_ns)
        finally:
            part.close()
        return _outcome(entry, key, stop - start, (run.chunks, run.chunks_fetched), began_s)

    async def _small(self, entry: Entry, source: PieceSource, target: Path) -> int:
        """A file of one chunk at most, brought to the disk in one turn of a thread; how many chunks it has."""
        pieces = [piece async for piece in source.pieces(0, source.content.size_bytes)]
        data: Bytes = b"" if pieces else source.inline()
        if pieces:
            data, _ = await self.bounded_fetch(source, pieces[0])
        if len(pieces) > 1 or len(data) != source.content.size_bytes:
            raise source.damaged("its size is not that of its bytes")
        await self.offload(_write_small, target, data, entry, source)
        return len(pieces)

    async def symlink(self, entry: Entry, target: Path) -> None:
        """Make a symbolic link as a link, in place of whatever has the name."""
        text = entry.version.body.decode()
        try:
            await self.offload(_make_link, text, target)
        except (OSError, NotImplementedError) as error:
            raise disk_error(target, error if isinstance(error, OSError) else OSError(str(error))) from None

    def chunk_refs(self, entry: Entry) -> AsyncGenerator[ChunkRef, None]:
        """Every chunk of a file, those that hold lists included. Needs no key."""
        return PieceSource(self._chunks, Content.of(entry.version, entry.name), offload=self.offload).list_chunks()

    async def bounded_fetch(self, source: PieceSource, piece: Piece) -> Fetched:
        async with self._slots:
            return await source.fetch(piece)


class _Run:
    """One file on its way into a part file."""

    def __init__(
        self, owner: Downloader, source: PieceSource, part: PartFile, wanted: tuple[int, int], meter: Meter
    ) -> None:
        self.chunks = self.chunks_fetched = 0
        self._owner, self._source, self._part, self._meter = owner, source, part, meter
        self._start, self._stop = wanted
        whole = wanted == (0, source.content.size_bytes) and bool(source.content.hash)
        self._whole = whole
        self._keeping = Keeping(part, content_hasher(source.seal) if whole else None, owner.offload)

    async def fetch_all(self) -> None:
        """Bring every byte of the range onto the disk and check the whole. Raises DamagedError."""
        if self._source.content.root is None:
            await self._keep(FetchedPiece(0, self._source.inline()[self._start : self._stop]))
        jobs = self._jobs()
        most = CHUNKS_IN_FLIGHT_MAX + PIECES_HELD_MAX  # so that some are written while others are under way
        async with aclosing(jobs), aclosing(run_jobs(jobs, limit=most, ordered=False)) as finished:
            async for _ in finished:
                pass
        if self._whole and self._keeping.digest() != self._source.content.hash:
            self._part.discard()
            raise self._source.damaged("the whole does not match its hash; nothing was kept")

    async def _jobs(self) -> AsyncGenerator[Job[None], None]:
        async for piece in self._source.pieces(self._start, self._stop):
            yield self._job(piece)

    def _job(self, piece: Piece) -> Job[None]:
        return lambda: self._take(piece)

    async def _take(self, piece: Piece) -> None:
        self.chunks += 1
        offset = max(piece.offset, self._start)
        length = min(piece.end, self._stop) - offset
        if await self._there(offset, length):
            await self._keeping.note(offset - self._start, length)
            self._meter.add(length)
            return
        plain, plain_id = await self._owner.bounded_fetch(self._source, piece)
        self.chunks_fetched += 1
        check = plain_id[:CHECK_BYTES] if plain_id and len(plain) == length else None
        data = cut(plain, piece.offset, self._start, self._stop)
        await self._keep(FetchedPiece(offset - self._start, data, check))

    async def _there(self, offset: int, length: int) -> bool:
        at = offset - self._start
        return self._part.knows(at, length) and await self._owner.offload(self._part.verify, at, length)

    async def _keep(self, piece: FetchedPiece) -> None:
        await self._keeping.write(piece)
        self._meter.add(len(piece.data))


def span(entry: Entry, byte_range: ByteRange | None) -> tuple[int, int]:
    """The bytes [start, stop) that a range asks for; an end beyond the file's is the file's. Raises InvalidError."""
    size_bytes = entry.version.size_bytes
    if byte_range is None:
        return 0, size_bytes
    first, last = byte_range
    if first < 0 or first >= size_bytes or (last is not None and last < first):
        told = f"{first}-{'' if last is None else last}"
        raise InvalidError(f"{entry.name} has {size_bytes} bytes, no range {told}", "bytes are counted from 0")
    return first, size_bytes if last is None else min(last + 1, size_bytes)


def _outcome(
    entry: Entry, key: bytes | None, size_bytes: int, chunks: tuple[int, int], began_s: float
) -> TransferOutcome:
    return TransferOutcome(
        name=entry.name,
        link=str(names.Link(entry.name, key)),
        size=size_bytes,
        hash=entry.meta.hash.hex(),
        chunks=chunks[0],
        chunks_sent=chunks[1],
        replicas=0,
        seconds=asyncio.get_running_loop().time() - began_s,
    )


def _same_file(target: Path, entry: Entry, seal: Seal | None) -> bool:
    """Whether an earlier run finished this file: size, time and the hash of all its bytes say so."""
    try:
        found = target.lstat()
        if not stat.S_ISREG(found.st_mode) or not entry.meta.hash:
            return False
        if (found.st_size, found.st_mtime_ns) != (entry.version.size_bytes, entry.meta.mtime_ns):
            return False
        same = content_hasher(seal).update_mmap(target).digest() == entry.meta.hash
        if same:
            target.chmod(entry.meta.mode & 0o777)
        return same
    except OSError:
        return False  # fetching it will say what is wrong


def _write_small(target: Path, data: Bytes, entry: Entry, source: PieceSource) -> None:
    """Check and write a whole file; nothing of it is worth resuming."""
    if source.content.hash and content_hasher(source.seal).update(data).digest() != source.content.hash:
        raise source.damaged("the whole does not match its hash; nothing was kept")
    write_small(target, data, entry.meta.mode & 0o777, entry.meta.mtime_ns)


def _make_link(text: str, target: Path) -> None:
    part = part_path(target)
    part.unlink(missing_ok=True)
    part.symlink_to(text)
    part.replace(target)
