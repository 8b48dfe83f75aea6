"""Clients at work on one key of many records whose pages split meanwhile, and replicas that die in the middle of it.

Owns what is drawn at random, by the seed. Judges nothing.
"""

from __future__ import annotations

import random
from asyncio import CancelledError, TaskGroup, create_task, gather, sleep, timeout

from p2pkv.testing import SimPeer, SimSwarm
from tests.histories.history import History as OtherHistory
from tests.histories.many_history import History, Recorder
from tests.histories.nemesis import storm

REPLACED = tuple(f"again/{number}" for number in range(8))
PREFIXES = ("", "again/", "new/")
PAGE_BOUNDS = (16, 30, 45, 60)  # records of a page that does not split yet
PLAY_S_MAX = 3600.0  # of virtual time: no call takes for ever
SPLIT_S_MAX = 20.0  # a fault waits so long at most for a split to befall
PAUSE_S = 3.0


async def work(client: Recorder, calls: int) -> None:
    """Random operations of one client, one after the other."""
    for _ in range(calls):
        await (_write(client) if client.rng.random() < 0.5 else _look(client))
        await client.pause(PAUSE_S)


async def _write(client: Recorder) -> None:
    rng = client.rng
    match rng.randrange(20):
        case 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7:
            await client.put_many(rng.randint(5, 25))
        case 8 | 9:
            await client.put()
        case 10 | 11 | 12:
            await client.put_new()
        case 13 | 14 | 15:
            await client.put(rng.choice(REPLACED))
        case 16 | 17:
            await client.delete(client.known_names(rng.randint(1, 6)))
        case 18:
            await client.delete([rng.choice(REPLACED)])
        case _:
            if rng.random() < 0.3:
                await client.delete_all()


async def _look(client: Recorder) -> None:
    rng = client.rng
    way = {"order": rng.choice(["time", "time", "name"]), "reverse": rng.random() < 0.4}
    match rng.randrange(8):
        case 0 | 1:
            await client.read(**way)
        case 2:
            await client.read(**way, limit=rng.randint(1, 60))
        case 3:
            await client.read(**way, prefix=rng.choice(PREFIXES))
        case 4:
            await client.read_in_pages(rng.randint(3, 40), 0.3, **way, prefix=rng.choice(PREFIXES))
        case 5:
            for name in client.known_names(1):
                await client.read(name=name)
        case _:
            await client.count(rng.choice(PREFIXES))


# --- faults ---


class Torment:
    """One fault after the other, until it is cancelled; what it began it ends then."""

    def __init__(self, swarm: SimSwarm, history: History, rng: random.Random, bound: int, *, cuts: bool) -> None:
        self._swarm = swarm
        self._history = history
        self._rng = rng
        self._bound = bound
        self._faults = [self._crash, self._crash_amid_split, self._storm, *([self._cut] if cuts else [])]

    async def run(self) -> None:
        try:
            while True:
                await sleep(self._rng.uniform(0, 10))
                await self._rng.choice(self._faults)()
        except CancelledError:
            self._swarm.heal()
            for index in sorted(self._swarm.down):
                await self._back(index)
            raise

    async def _crash(self) -> None:
        """One process ends and comes back on its home."""
        await self._down_for_a_while([self._rng.choice(self._swarm.up)])

    async def _crash_amid_split(self) -> None:
        """One that has just made a split known dies before it moved anything on, and another one with it."""
        before = {index: _splits(self._swarm.peers[index]) for index in self._swarm.up}
        for _ in range(round(SPLIT_S_MAX / 0.1)):
            await sleep(0.1)
            begun = [index for index in before if _splits(self._swarm.peers[index]) > before[index]]
            if begun:
                others = [index for index in self._swarm.up if index != begun[0]]
                await sleep(self._rng.uniform(0, 1))
                await self._down_for_a_while([begun[0], self._rng.choice(others)])
                return

    async def _down_for_a_while(self, victims: list[int]) -> None:
        for index in victims:
            await self._swarm.crash_soon(index)
        await sleep(self._rng.uniform(1, 30))
        for index in victims:
            await self._back(index)

    async def _back(self, index: int) -> None:
        bound([await self._swarm.restart_soon(index)], self._bound)

    async def _storm(self) -> None:
        await storm(self._swarm, self._rng, OtherHistory())

    async def _cut(self) -> None:
        """The network falls into two parts for a while."""
        peers = list(range(len(self._swarm.peers)))
        self._rng.shuffle(peers)
        border = self._rng.randrange(1, len(peers))
        self._swarm.partition([peers[:border], peers[border:]])
        self._history.cuts_s.append(self._swarm.now_s)
        await sleep(self._rng.uniform(5, 25))
        self._swarm.heal()


def bound(peers: list[SimPeer], records: int) -> None:
    """Let pages split soon."""
    for peer in peers:
        peer.node.page_bound.records = records


def _splits(peer: SimPeer) -> int:
    return peer.node.mover.pages_split


# --- the whole ---


async def play(swarm: SimSwarm, history: History, *, seed: int, clients: int, calls: int, cuts: bool) -> None:
    """Let clients work while faults befall the swarm; then all is healed."""
    rng = random.Random(f"torment {seed}")
    records = rng.choice(PAGE_BOUNDS)
    bound(swarm.peers, records)
    torment = create_task(Torment(swarm, history, rng, records, cuts=cuts).run())
    async with timeout(PLAY_S_MAX), TaskGroup() as group:
        for number in range(clients):
            client = Recorder(swarm, history, number, random.Random(f"{seed} {number}"))
            group.create_task(work(client, calls))
    torment.cancel()
    await gather(torment, return_exceptions=True)


async def read_all(swarm: SimSwarm, history: History, at: list[int]) -> None:
    """Read the whole key at some peers, in each order."""
    for number in at:
        client = Recorder(swarm, history, number, random.Random(number))
        await client.read()
        await client.read(order="name", reverse=True)
        await client.read_in_pages(29, 0.0)
        await client.count("")
