"""Reading a local file for upload, block by block, and noticing when it changes meanwhile.

A file that is written while we read it would become a mixture of two states. Its size, time and identity are
compared before and after: a difference is an error, and no record of it is put.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncGenerator
from pathlib import Path

from p2pkv.errors import InvalidError, NotFoundError, P2pkvError
from p2pkv.files.concurrency import Offload
from p2pkv.limits import CHUNK_BYTES_MAX, READ_BYTES

_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
_SPECIAL = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class SourceFile:
    """A regular file, read once. Blocking: called in threads."""

    def __init__(self, path: Path, *, follow: bool = True) -> None:
        """`follow`: a symbolic link that the user named stands for its target; one met in a folder does not."""
        self.path = path
        self._follow = follow
        self._fd = -1
        self._read = 0

    def load(self) -> tuple[os.stat_result, bytes | None]:
        """Open it; a small one is read at once, checked and closed. The content is None where it is for `read`."""
        found = self.open()
        if found.st_size > CHUNK_BYTES_MAX:
            return found, None
        content = b"".join(iter(self.read, b""))
        self.check_unchanged()
        self.close()
        return found, content

    def open(self) -> os.stat_result:
        """Raises NotFoundError, InvalidError (a folder, a special file), P2pkvError (permission and the like)."""
        try:
            check_regular(self.path, self.path.stat(follow_symlinks=self._follow))  # opening a pipe would wait
            self._fd = os.open(self.path, _FLAGS if self._follow else _FLAGS | getattr(os, "O_NOFOLLOW", 0))
        except OSError as error:
            raise local_error(self.path, error) from None
        self._stat = os.fstat(self._fd)
        return self._stat

    def read(self) -> bytes:
        """The next block; empty at the end."""
        try:
            block = os.read(self._fd, READ_BYTES)
        except OSError as error:
            raise local_error(self.path, error) from None
        self._read += len(block)
        if self._read > self._stat.st_size:
            raise self._changed()
        return block

    def check_unchanged(self) -> None:
        """Raise P2pkvError unless the file is still what was opened and all of it was read."""
        try:
            now = self.path.stat(follow_symlinks=self._follow)
        except OSError:
            now = None
        if now is None or _identity(now) != _identity(self._stat) or self._read != self._stat.st_size:
            raise self._changed()

    def _changed(self) -> P2pkvError:
        return P2pkvError(
            f"{self.path}: changed while it was read; nothing was stored under its name",
            "upload it again when nothing writes to it, or pipe it in: p2pkv upload -",
        )

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


async def blocks_of(source: SourceFile, offload: Offload) -> AsyncGenerator[bytes, None]:
    """The whole file; raises P2pkvError at its end where it changed meanwhile."""
    while block := await offload(source.read):
        yield block
    await offload(source.check_unchanged)


def check_regular(path: Path, found: os.stat_result) -> None:
    """Raise InvalidError where it is no regular file."""
    if stat.S_ISDIR(found.st_mode):
        raise InvalidError(f"{path}: is a folder", "upload it as a folder")
    for is_kind, what in _SPECIAL:
        if is_kind(found.st_mode):
            raise InvalidError(f"{path}: is {what}, not a file", "pipe its content in: p2pkv upload -")


def local_error(path: Path, error: OSError) -> P2pkvError:
    """What a user reads when the local disk fails."""
    what = f"{path}: {error.strerror or error}"
    if isinstance(error, FileNotFoundError):
        return NotFoundError(what, "check the path")
    mend = "check who may read or write it" if isinstance(error, PermissionError) else ""
    return P2pkvError(what, mend)


def _identity(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
