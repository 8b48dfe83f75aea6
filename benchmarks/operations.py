"""What a load does to a system: puts, gets and lookups of keys called by a name and a number.

A value follows from its key, so any process can check what another one put. A value is read by another process than
the one that put it, from a peer that does not hold it where that can be known.
"""

from __future__ import annotations

from benchmarks.load import Operation
from benchmarks.rivals.base import Rival, value_of


class Operations:
    """Operations from the peers of this process, in turn."""

    def __init__(self, rival: Rival, peers: int) -> None:
        self._rival = rival
        self._peers = peers

    def of(self, kind: str, name: str) -> Operation:
        """The operation of a kind, on keys of a name."""
        work = {"put": self._put, "get": self._get, "lookup": self._look_up}[kind]
        return lambda number: work(f"{name}-{number}", number)

    async def _put(self, key: str, number: int) -> bool:
        return await self._rival.put(number % self._peers, key, value_of(key))

    async def _get(self, key: str, number: int) -> bool:
        return await self._rival.get(self._reader(key, number), key) == value_of(key)

    async def _look_up(self, key: str, number: int) -> bool:
        """A get of a key that nobody put is a lookup and nothing else."""
        return await self._rival.get(number % self._peers, f"absent-{key}") is None

    def _reader(self, key: str, number: int) -> int:
        peers = [(number + step) % self._peers for step in range(self._peers)]
        return next((peer for peer in peers if not self._rival.holds(peer, key)), peers[0])
