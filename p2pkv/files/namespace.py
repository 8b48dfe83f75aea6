"""Files and folders as records: what an entry of a folder is, and finding, making and removing entries.

Owns the meaning of a folder's records. Never touches content or the local disk.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Literal

import msgspec

from p2pkv.core.manifest import FileMeta, Kind, decode_meta
from p2pkv.core.records import Flag, Version
from p2pkv.core.replication import needed
from p2pkv.errors import IncompleteError, InvalidError, NotFoundError, RefusedError, RemoteError
from p2pkv.files import names
from p2pkv.files.ports import Draft, Records
from p2pkv.files.values import reasons
from p2pkv.outcomes import Acks, FileInfo, PutOutcome

_log = logging.getLogger(__name__)


class Entry(msgspec.Struct, frozen=True):
    """One well-formed record of a folder."""

    folder: str
    version: Version
    meta: FileMeta

    @property
    def name(self) -> str:
        """The full name; a folder's without the slash."""
        return names.join(self.folder, self.version.name.decode().removesuffix("/"))

    @property
    def shown(self) -> str:
        """The full name as listings show it: a folder's ends with a slash."""
        return names.join(self.folder, self.version.name.decode())

    def info(self) -> FileInfo:
        version, meta = self.version, self.meta
        return FileInfo(
            name=self.shown,
            size=version.size_bytes if meta.kind is Kind.FILE else 0,
            mtime=meta.mtime_ns / 1e9,
            mode=meta.mode,
            kind=_KINDS[meta.kind],
            hash=meta.hash.hex(),
            author=version.author.hex(),
            time=version.time_s,
            chunks=meta.chunks,
            encrypted=bool(version.flags & Flag.SEALED),
            target=version.body.decode() if meta.kind is Kind.LINK else "",
            replicas=meta.replicas,
            erasure=str(meta.code or ""),
        )


_KINDS: dict[Kind, Literal["file", "folder", "link"]] = {Kind.FILE: "file", Kind.FOLDER: "folder", Kind.LINK: "link"}


def parse_entry(folder: str, version: Version) -> Entry | None:
    """The entry of a record, or None where it is none that we understand: a stranger may put anything anywhere."""
    if not version.flags & Flag.FILE or version.dead:
        return None
    try:
        meta = decode_meta(version.meta)
        name = version.name.decode()
        names.check_part(name.removesuffix("/"))
        if meta.kind is Kind.LINK and (version.flags & Flag.CHUNKED or not is_link_text(version.body.decode())):
            raise InvalidError("bad target of a symbolic link")
    except (RemoteError, InvalidError, UnicodeDecodeError) as error:
        _log.warning("passed over a malformed record in folder %r: %s", folder, error)
        return None
    if (meta.kind is Kind.FOLDER) != name.endswith("/"):
        return None
    return Entry(folder, version, meta)


def is_link_text(target: str) -> bool:
    """Whether a symbolic link's target is text that may be shown."""
    return bool(target) and not names.has_controls(target)


class Namespace:
    """The tree of folders, over the records of the swarm."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def find(self, place: names.Place) -> Entry | None:
        """The file or link of this name. None: there is none, and the answer is complete."""
        return await self._entry(place, place.name)

    async def find_folder(self, path: str) -> Entry | None:
        """A folder's own entry (the root has none)."""
        if not path:
            return None
        place = names.split(path)
        return await self._entry(place, place.name + "/")

    async def need(self, place: names.Place) -> Entry:
        """The file or link of this name. Raises NotFoundError, or InvalidError where it is a folder."""
        entry = await self.find(place)
        if entry is not None:
            return entry
        if await self.find_folder(place.full) is not None:
            raise InvalidError(f"{place.full} is a folder", "name a file in it, or take it whole (delete-file -r)")
        raise NotFoundError(f"no file {place.full}", "see `p2pkv list-files`")

    async def put(self, folder: str, draft: Draft, *, acks: Acks = "quorum", hear_all: bool = False) -> PutOutcome:
        """Put an entry. Raises IncompleteError where acks are not reached.

        `hear_all`: hear every replica, however few must acknowledge, so that the count is the truth.
        """
        key = names.folder_key(folder)
        try:
            outcome = await self._records.put(key, draft, acks="all" if hear_all else acks)
        except RefusedError:
            if not hear_all or acks == "all":
                raise
            outcome = await self._records.put(key, draft, acks=acks)  # one full replica is no refusal by the swarm
        outcome = msgspec.structs.replace(outcome, needed=needed(acks, outcome.asked))
        if not outcome.reached:
            raise IncompleteError(
                f"the record of {names.join(folder, draft.name.decode())} reached {outcome.stored} of {outcome.asked} "
                f"replicas, {outcome.needed} are needed{reasons(outcome.failures)}",
                "see `p2pkv peers` and `p2pkv doctor`, then try again",
            )
        return outcome

    async def ensure_folder(self, path: str, *, acks: Acks = "quorum") -> None:
        """Make a folder and all above it that are not there. Raises RefusedError where a file is in the way."""
        parts = path.split("/") if path else []
        paths = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
        await asyncio.gather(*(self._ensure_one(path, acks) for path in paths))

    async def put_folder(self, path: str, meta: FileMeta, *, acks: Acks = "quorum") -> PutOutcome:
        """Put a folder's own entry with its mode and time."""
        place = names.split(path)
        await self._check_free(place)
        draft = Draft(name=f"{place.name}/".encode(), flags=int(Flag.FILE), meta=meta.encode())
        return await self.put(place.folder, draft, acks=acks)

    async def remove(self, entry: Entry, *, acks: Acks = "quorum") -> PutOutcome:
        """Put a tombstone in the entry's place."""
        flags = Flag.TOMBSTONE | Flag.FILE | (entry.version.flags & Flag.OWN)
        return await self.put(entry.folder, Draft(name=entry.version.name, flags=int(flags)), acks=acks)

    async def _ensure_one(self, path: str, acks: Acks) -> None:
        if await self.find_folder(path) is None:
            await self.put_folder(path, FileMeta(Kind.FOLDER, mode=0o755), acks=acks)

    async def _check_free(self, place: names.Place) -> None:
        if await self.find(place) is not None:
            raise RefusedError(f"{place.full} is a file, not a folder", "delete it or choose another folder")

    async def _entry(self, place: names.Place, record: str) -> Entry | None:
        for version in await self._records.read_name(place.key, record.encode()):
            entry = parse_entry(place.folder, version)
            if entry is not None:
                return entry
        return None
