"""How quickly one writer lets a key grow, and which of its pages should therefore split before they are full.

Theory of operation. Pages below one root fill up together, and whatever they hold when they split has to move, which
costs several times what it cost to put. Whoever has brought many records will mostly bring as many again: so the root
splits when it is half full of what one writer brought, its 16 children when they are five eighths full; what is sure
to come counts as if it had. Deeper pages wait until they are full, since a get asks all of them. Only different names
count, as a record that is replaced takes no room; how many there were is told by the slots that their hashes fell into
(linear counting).

Owns the count. Knows no pages' states, no network, no time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from blake3 import blake3

from p2pkv.limits import GROWTH_SLOTS

EARLY_PAGES: Final = (0.5, 10.0)
"""Of how many pages' records the root splits, and its children."""


class Growth:
    """What one writer brought to a key."""

    __slots__ = ("_depth", "_slots", "_taken")

    def __init__(self) -> None:
        self._depth = 0  # the pages above are split early, or that was tried
        self._slots: bytearray | None = None
        self._taken = 0

    def bring(self, names: Iterable[bytes]) -> None:
        """Note records that are on their way."""
        if self._depth == len(EARLY_PAGES):
            return
        slots = self._slots
        if slots is None:
            slots = self._slots = bytearray(GROWTH_SLOTS)
        for name in names:
            slot = int.from_bytes(blake3(name).digest(length=4), "big") % GROWTH_SLOTS
            self._taken += not slots[slot]
            slots[slot] = 1

    def due(self, page_records: int, coming: int = 0) -> int | None:
        """The depth of the pages that are to split now, if any are: each depth is told once.

        `page_records`: how many a page holds. `coming`: names that are sure to be brought.
        """
        depth = self._depth
        if depth == len(EARLY_PAGES) or self._names() + coming <= EARLY_PAGES[depth] * page_records:
            return None
        self._depth += 1
        if self._depth == len(EARLY_PAGES):
            self._slots = None
        return depth

    def _names(self) -> float:
        """About how many there were."""
        free = 1 - self._taken / GROWTH_SLOTS
        return -GROWTH_SLOTS * math.log(free) if free else math.inf
