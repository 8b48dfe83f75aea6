"""An independent observer of atomic batches: it knows what each batch puts, and judges what readers see.

Batches have numbers, and the values of their records say them. Of two batches that put one record, the one of the
higher number was begun later, so no record may ever be seen to fall back to a lower one. What makes it atomic: who has
seen one record of a batch sees, in every get that begins after that, all of them, or what replaced them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence

from p2pkv.errors import IncompleteError, P2pkvError, RefusedError, UnreachableError
from p2pkv.outcomes import BatchChange, Record
from p2pkv.testing import SimPeer, SimSwarm

At = tuple[str, str]
"""A record: key and name."""


class Observer:
    """Judges gets. `floor`: what every get that begins now must show, or something newer."""

    def __init__(self) -> None:
        self.batches: dict[int, list[At]] = {}
        self.floor: dict[At, int] = {}
        self.failed: set[int] = set()  # told that nothing of them is visible
        self.seen: set[int] = set()
        self.gets = 0
        self.now_s: Callable[[], float] = lambda: 0.0
        self.cuts_s: list[float] = []  # when the network parted; for a while peers do not know yet

    def _near_cut(self, began_s: float, before_s: float, behind_s: float) -> bool:
        now_s = self.now_s()
        return any(cut_s - before_s <= now_s and began_s <= cut_s + behind_s for cut_s in self.cuts_s)

    async def put(self, peer: SimPeer, number: int, records: Sequence[At]) -> str:
        """Put a batch; what its user was told."""
        self.batches[number] = list(records)
        began_s = self.now_s()
        changes = [BatchChange(key, b"%d" % number, name=name) for key, name in records]
        try:
            await peer.put_batch(changes)
        except (RefusedError, IncompleteError, UnreachableError) as error:
            if "unknown" in str(error):
                return "unknown"
            assert number not in self.seen, f"batch {number} was seen, and its user is told: {error}"
            self.failed.add(number)
            return "failed"
        if self._near_cut(began_s, 1, 1):
            return "unknown"
        self._raise(number)
        return "done"

    def _raise(self, number: int) -> None:
        for at in self.batches[number]:
            self.floor[at] = max(self.floor.get(at, 0), number)

    async def get(self, key: str, records: Callable[[], AsyncIterator[Record]], name: str | None = None) -> None:
        """One get, judged where it is complete. Of a record that is replaced meanwhile it may show both versions."""
        floor = {at: least for at, least in self.floor.items() if at[0] == key and name in (None, at[1])}
        began_s = self.now_s()
        try:
            found = [(record.name, int(record.value or b"0")) async for record in records()]
        except (IncompleteError, UnreachableError):
            return
        if self._near_cut(began_s, 0, 10):
            return
        self.gets += 1
        for at, least in floor.items():
            shown = max((number for name, number in found if name == at[1]), default=0)
            assert shown >= least, f"{at} shows batch {shown} after {least} was seen"
        for number in {number for _, number in found if number}:
            assert number not in self.failed, f"batch {number} is visible, and its user was told that it is not"
            self.seen.add(number)
            self._raise(number)

    async def read_on(self, swarm: SimSwarm, readers: Sequence[int], keys: Sequence[str], seed: int) -> None:
        """Get all keys again and again, in every way there is, ever more rarely, until cancelled."""
        rng, pause_s = random.Random(seed), 0.05
        while True:
            peer = swarm.peers[rng.choice([index for index in readers if index not in swarm.down])]
            for key in rng.sample(keys, len(keys)):
                names = [name for other, name in self.floor if other == key]
                name = rng.choice(names) if names and rng.random() < 0.3 else None
                order = rng.choice(["time", "name"])
                reverse = rng.random() < 0.3

                def records(key=key, name=name, order=order, reverse=reverse, peer=peer):  # type: ignore[no-untyped-def]
                    return peer.get(key, name=name, order=order, reverse=reverse)

                await self.get(key, records, name)
            await asyncio.sleep(rng.uniform(0, pause_s))
            pause_s = min(1.05 * pause_s, 5.0)


async def until_read(peer: SimPeer, key: str) -> dict[str, bytes | None]:
    """A get, tried again where it is incomplete."""
    for _ in range(60):
        try:
            return {record.name: record.value async for record in peer.get(key)}
        except P2pkvError:
            await asyncio.sleep(1)
    raise AssertionError("no complete answer within a minute")


def crash_after(swarm: SimSwarm, index: int, datagrams: int) -> None:
    """Let a peer fall silent behind the so many-th datagram that it sends from now on."""
    host, send = swarm.seats[index].address[0], swarm.network.send
    left = datagrams

    def counted(data: bytes, source: tuple[str, int], target: tuple[str, int]) -> None:
        nonlocal left
        send(data, source, target)
        if source[0] == host:
            left -= 1
            if left == 0:
                swarm.kill(index)

    swarm.network.send = counted  # type: ignore[method-assign]


async def waiting(swarm: SimSwarm, indexes: Sequence[int]) -> int:
    """Pages in which versions still wait."""
    return sum([len(await swarm.peers[index].node.store.waiting()) for index in indexes])
