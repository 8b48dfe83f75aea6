"""Writing large files past the page cache, where the system can (O_DIRECT of Linux).

A page that is written once and not read again costs a copy and a fresh page of memory; for a large download that was
half of all its work. Such a write is also on the device when it returns, so the sync at the end has little to do.

Owns one descriptor and one buffer. Never writes what is not aligned: the caller does, and whatever this declines.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path

from p2pkv.ids import Bytes
from p2pkv.limits import DIRECT_ALIGN_BYTES, DIRECT_WRITE_BYTES_MAX

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
            self._buffer = mmap.mmap(-1, DIRECT_WRITE_BYTES_MAX)

    def write(self, offset: int, parts: Sequence[Bytes]) -> int:
        """Write the beginning of adjacent parts, all of them but for an unaligned end; how much was written."""
        if self._buffer is None or offset % DIRECT_ALIGN_BYTES:
            return 0
        size_bytes = 0
        for part in parts:
            assert size_bytes + len(part) <= DIRECT_WRITE_BYTES_MAX
            self._buffer[size_bytes : size_bytes + len(part)] = part
            size_bytes += len(part)
        size_bytes &= -DIRECT_ALIGN_BYTES
        try:
            with memoryview(self._buffer) as view:
                return os.pwrite(self._fd, view[:size_bytes], offset) & -DIRECT_ALIGN_BYTES
        except OSError:
            self.close()  # another alignment, or a fault: the ordinary write goes on, and says what it is
            return 0

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._buffer = -1, None  # the memory goes with its last view
