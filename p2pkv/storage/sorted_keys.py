"""A sorted list of distinct keys that stays quick when it is long.

Owns an order and nothing else: no values, no records. Keys lie in chunks of bounded length, so an insert moves at most
one chunk; adding at the end, the common case of a log, touches the last chunk alone.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from typing import Any

Key = tuple[Any, ...]
_CHUNK_KEYS = 512  # a memmove of 4 KiB, and 2,000 chunks at a million keys


class SortedKeys:
    """Distinct tuples in ascending order."""

    __slots__ = ("_chunks", "_lasts", "_length")

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        ordered = sorted(keys)
        self._chunks = [ordered[i : i + _CHUNK_KEYS] for i in range(0, len(ordered), _CHUNK_KEYS)]
        self._lasts = [chunk[-1] for chunk in self._chunks]
        self._length = len(ordered)

    def __len__(self) -> int:
        return self._length

    def add(self, key: Key) -> None:
        """Insert a key that is not there yet."""
        self._length += 1
        if not self._chunks or key > self._lasts[-1]:
            self._append(key)
            return
        at = bisect_left(self._lasts, key)
        chunk = self._chunks[at]
        insort(chunk, key)
        if len(chunk) > 2 * _CHUNK_KEYS:
            self._chunks[at : at + 1] = [chunk[:_CHUNK_KEYS], chunk[_CHUNK_KEYS:]]
            self._lasts.insert(at, chunk[_CHUNK_KEYS - 1])

    def _append(self, key: Key) -> None:
        if not self._chunks or len(self._chunks[-1]) >= _CHUNK_KEYS:
            self._chunks.append([])
            self._lasts.append(key)
        self._chunks[-1].append(key)
        self._lasts[-1] = key

    def remove(self, key: Key) -> None:
        """Take out a key that is there."""
        at = bisect_left(self._lasts, key)
        chunk = self._chunks[at]
        del chunk[bisect_left(chunk, key)]
        self._length -= 1
        if chunk:
            self._lasts[at] = chunk[-1]
        else:
            del self._chunks[at], self._lasts[at]

    def ascending(self, low: Key | None = None, *, beyond: bool = False) -> Iterator[Key]:
        """Keys from `low` on (with `beyond`, behind it) in order."""
        if low is None:
            for chunk in self._chunks:
                yield from chunk
            return
        bisect = bisect_right if beyond else bisect_left
        for at in range(bisect(self._lasts, low), len(self._chunks)):
            chunk = self._chunks[at]
            yield from chunk[bisect(chunk, low) :] if chunk[0] <= low else chunk

    def descending(self, high: Key | None = None, *, beyond: bool = False) -> Iterator[Key]:
        """Keys from `high` down (with `beyond`, below it) in reverse order."""
        if high is None:
            for chunk in reversed(self._chunks):
                yield from reversed(chunk)
            return
        bisect = bisect_left if beyond else bisect_right
        for at in range(min(bisect_left(self._lasts, high), len(self._chunks) - 1), -1, -1):
            chunk = self._chunks[at]
            yield from reversed(chunk[: bisect(chunk, high)] if chunk[-1] >= high else chunk)

    def count_through(self, high: Key) -> int:
        """How many keys are at most `high`."""
        at = bisect_right(self._lasts, high)
        count = sum(len(chunk) for chunk in self._chunks[:at])
        return count + (bisect_right(self._chunks[at], high) if at < len(self._chunks) else 0)
