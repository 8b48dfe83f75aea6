"""An independent witness: it remembers every put that was acknowledged, and judges what readers got."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable

from p2pkv.errors import IncompleteError, P2pkvError
from p2pkv.outcomes import Record
from p2pkv.peer import Peer
from p2pkv.swarm.holdings import PageBound


class Witness:
    """Values are unique, so a record lost or doubled shows by its value alone."""

    def __init__(self) -> None:
        self.acknowledged: list[bytes] = []
        self.tried: set[bytes] = set()

    async def put(self, peer: Peer, key: str, value: bytes) -> None:
        self.tried.add(value)
        try:
            await peer.put(key, value)
        except P2pkvError:
            return
        self.acknowledged.append(value)

    async def put_many(self, peer: Peer, key: str, values: list[bytes]) -> None:
        """They come one by one: nobody knows how many will, so pages fill and split with records in them."""
        self.tried.update(values)
        number = 0
        async for outcome in peer.put_many(key, trickling(values)):
            if outcome.reached:
                self.acknowledged.append(values[number])
            number += 1
        assert number == len(values)

    def judge(self, got: Iterable[bytes | None], before: int | None = None) -> None:
        """`got` is what a read that was complete brought; `before`: how many puts were acknowledged when it began."""
        counts = Counter(got)
        assert set(counts) <= self.tried, "something that nobody put"
        assert max(counts.values(), default=1) == 1, "a record came twice"
        lost = set(self.acknowledged[:before]) - set(counts)
        assert not lost, f"{len(lost)} of {len(self.acknowledged)} acknowledged records are missing"


async def trickling(values: Iterable[bytes]) -> AsyncIterator[bytes]:
    for value in values:
        await asyncio.sleep(0.001)
        yield value


async def values(records: AsyncIterator[Record]) -> list[bytes | None]:
    return [record.value async for record in records]


def bound(peers: Iterable[Peer], records: int) -> None:
    """Let pages split soon."""
    for peer in peers:
        bound_of(peer).records = records


def one_page(peers: Iterable[Peer]) -> None:
    """Let no page split, however many bytes come."""
    for peer in peers:
        bound_of(peer).size_bytes = 1 << 30


def bound_of(peer: Peer) -> PageBound:
    return peer.node.page_bound


def pages_of(peer: Peer, key: str) -> int:
    """How many pages the peer believes the key to have."""
    return 1 + 16 * len(peer.node.writer.tree(key.encode()).noticed)


async def complete(peer: Peer, key: str, **options: object) -> list[bytes | None]:
    """A read, tried again where it says that it is incomplete."""
    for _ in range(20):
        try:
            return await values(peer.get(key, **options))  # type: ignore[arg-type]
        except IncompleteError:
            continue
    raise AssertionError("no complete answer in 20 attempts")
