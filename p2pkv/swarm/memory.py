"""Settings of the process's memory that a peer is quicker with. Owns no memory.

Freed memory is kept: a chunk's megabyte is used again instead of being given back and asked for anew. Every megabyte
from the system costs 256 page faults, which made a quarter of the time of a transfer. Only the GNU C library is told.

Cycles are collected seldom: a peer holds many objects that stay and makes few cycles, and going through the former in
search of the latter took a tenth of the time of a peer that is written to.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from functools import cache

from p2pkv.limits import CYCLES_LOOKED_FOR_AFTER, FREE_MEMORY_KEPT_BYTES, READ_BYTES

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # malloc.h


def collect_seldom() -> None:
    """Never makes an application's own setting less sparing."""
    young, *others = gc.get_threshold()
    if young:  # 0: the application has turned it off
        gc.set_threshold(max(young, CYCLES_LOOKED_FOR_AFTER), *others)


@cache
def keep_freed_memory() -> bool:
    """Whether it could be done. Once for the whole process."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    kept = mallopt(_TRIM_THRESHOLD, FREE_MEMORY_KEPT_BYTES)
    mallopt(_ARENA_MAX, 1)  # what a thread frees in an arena of its own, no other thread uses again
    return bool(kept and mallopt(_MMAP_THRESHOLD, 2 * READ_BYTES))
