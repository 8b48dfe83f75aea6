"""Writing large files past the page cache, where the system can (O_DIRECT of Linux).

A page that is written once and not read again costs a copy and a fresh page of memory; for a large download that was
half of all its work. Such a write is also on the device when it returns, so the sync at the end has little to do.

Owns one descriptor and one buffer. Never writes what is not aligned: the caller does, and whatever this declines.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from p2pkv.ids import Bytes
from p2pkv.limits import CHUNK_BYTES_MAX, DIRECT_ALIGN_BYTES

_DIRECT = getattr(os, "O_DIRECT", 0)


class DirectFile:
    """A second way into a file that is there. Blocking; for one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._fd = -1
        self._buffer: mmap.mmap | None = None  # page-aligned, as the device wants it
        if _DIRECT:
            try:
                self._fd = os.open(path, os.O_WRONLY | _DIRECT | getattr(os, "O_NOFOLLOW", 0))
            except OSError:
                return  # this file system has no such way
            self._buffer = mmap.mmap(-1, CHUNK_BYTES_MAX)

    def write(self, offset: int, data: Bytes) -> int:
        """Write a beginning of the data, all of it but for an unaligned end; how much was written."""
        size_bytes = min(len(data), CHUNK_BYTES_MAX) & -DIRECT_ALIGN_BYTES
        if self._buffer is None or offset % DIRECT_ALIGN_BYTES or not size_bytes:
            return 0
        self._buffer[:size_bytes] = data[:size_bytes]
        try:
            with memoryview(self._buffer) as view:
                return os.pwrite(self._fd, view[:size_bytes], offset) & -DIRECT_ALIGN_BYTES
        except OSError:
            self.close()  # another alignment, or a fault: the ordinary write goes on, and says what it is
            return 0

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        if self._buffer is not None:
            self._buffer.close()
        self._fd, self._buffer = -1, None
