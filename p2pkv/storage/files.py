"""The file operations of the disk engine, in one place so that a test can lose, tear and reorder unsynced writes.

Owns how bytes become durable on each platform, and the lock of a folder. SQLite does its own file operations and is
trusted with them; pack files, the format record and the lock go through here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import BinaryIO

from p2pkv.errors import P2pkvError

_LOCKED_BYTE = 1 << 30  # behind the process id, which others must be able to read on Windows


class AppendFile:
    """A file written at its end. What was written is durable after `sync`, not before."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        """Open or create; what lies behind `size_bytes` is cut off."""
        self._file: BinaryIO = path.open("r+b" if path.exists() else "x+b", buffering=0)
        self.truncate(size_bytes)

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def sync(self) -> None:
        sync_descriptor(self._file.fileno())

    def truncate(self, size_bytes: int) -> None:
        self._file.truncate(size_bytes)
        self._file.seek(size_bytes)

    def close(self) -> None:
        self._file.close()


class Files:
    """The real file system."""

    def open_append(self, path: Path, size_bytes: int) -> AppendFile:
        return AppendFile(path, size_bytes)

    def read_at(self, path: Path, offset: int, size_bytes: int) -> bytes:
        """Up to `size_bytes` bytes, fewer at the end of the file."""
        if not hasattr(os, "pread"):
            with path.open("rb", buffering=0) as file:
                file.seek(offset)
                return file.read(size_bytes) or b""
        descriptor = os.open(path, os.O_RDONLY)  # three system calls, where a file object takes six
        try:
            return os.pread(descriptor, size_bytes, offset)
        finally:
            os.close(descriptor)

    def size_bytes(self, path: Path) -> int | None:
        """None where there is no such file."""
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return None

    def write_whole(self, path: Path, data: bytes) -> None:
        """Replace a small file durably: old or new, never a part."""
        fresh = path.with_name(path.name + ".new")
        with contextlib.closing(self.open_append(fresh, 0)) as file:
            file.write(data)
            file.sync()
        self.rename(fresh, path)
        self.sync_folder(path.parent)

    def rename(self, old: Path, new: Path) -> None:
        old.replace(new)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def sync_folder(self, folder: Path) -> None:
        """Make new and renamed names durable. Windows does so by itself."""
        if os.name == "nt":
            return
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_descriptor(descriptor: int) -> None:
    """Bytes and length on the disk itself: plain fsync on macOS stops at the drive's cache."""
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    elif sys.platform == "linux":
        os.fdatasync(descriptor)
    else:
        os.fsync(descriptor)


class FolderLock:
    """One process, one store: held until released or until the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def take(self) -> None:
        """Raise P2pkvError where another store, of this process or another, holds it."""
        file = self._path.open("a+b", buffering=0)
        try:
            _lock(file)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                file.close()
                raise  # no lock to be had here, whoever holds it
            file.seek(0)
            owner = file.read(20).decode("ascii", "replace").strip() or "unknown"
            file.close()
            raise P2pkvError(
                f"{self._path.parent} is in use by process {owner}", "stop it, or use another home"
            ) from None
        file.truncate(0)
        file.write(b"%d\n" % os.getpid())
        self._file = file

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _lock(file: BinaryIO) -> None:
    if sys.platform == "win32":
        import msvcrt

        file.seek(_LOCKED_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)
    else:
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
