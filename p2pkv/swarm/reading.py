"""Coordinates reads: a key as a stream in order, a record by its name, a count.

An answer that could lack something raises IncompleteError; it never ends short in silence. How one page is read, and
how the pages of a key become one stream, is for `page_reading`, `split_reading` and `key_reading`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from p2pkv.core.pages import PageTree
from p2pkv.core.records import ALWAYS, Cursor, Period, Version
from p2pkv.core.replication import cursor_in
from p2pkv.outcomes import Order
from p2pkv.swarm.counting import Count
from p2pkv.swarm.environment import Environment
from p2pkv.swarm.key_reading import KeyReading
from p2pkv.swarm.mending import Mender
from p2pkv.swarm.names import NameReader
from p2pkv.swarm.newer import Newer
from p2pkv.swarm.opening import Openings
from p2pkv.swarm.page_reading import Query
from p2pkv.swarm.sources import Sources
from p2pkv.swarm.summaries import Summing

__all__ = ["Mender", "Reader"]


class Reader:
    """This peer's reads of records."""

    def __init__(
        self, sources: Sources, openings: Openings, newer: Newer, env: Environment, tree_of: Callable[[bytes], PageTree]
    ) -> None:
        """`tree_of` tells what this peer believes of a key's pages."""
        self.mender = Mender()
        self._sources = sources
        self._openings = openings
        self._names = NameReader(sources, newer, self.mender)
        self._env = env
        self._tree_of = tree_of
        self.summing: Summing | None = None  # of many pages at once

    async def read(
        self,
        key: bytes,
        *,
        order: Order = "time",
        prefix: bytes = b"",
        after: Cursor | None = None,
        reverse: bool = False,
        limit: int | None = None,
        period: Period = ALWAYS,
    ) -> AsyncGenerator[Version, None]:
        """Live versions of a key in order, every owner's. Raises IncompleteError, UnreachableError.

        A `period` goes with the order of time: nothing outside it is read from the first record on.
        """
        if limit is not None and limit <= 0:
            return
        query = Query(key, order, prefix, reverse)
        tree = self._tree_of(key)
        reading = KeyReading(self._sources, self._openings, self.mender, self._names, tree, query, limit=limit)
        left = limit
        begin = period.begin(cursor_in(order, after), reverse=reverse)
        async with aclosing(reading.runs(begin)) as runs:
            async for versions in runs:
                for version in versions:
                    if period.ended(version, reverse=reverse):
                        return
                    if not self._alive(version):
                        continue
                    yield version
                    if left is not None:
                        left -= 1
                        if left <= 0:
                            return

    async def read_name(self, key: bytes, name: bytes) -> list[Version]:
        """Live versions under one name, the highest rank first."""
        return [version for version in await self.read_name_raw(key, name) if self._alive(version)]

    async def read_name_raw(self, key: bytes, name: bytes) -> list[Version]:
        """As `read_name`, tombstones and expired versions included."""
        return await self._names.read(key, self._tree_of(key), name)

    async def count(self, key: bytes, *, prefix: bytes = b"") -> int:
        """How many live records a key has, without moving them."""
        query = Query(key, prefix=prefix)
        count = Count(
            self._sources,
            self._openings,
            self.summing,
            self.mender,
            self._names,
            self._tree_of(key),
            query,
            self._alive,
        )
        return await count.run()

    async def exists(self, key: bytes, *, prefix: bytes = b"") -> bool:
        """Has the key any record?"""
        async with aclosing(self.read(key, prefix=prefix, limit=1)) as versions:
            async for _ in versions:
                return True
        return False

    def _alive(self, version: Version) -> bool:
        return not version.dead and not version.expired(self._env.now_s())
