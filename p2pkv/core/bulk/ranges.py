"""Sets of whole numbers, kept as half-open ranges in ascending order: packets received, bytes received, bytes lost.

Owns the arithmetic of ranges alone. Never bounds itself: whoever fills one with a stranger's numbers calls `forget`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class RangeSet:
    """Numbers as disjoint ranges that never touch each other."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __len__(self) -> int:
        """How many ranges there are (not how many numbers)."""
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Ranges (start, end), ascending, the end outside."""
        return zip(self._starts, self._ends, strict=True)

    def __contains__(self, number: int) -> bool:
        index = bisect_right(self._starts, number) - 1
        return index >= 0 and number < self._ends[index]

    @property
    def end(self) -> int:
        """One more than the greatest number; 0 of nothing."""
        return self._ends[-1] if self._ends else 0

    def newest(self, count: int) -> list[tuple[int, int]]:
        """The last so many ranges, ascending."""
        return list(zip(self._starts[-count:], self._ends[-count:], strict=True))

    def covers(self, start: int, end: int) -> bool:
        """Whether all of a range is in the set."""
        index = bisect_right(self._starts, start) - 1
        return index >= 0 and end <= self._ends[index]

    def add(self, start: int, end: int) -> int:
        """Put a range in; how many of its numbers were new."""
        ends = self._ends
        if ends and start == ends[-1]:  # in order: by far the most common case
            ends[-1] = end
            return end - start
        return self._merge(start, end)

    def _merge(self, start: int, end: int) -> int:
        starts, ends = self._starts, self._ends
        first, last = bisect_left(ends, start), bisect_right(starts, end)
        if first == last:
            starts.insert(first, start)
            ends.insert(first, end)
            return end - start
        before = sum(ends[first:last]) - sum(starts[first:last])
        low, high = min(start, starts[first]), max(end, ends[last - 1])
        starts[first:last], ends[first:last] = [low], [high]
        return high - low - before

    def remove(self, start: int, end: int) -> None:
        """Take a range out."""
        starts, ends = self._starts, self._ends
        first, last = bisect_right(ends, start), bisect_left(starts, end)
        if first >= last:
            return
        low, high = starts[first], ends[last - 1]
        kept = [pair for pair in ((low, min(start, high)), (max(end, low), high)) if pair[0] < pair[1]]
        starts[first:last], ends[first:last] = [pair[0] for pair in kept], [pair[1] for pair in kept]

    def take(self, size: int) -> tuple[int, int]:
        """Take out at most `size` numbers from the lowest range. The set must not be empty."""
        start = self._starts[0]
        end = min(self._ends[0], start + size)
        if end == self._ends[0]:
            del self._starts[0], self._ends[0]
        else:
            self._starts[0] = end
        return start, end

    def forget(self, floor: int, ranges_max: int) -> None:
        """Take out everything below `floor`, and the lowest ranges beyond so many."""
        if self._starts and self._starts[0] < floor:
            self.remove(self._starts[0], floor)
        surplus = len(self._starts) - ranges_max
        if surplus > 0:
            del self._starts[:surplus], self._ends[:surplus]
