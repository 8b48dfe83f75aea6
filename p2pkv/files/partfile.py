"""The file that a download writes before it has the final name, and the journal that lets a broken run go on.

`.<name>.p2pkv-part` lies beside the target and holds the bytes; `.<name>.p2pkv-part.journal` says which are there:

    "p2pkvj2\\n"  identity of the content and range, 32 bytes
    then per finished piece: offset u64, length u32, first 16 bytes of its check; big-endian

The check is the BLAKE3 hash of a zero byte and the piece: the id of a chunk that is stored plainly (core/chunking.py),
so that most pieces are not hashed once more.

A piece is journaled after it is written, and believed on resuming only where the bytes on disk have its hash. The final
name appears by one rename, after the content is complete and synced. Blocking: called in threads.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import struct
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3

from p2pkv.errors import P2pkvError
from p2pkv.files.direct import DirectFile
from p2pkv.files.source import local_error
from p2pkv.ids import Bytes
from p2pkv.limits import CHUNK_BYTES_MAX, DIRECT_FILE_BYTES_MIN, DIRECT_WRITE_BYTES_MAX

if sys.platform != "win32":
    import fcntl

PART_SUFFIX = ".p2pkv-part"
CHECK_BYTES = 16
_MAGIC = b"p2pkvj2\n"
_PIECE = struct.Struct(">QI16s")
_NAME_BYTES_MAX = 255 - len(PART_SUFFIX + ".journal") - 1
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class NoSpaceError(P2pkvError):
    """The local disk is full. What was fetched is kept; the same command goes on when there is room."""


class FetchedPiece(NamedTuple):
    """Bytes of the file on their way to the disk, with their check where it is known."""

    offset: int
    data: Bytes
    check: bytes | None = None


class PartFile:
    """One download's bytes on disk."""

    def __init__(self, target: Path, identity: bytes, size_bytes: int) -> None:
        self.target = target
        self.path = part_path(target)
        self._journal_path = journal_path(self.path)
        self._size_bytes = size_bytes
        self._header = _MAGIC + identity
        self._lock = threading.Lock()
        self._done: dict[int, tuple[int, bytes]] = {}
        self._fd = self._journal_fd = -1
        self._direct: DirectFile | None = None
        self._finished = False

    def open(self) -> None:
        """Take up what an earlier run of the same content left, or begin. Raises P2pkvError, NoSpaceError."""
        with self._errors():
            self._fd = open_locked(self.path)
            self._resume()
            self._check_space()
            if self._size_bytes >= DIRECT_FILE_BYTES_MIN:
                self._direct = DirectFile(self.path)

    def knows(self, offset: int, length: int) -> bool:
        """Whether the journal says that this piece is there."""
        return self._done.get(offset, (0, b""))[0] == length

    def verify(self, offset: int, length: int) -> bool:
        """Whether a piece that the journal knows really is on disk; forgotten where not."""
        with self._errors():
            if _check(self.read(offset, length)) == self._done[offset][1]:
                return True
        del self._done[offset]
        return False

    def read(self, offset: int, length: int) -> bytes:
        with self._errors():
            if hasattr(os, "pread"):
                return os.pread(self._fd, length, offset)
            with self._lock:
                os.lseek(self._fd, offset, os.SEEK_SET)
                return os.read(self._fd, length)

    def write(self, pieces: Sequence[FetchedPiece]) -> None:
        """Write pieces, then journal them; for one thread at a time. Raises NoSpaceError."""
        with self._errors():
            for run in _runs(pieces, DIRECT_WRITE_BYTES_MAX if self._direct else 0):
                self._write_all(run)
                if self._size_bytes > CHUNK_BYTES_MAX:  # less than a chunk is not worth a journal
                    self._note(run)

    def write_whole(self, data: Bytes) -> None:
        """A small file's content, all of it."""
        if data:
            self.write([FetchedPiece(0, data)])

    def finish(self, mode: int, mtime_ns: int) -> None:
        """Give the complete content its mode, time and final name, durably."""
        with self._errors():
            if hasattr(os, "fchmod"):
                os.fchmod(self._fd, mode)
            os.utime(self._fd if os.utime in os.supports_fd else self.path, ns=(mtime_ns, mtime_ns))
            os.fsync(self._fd)
            if sys.platform == "win32":  # an open file cannot be renamed there
                os.close(self._fd)
                self._fd = -1
            self.path.replace(self.target)
            self._finished = True
            sync_folder(self.target.parent)

    def discard(self) -> None:
        """Nothing of it may be used again."""
        self._done.clear()

    def close(self) -> None:
        """Leave only what can be resumed: both files, or none."""
        if self._fd < 0 and not self._finished:
            return  # never ours
        if self._journal_fd >= 0:
            os.close(self._journal_fd)
        if sys.platform == "win32":  # an open file cannot be removed there; elsewhere the lock is kept to the end
            self._close_part()
        if not self._done or self._finished:
            with contextlib.suppress(OSError):
                self._journal_path.unlink(missing_ok=True)
                if not self._finished:
                    self.path.unlink()
        self._close_part()
        self._journal_fd = -1

    def _close_part(self) -> None:
        if self._direct is not None:
            self._direct.close()
            self._direct = None
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _check_space(self) -> None:
        """Notice a full disk before it is full."""
        missing = self._size_bytes - sum(length for length, _ in self._done.values())
        free = shutil.disk_usage(self.path.parent).free
        if missing > free:
            raise OSError(errno.ENOSPC, f"{missing} bytes are missing and {free} are free")

    def _resume(self) -> None:
        old = _read_journal(self._journal_path)
        if old.startswith(self._header) and os.fstat(self._fd).st_size == self._size_bytes:
            body = old[len(self._header) :]
            whole = len(body) - len(body) % _PIECE.size  # the last entry may be torn
            self._done = {at: (length, digest) for at, length, digest in _PIECE.iter_unpack(body[:whole])}
            self._open_journal(len(self._header) + whole)
            return
        self._journal_path.unlink(missing_ok=True)
        os.ftruncate(self._fd, 0)
        os.ftruncate(self._fd, self._size_bytes)

    def _note(self, pieces: Sequence[FetchedPiece]) -> None:
        if self._journal_fd < 0:
            self._open_journal(0)
            os.write(self._journal_fd, self._header)
        done = {piece.offset: (len(piece.data), piece.check or _check(piece.data)) for piece in pieces}
        entries = (_PIECE.pack(offset, length, check) for offset, (length, check) in done.items())
        os.write(self._journal_fd, b"".join(entries))
        self._done |= done

    def _open_journal(self, keep_bytes: int) -> None:
        self._journal_fd = os.open(self._journal_path, _FLAGS, 0o600)
        os.ftruncate(self._journal_fd, keep_bytes)
        os.lseek(self._journal_fd, keep_bytes, os.SEEK_SET)

    def _write_all(self, run: Sequence[FetchedPiece]) -> None:
        start = run[0].offset
        done = start + (self._direct.write(start, [piece.data for piece in run]) if self._direct else 0)
        for offset, data, _ in run:
            skip = max(done - offset, 0)
            if skip < len(data):
                self._write_plainly(offset + skip, memoryview(data)[skip:])

    def _write_plainly(self, offset: int, view: memoryview) -> None:
        while view:
            if hasattr(os, "pwrite"):
                written = os.pwrite(self._fd, view, offset)
            else:
                with self._lock:
                    os.lseek(self._fd, offset, os.SEEK_SET)
                    written = os.write(self._fd, view)
            offset += written
            view = view[written:]

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise disk_error(self.target, error) from None


def part_path(target: Path) -> Path:
    """Where a target's bytes lie until they are complete."""
    name = target.name
    if len(name.encode(errors="surrogateescape")) > _NAME_BYTES_MAX:
        digest = blake3(name.encode(errors="surrogateescape")).hexdigest(length=8)
        name = f"{name.encode(errors='ignore')[: _NAME_BYTES_MAX - 17].decode(errors='ignore')}-{digest}"
    return target.with_name(f".{name}{PART_SUFFIX}")


def journal_path(part: Path) -> Path:
    return part.with_name(part.name + ".journal")


def disk_error(target: Path, error: OSError) -> P2pkvError:
    """What a user reads when the download cannot be written."""
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        mend = "free some space there and run the same download again: it goes on where it stopped"
        return NoSpaceError(f"{target}: no space left on its disk ({error.strerror})", mend)
    return local_error(target, error)


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder durable, where the system can."""
    if sys.platform == "win32":
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_locked(path: Path) -> int:
    """Open a part file for us alone. Raises P2pkvError where another download writes it."""
    while True:
        fd = os.open(path, _FLAGS, 0o600)
        if sys.platform == "win32":
            return fd
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise P2pkvError(f"{path}: another download is writing it", "wait for it, or choose another name") from None
        except OSError:
            return fd  # this file system knows no locks
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(fd).st_ino == path.stat().st_ino:
                return fd
        os.close(fd)  # it got its final name between our open and our lock


def _read_journal(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _check(data: Bytes) -> bytes:
    return blake3(b"\0").update(data).digest(length=CHECK_BYTES)


def _runs(pieces: Sequence[FetchedPiece], size_bytes_max: int) -> Iterator[list[FetchedPiece]]:
    """Adjacent pieces together, as far as they are written at once; each by itself where they are not."""
    run, size_bytes = list[FetchedPiece](), 0
    for piece in sorted(pieces, key=lambda piece: piece.offset):
        if run and (piece.offset != run[0].offset + size_bytes or size_bytes + len(piece.data) > size_bytes_max):
            yield run
            run, size_bytes = [], 0
        run.append(piece)
        size_bytes += len(piece.data)
    if run:
        yield run
