"""Pack files: chunk bytes one behind the other, appended by one thread, durable before they are indexed.

Layout of a pack: 16 bytes `p2pkv pack 1` padded with zeros, then for each chunk a head (4 bytes `CHNK`, size as 4 bytes
big-endian, the chunk id) and its bytes. The index in the database is what counts: bytes that it does not know (the torn
tail of a crash, a chunk that failed a quota) are cut off at the next opening or lost when the pack is rewritten.

Owns the files in `packs/`. Never touches the database.
"""

from __future__ import annotations

import errno
from pathlib import Path

import msgspec

from p2pkv.ids import ChunkID, chunk_id_of
from p2pkv.limits import STORE_PACK_BYTES_MAX
from p2pkv.storage.disk_groups import Job, store_error
from p2pkv.storage.disk_writer import Location
from p2pkv.storage.files import AppendFile, Files

PACK_HEAD = b"p2pkv pack 1".ljust(16, b"\0")
_CHUNK_MARK = b"CHNK"
CHUNK_HEAD_BYTES = 4 + 4 + 32
_JOIN_BYTES_MAX = 1 << 18  # small chunks go out in one write; a copy of more costs more than the call


class AppendChunk(msgspec.Struct, frozen=True):
    """Result: Location, or None where nothing was appended because the chunk is there (and `again` is not set)."""

    chunk_id: ChunkID
    data: bytes
    again: bool = False


class Packs:
    """Handles the groups of the pack thread; `read` may be called from any thread."""

    def __init__(self, folder: Path, files: Files, pack_bytes_max: int = STORE_PACK_BYTES_MAX) -> None:
        self._folder = folder
        self._files = files
        self._pack_bytes_max = pack_bytes_max
        self._file: AppendFile | None = None
        self._end_bytes = 0  # of the current pack, all of it durable between groups
        self.current = 0  # the pack being written

    def path(self, pack: int) -> Path:
        return self._folder / f"{pack:08d}.pack"

    def open(self, ends: dict[int, int]) -> None:
        """Given how far each known pack is indexed, cut the torn tail of the last and go on behind it."""
        self._remove_unknown(ends)
        self.current = max(ends, default=0)
        end = ends.get(self.current, 0)
        if not ends or end >= self._pack_bytes_max or (self._files.size_bytes(self.path(self.current)) or 0) < end:
            self.current += 1  # a pack that lost its tail is left alone: its chunks are noticed by their hashes
            return
        self._file = self._files.open_append(self.path(self.current), end)
        self._end_bytes = end

    def _remove_unknown(self, ends: dict[int, int]) -> None:
        for path in self._folder.glob("*.pack"):
            if not path.stem.isdecimal() or int(path.stem) not in ends:
                self._files.unlink(path)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def handle(self, jobs: list[Job[AppendChunk]]) -> None:
        """Append the group's chunks under one sync. After a fault the pack is left as it was, or left for good."""
        if not jobs:
            return
        before = self._end_bytes
        try:
            file = self._writable()
            before = self._end_bytes
            self._append(file, jobs)
            file.sync()
        except OSError as error:
            self._back_out(before)
            raise store_error(error) from error

    def _writable(self) -> AppendFile:
        if self._file is not None and self._end_bytes >= self._pack_bytes_max:
            self._leave()
        if self._file is None:
            self._file = self._files.open_append(self.path(self.current), 0)
            self._end_bytes = 0
            self._file.write(PACK_HEAD)
            self._files.sync_folder(self._folder)
            self._end_bytes = len(PACK_HEAD)
        return self._file

    def _append(self, file: AppendFile, jobs: list[Job[AppendChunk]]) -> None:
        waiting: list[bytes] = []
        waiting_bytes = 0
        for job in jobs:
            chunk_id, data = job.work.chunk_id, job.work.data
            job.result = Location(self.current, self._end_bytes + CHUNK_HEAD_BYTES, len(data))
            self._end_bytes += CHUNK_HEAD_BYTES + len(data)
            waiting += (_CHUNK_MARK + len(data).to_bytes(4, "big") + chunk_id, data)
            waiting_bytes += CHUNK_HEAD_BYTES + len(data)
            if waiting_bytes > _JOIN_BYTES_MAX:
                _write(file, waiting)
                waiting, waiting_bytes = [], 0
        _write(file, waiting)

    def _back_out(self, end_bytes: int) -> None:
        """After a failed write or sync nobody knows what the disk holds: go on in a new pack."""
        self._end_bytes = end_bytes
        if self._file is None:
            return
        try:
            self._file.truncate(end_bytes)
        except OSError:
            pass  # the tail stays unindexed
        finally:
            self._leave()

    def _leave(self) -> None:
        try:
            self.close()
        except OSError:
            self._file = None  # the descriptor is gone whatever close says
        self.current += 1
        self._end_bytes = 0

    def read(self, chunk_id: ChunkID, location: Location) -> bytes | None:
        """The chunk's bytes; None where they are not (or no longer) what they should be."""
        try:
            data = self._files.read_at(self.path(location.pack), location.offset, location.size_bytes)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EIO):  # gone, or unreadable: as good as damaged
                return None
            raise
        return data if chunk_id_of(data) == chunk_id else None

    def size_bytes(self, pack: int) -> int:
        return self._files.size_bytes(self.path(pack)) or 0

    def remove(self, pack: int) -> bool:
        """Delete a pack without live chunks. False where a reader still holds it (on Windows): later, then."""
        try:
            self._files.unlink(self.path(pack))
        except PermissionError:
            return False
        return True


def _write(file: AppendFile, parts: list[bytes]) -> None:
    if sum(map(len, parts)) <= _JOIN_BYTES_MAX:
        file.write(b"".join(parts))
    else:
        for part in parts:
            file.write(part)
