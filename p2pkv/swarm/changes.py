"""Items that came or went lately and do not count in the inventory yet.

Theory of operation. What is put reaches its replicas one after the other, within a second or so. A replica that counted
a record at once would differ from the others for that long, and they would fetch what is on its way to them already. So
changes wait: those of the running window, then those of the window before; only what is older than a whole window is
due. Where they are few, they need not wait: little could be fetched in vain. Whoever must know now asks `has`.

Owns these windows. Never reads a clock or the store.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from p2pkv.core.reconciliation import CELL_BYTES
from p2pkv.limits import CHANGES_FEW_MAX, CHANGES_MANY_MIN

Cells = dict[bytes, dict[bytes, bool]]
"""By cell, the items that came (True) or went (False): the last word on each."""


class Changes:
    """The changes of one inventory."""

    def __init__(self) -> None:
        self._now: Cells = defaultdict(dict)
        self._before: Cells = {}
        self._due: Cells = {}

    def __bool__(self) -> bool:
        return bool(self._now or self._before or self._due)

    def note(self, item: bytes, *, here: bool) -> None:
        """An item came or went."""
        self._now[item[:CELL_BYTES]][item] = here

    @property
    def few(self) -> bool:
        return self._waiting_up_to(CHANGES_FEW_MAX)

    @property
    def many(self) -> bool:
        return not self._waiting_up_to(CHANGES_MANY_MIN - 1)

    def _waiting_up_to(self, count: int) -> bool:
        waiting = (*self._now.values(), *self._before.values())
        return len(waiting) <= count and sum(map(len, waiting)) <= count

    def turn(self) -> None:
        """A window has ended."""
        _add(self._due, self._before)
        self._before, self._now = self._now, defaultdict(dict)

    def has(self, item: bytes) -> bool | None:
        """Is an item here? None where nothing of it has changed."""
        cell = item[:CELL_BYTES]
        for cells in (self._now, self._before, self._due):
            here = cells.get(cell, {}).get(item)
            if here is not None:
                return here
        return None

    def cells(self) -> list[bytes]:
        """The cells of which something is due."""
        return list(self._due)

    def take(self, cell: bytes) -> dict[bytes, bool]:
        """What is due of a cell. It is the caller's to count from now on."""
        return self._due.pop(cell, {})

    def hurry(self) -> None:
        """All is due now."""
        self.turn()
        self.turn()

    def forget(self, cells: Iterable[bytes]) -> None:
        """These cells are about to be read from the store, which knows of all changes so far."""
        for cell in cells:
            for changes in (self._now, self._before, self._due):
                changes.pop(cell, None)


def _add(to: Cells, changes: Cells) -> None:
    for cell, items in changes.items():
        to.setdefault(cell, {}).update(items)
