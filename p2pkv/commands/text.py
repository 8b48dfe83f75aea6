"""Output of what strangers wrote: raw into a pipe, and without control characters onto a terminal."""

from __future__ import annotations

import re
import sys
import time

# C0 but tab and newline, delete, C1: what could move the cursor, retitle the window or answer back.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Text that a terminal only shows: control characters and undecodable bytes as escapes."""
    escaped = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    return escaped.encode("utf-8", "backslashreplace").decode()


def write_line(data: bytes, *, raw: bool = False) -> None:
    """Data as it is with a newline, or with `raw` without one; printable on a terminal unless raw."""
    terminal = sys.stdout.isatty()
    if not raw and terminal:
        data = printable(data.decode("utf-8", "backslashreplace")).encode()
    sys.stdout.buffer.write(data if raw else data + b"\n")
    if terminal:
        sys.stdout.flush()  # someone watches it come


def one_line(text: str) -> str:
    """A name on a line of its own: printable and without newlines."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def local_time(time_s: float) -> str:
    """As `ls -l --time-style=long-iso` prints it."""
    if not time_s:
        return f"{'-':16}"  # a folder that nobody stored: files were stored in it
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(time_s))
