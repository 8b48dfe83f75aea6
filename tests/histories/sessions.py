"""A swarm whose peers come and go for hours, with clients at work: what they were told is written down and held to.

Every peer stays for a time with a half-life of an hour, then leaves, half of them without a word, and comes back on its
home a while later. Datagrams are lost, and now and then the network parts.

Owns what is drawn at random, by the seed, and the counting. Asks the peers only what any user can.
"""

from __future__ import annotations

import math
import random
from asyncio import CancelledError, Task, create_task, gather, sleep
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

from p2pkv.errors import P2pkvError
from p2pkv.testing import SimPeer, SimSwarm

HALF_LIFE_S = 3600.0
AWAY_S = 600.0  # on average
PARTED_EVERY_S = 7200.0
PARTED_S = 45.0
UNAWARE_S = 15.0  # around the beginning of a partition, when peers cannot know of it yet
SETTLED_S = 30.0  # a user waits so long for a peer that has just started
KEYS = 20


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


@dataclass
class Sessions:
    """One swarm, its comings and goings, and what its users were told."""

    swarm: SimSwarm
    rng: random.Random
    records: dict[tuple[str, str], bytes] = field(default_factory=dict)  # acknowledged
    files: dict[str, bytes] = field(default_factory=dict)  # acknowledged
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    fetched_bytes: int = 0  # by upkeep, in lives that have ended
    stored_bytes: int = 0
    peer_s: float = 0.0
    _since_s: dict[int, float] = field(default_factory=dict)
    _cuts_s: list[float] = field(default_factory=list)

    # --- comings and goings ---

    async def live(self, index: int) -> None:
        """One peer's sessions, for ever."""
        while True:
            await sleep(self.rng.expovariate(math.log(2) / HALF_LIFE_S))
            self._note_end(index)
            if self.rng.random() < 0.5:
                await self.swarm.crash_soon(index)
                self.counts["crashes"] += 1
            else:
                await self.swarm.leave_soon(index)
                self.counts["leaves"] += 1
            await sleep(self.rng.expovariate(1 / AWAY_S))
            while not self.swarm.up:
                await sleep(1)
            await self.swarm.restart_soon(index)
            self._since_s[index] = self.swarm.now_s

    def _note_end(self, index: int) -> None:
        self.fetched_bytes += self.swarm.peers[index].node.upkeep.counters["upkeep_bytes_fetched"]
        self.peer_s += self.swarm.now_s - self._since_s.get(index, 0.0)

    async def part(self) -> None:
        """Cut the network in two now and then, for ever."""
        try:
            while True:
                await sleep(self.rng.expovariate(1 / PARTED_EVERY_S))
                peers = list(range(len(self.swarm.peers)))
                self.rng.shuffle(peers)
                border = self.rng.randrange(1, len(peers))
                self._cuts_s.append(self.swarm.now_s)
                self.swarm.partition([peers[:border], peers[border:]])
                self.counts["partitions"] += 1
                await sleep(PARTED_S)
                self.swarm.heal()
                self._cuts_s.append(self.swarm.now_s)
        except CancelledError:
            self.swarm.heal()
            raise

    def _quiet(self) -> bool:
        """Is the network whole, and has it been for a while?"""
        now_s = self.swarm.now_s
        return len(self._cuts_s) % 2 == 0 and all(now_s - cut_s > UNAWARE_S for cut_s in self._cuts_s[-2:])

    def _peer(self) -> SimPeer | None:
        """A peer that a user might be at."""
        now_s = self.swarm.now_s
        settled = [index for index in self.swarm.up if now_s - self._since_s.get(index, -SETTLED_S) >= SETTLED_S]
        return self.swarm.peers[self.rng.choice(settled)] if settled else None

    # --- users ---

    async def work(self, pause_s: float) -> None:
        """Puts, gets, uploads and downloads, one after the other, for ever."""
        while True:
            await sleep(self.rng.expovariate(1 / pause_s))
            peer, dice = self._peer(), self.rng.random()
            if peer is None:
                continue
            if dice < 0.25 or not self.records:
                await self._put(peer)
            elif dice < 0.27 or not self.files:
                await self._upload(peer)
            elif dice < 0.95:
                await self._get(peer, *self.rng.choice(list(self.records)))
            else:
                await self._download(peer, self.rng.choice(list(self.files)))

    async def _put(self, peer: SimPeer) -> None:
        key, name = f"key{self.rng.randrange(KEYS)}", f"name{self.counts['puts']}"
        value = self.rng.randbytes(100)
        self.counts["puts"] += 1
        began_s = self.swarm.now_s
        try:
            await peer.put(key, value, name=name)
        except P2pkvError:
            self.counts["puts refused"] += 1
            return
        if not any(began_s - 1 <= cut_s <= self.swarm.now_s for cut_s in self._cuts_s):
            self.records[key, name] = value  # what is acknowledged at the very moment of a cut is not promised
            self.stored_bytes += len(value)

    async def _upload(self, peer: SimPeer) -> None:
        name, data = f"file{self.counts['uploads']}", self.rng.randbytes(5000)
        self.counts["uploads"] += 1
        began_s = self.swarm.now_s
        try:
            await peer.upload(_once(data), name)
        except P2pkvError:
            self.counts["uploads refused"] += 1
            return
        if not any(began_s - 1 <= cut_s <= self.swarm.now_s for cut_s in self._cuts_s):
            self.files[name] = data
            self.stored_bytes += len(data)

    async def _get(self, peer: SimPeer, key: str, name: str, *, judged: bool = True) -> None:
        quiet = self._quiet()
        try:
            found = [record.value async for record in peer.get(key, name=name)]
        except P2pkvError:
            self._count_look(quiet=quiet and judged, good=False)
            return
        self._judge(f"{key} {name}", found, [self.records[key, name]], quiet=quiet and judged)

    async def _download(self, peer: SimPeer, name: str) -> None:
        quiet = self._quiet()
        try:
            _, blocks = await peer.open_file(name)
            data = b"".join([block async for block in blocks])
        except P2pkvError:
            self._count_look(quiet=quiet, good=False)
            return
        self._judge(name, [data], [self.files[name]], quiet=quiet)

    def _judge(self, what: str, found: list[bytes | None], wanted: list[bytes], *, quiet: bool) -> None:
        quiet = quiet and self._quiet()  # the network may have parted under it
        if found != wanted and quiet:
            self.wrong.append(f"{what} at {self.swarm.now_s:.0f} s: {len(found)} found")
        self._count_look(quiet=quiet, good=found == wanted)

    def _count_look(self, *, quiet: bool, good: bool) -> None:
        self.counts["looks" if quiet else "looks while parted"] += 1
        self.counts["failed" if quiet else "failed while parted"] += not good

    # --- the whole ---

    async def run(self, hours: float, clients: int, pause_s: float) -> None:
        """Sessions and users for so long; then the network is whole and everybody is back."""
        tasks: list[Task[None]] = [create_task(self.part())]
        tasks += [create_task(self.live(index)) for index in range(len(self.swarm.peers))]
        tasks += [create_task(self.work(pause_s)) for _ in range(clients)]
        await sleep(hours * 3600)
        for task in tasks:
            task.cancel()
        await gather(*tasks, return_exceptions=True)
        for index in self.swarm.up:
            self._note_end(index)
        for index in sorted(self.swarm.down):
            await self.swarm.restart_soon(index)

    async def lost(self, at: Iterable[int]) -> list[str]:
        """What was acknowledged and is not read back at some peers."""
        missing: list[str] = []
        for peer in (self.swarm.peers[index] for index in at):
            for (key, name), value in self.records.items():
                if [record.value async for record in peer.get(key, name=name)] != [value]:
                    missing.append(f"{key} {name}")
            for file, data in self.files.items():
                _, blocks = await peer.open_file(file)
                if b"".join([block async for block in blocks]) != data:
                    missing.append(file)
        return missing

    def told(self) -> str:
        """What happened, in one line."""
        looks, failed = self.counts["looks"], self.counts["failed"]
        share = 100 * (1 - failed / max(1, looks))
        repair = self.fetched_bytes / max(1, self.stored_bytes)
        return (
            f"{self.peer_s / 3600:.0f} peer-hours, {dict(self.counts)}, {len(self.records)} records and "
            f"{len(self.files)} files acknowledged, {share:.3f} % of looks succeed, "
            f"{repair:.1f} bytes of repair for each byte stored"
        )
