"""Writing a small file of a download: a handful of system calls, and nothing left to resume.

Like a part file (partfile.py) it appears whole under its name or not at all, durably. Blocking: called in threads.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from p2pkv.files.partfile import PartFile, disk_error, journal_path, open_locked, part_path, sync_folder
from p2pkv.ids import Bytes


def write_small(target: Path, data: Bytes, mode: int, mtime_ns: int) -> None:
    """Raises P2pkvError, NoSpaceError."""
    if not hasattr(os, "fchmod"):
        _write_as_part(target, data, mode, mtime_ns)
        return
    path = part_path(target)
    try:
        descriptor = open_locked(path)
        try:
            _fill(descriptor, data, mode, mtime_ns)
            path.replace(target)
        except OSError:
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        finally:
            os.close(descriptor)
        journal_path(path).unlink(missing_ok=True)
        sync_folder(target.parent)
    except OSError as error:
        raise disk_error(target, error) from None


def _fill(descriptor: int, data: Bytes, mode: int, mtime_ns: int) -> None:
    os.ftruncate(descriptor, 0)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fchmod(descriptor, mode)
    os.utime(descriptor, ns=(mtime_ns, mtime_ns))
    os.fsync(descriptor)


def _write_as_part(target: Path, data: Bytes, mode: int, mtime_ns: int) -> None:
    """Where an open file has neither mode nor time."""
    part = PartFile(target, bytes(32), len(data))
    try:
        part.open()
        part.write_whole(data)
        part.finish(mode, mtime_ns)
    finally:
        part.close()
