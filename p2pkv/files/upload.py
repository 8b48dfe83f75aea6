"""Uploading one file, stream or symbolic link: chunks first, then the folders above it, the record last.

So a file appears whole or not at all. Never follows a link and never puts a record of a file that changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import msgspec

from p2pkv.core.durability import loss_per_year
from p2pkv.core.erasure import Code, check_library
from p2pkv.core.manifest import FileMeta, Kind
from p2pkv.core.records import Flag
from p2pkv.core.sealing import SALT_BYTES, Seal
from p2pkv.errors import InvalidError, RefusedError
from p2pkv.files import names
from p2pkv.files.coding import check_peers
from p2pkv.files.concurrency import Offload
from p2pkv.files.namespace import Namespace, is_link_text
from p2pkv.files.ports import Chunks, Draft
from p2pkv.files.progress import Meter
from p2pkv.files.source import SourceFile, blocks_of
from p2pkv.files.values import ContentWriter, StoredContent, one_block
from p2pkv.limits import BODY_BYTES_MAX
from p2pkv.outcomes import Acks, PutOutcome, TransferOutcome


class UploadOptions(msgspec.Struct, frozen=True):
    """How a user wants files kept."""

    replicas: int | None = None
    key: bytes | None = None  # seals the content
    once: bool = False
    acks: Acks = "quorum"
    code: Code | None = None  # how each chunk is cut into shards


class Uploader:
    """Uploads files within the bounds that all transfers of a process share."""

    def __init__(
        self,
        namespace: Namespace,
        chunks: Chunks,
        *,
        now_s: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        slots: asyncio.Semaphore,
        offload: Offload,
    ) -> None:
        self.namespace = namespace
        self.offload = offload
        self._chunks = chunks
        self._now_s = now_s
        self._random_bytes = random_bytes
        self._slots = slots

    async def file(
        self, path: Path, place: names.Place, options: UploadOptions, meter: Meter, *, follow: bool = True
    ) -> TransferOutcome:
        """Upload a local file; its folder must be there already."""
        source = SourceFile(path, follow=follow)
        try:
            found, content = await self.offload(source.load)
            meta = FileMeta(Kind.FILE, found.st_mtime_ns, found.st_mode & 0o7777)
            if content is not None:
                return await self._content(one_block(content), meta, place, options, meter)
            async with aclosing(blocks_of(source, self.offload)) as blocks:
                return await self._content(blocks, meta, place, options, meter)
        finally:
            source.close()

    async def stream(
        self, blocks: AsyncIterator[bytes], place: names.Place, options: UploadOptions, meter: Meter
    ) -> TransferOutcome:
        """Upload what comes, until it ends."""
        meta = FileMeta(Kind.FILE, int(self._now_s() * 1e9))
        return await self._content(blocks, meta, place, options, meter)

    async def symlink(self, target: str, mtime_ns: int, place: names.Place, options: UploadOptions) -> PutOutcome:
        """Put a symbolic link as a link."""
        body = _link_body(target, place)
        flags = Flag.FILE | (Flag.ONCE if options.once else 0)
        draft = Draft(
            name=place.name.encode(),
            flags=int(flags),
            size_bytes=len(body),
            body=body,
            meta=FileMeta(Kind.LINK, mtime_ns, 0o777).encode(),
        )
        return await self.namespace.put(place.folder, draft, acks=options.acks)

    def check_code(self, code: Code | None) -> None:
        """Raise InvalidError where content cannot be coded so here."""
        if code is not None:
            check_library()
            check_peers(self._chunks, code)

    async def check_free(self, place: names.Place) -> None:
        """Raise RefusedError where a folder has this name."""
        if await self.namespace.find_folder(place.full) is not None:
            raise RefusedError(f"{place.full} is a folder", "choose another name, or delete the folder")

    async def _content(
        self,
        blocks: AsyncIterator[bytes],
        meta: FileMeta,
        place: names.Place,
        options: UploadOptions,
        meter: Meter,
    ) -> TransferOutcome:
        began_s = asyncio.get_running_loop().time()
        seal: Seal | None = None
        if options.key:
            meta = msgspec.structs.replace(meta, salt=self._random_bytes(SALT_BYTES))
            seal = Seal(options.key, meta.salt)
        writer = ContentWriter(
            self._chunks,
            replicas=options.replicas,
            acks=options.acks,
            seal=seal,
            code=options.code,
            slots=self._slots,
            offload=self.offload,
            on_chunk=lambda size_bytes, replicas: meter.add(size_bytes, replicas=replicas),
        )
        stored = await writer.store(blocks)
        draft = _draft(place, meta, stored, options)
        put = await self.namespace.put(place.folder, draft, acks=options.acks, hear_all=True)
        if not stored.chunks:
            meter.add(stored.size_bytes, chunks=0, replicas=put.stored)
        seconds = asyncio.get_running_loop().time() - began_s
        return _outcome(names.Link(place.full, options.key), stored, put, seconds, options.code)


def _draft(place: names.Place, meta: FileMeta, stored: StoredContent, options: UploadOptions) -> Draft:
    meta = msgspec.structs.replace(
        meta,
        hash=stored.hash,
        replicas=options.replicas or 0,
        chunks=stored.chunks,
        code=options.code if stored.chunks else None,
    )
    flags = Flag.FILE | stored.flags | (Flag.ONCE if options.once else 0)
    return Draft(
        name=place.name.encode(),
        flags=int(flags),
        size_bytes=stored.size_bytes,
        body=stored.body,
        meta=meta.encode(),
    )


def _outcome(
    link: names.Link, stored: StoredContent, put: PutOutcome, seconds: float, code: Code | None
) -> TransferOutcome:
    coded = code if stored.chunks else None
    return TransferOutcome(
        name=link.name,
        link=str(link),
        size=stored.size_bytes,
        hash=stored.hash.hex(),
        chunks=stored.chunks,
        chunks_sent=stored.chunks_sent,
        replicas=min(stored.replicas, put.stored) if stored.chunks else put.stored,
        seconds=seconds,
        erasure=str(coded or ""),
        loss_per_year=loss_per_year(coded, stored.chunks) if coded else 0.0,
    )


def _link_body(target: str, place: names.Place) -> bytes:
    try:
        body = target.encode()
    except UnicodeEncodeError:
        raise InvalidError(f"{place.full}: the link's target is not Unicode text", "rename the target") from None
    if not is_link_text(target):
        raise InvalidError(f"{place.full}: the link's target holds control characters", "rename the target")
    if not 0 < len(body) <= BODY_BYTES_MAX:
        raise InvalidError(f"{place.full}: the link's target is longer than {BODY_BYTES_MAX} bytes")
    return body
