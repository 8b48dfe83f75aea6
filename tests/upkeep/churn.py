"""A swarm of real processes under load, whose peers are killed without a word and started again.

Everything that a put acknowledged is written down, and read again by somebody who has no part in the store.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from p2pkv.client import Client
from p2pkv.errors import P2pkvError
from p2pkv.peer import Peer

ROOT = Path(__file__).parents[2]
K = 8
COUNTERS = ("upkeep_bytes_fetched", "upkeep_records_fetched", "upkeep_chunks_fetched", "upkeep_rejected")


class Processes:
    """Peers as processes of their own, each with its home and its port."""

    def __init__(self, folder: Path, count: int) -> None:
        self.addresses: list[str] = []
        self.fetched: Counter[str] = Counter()  # by upkeep, in lives that have ended
        self._folder = folder
        self._children: list[subprocess.Popen[str]] = []
        for index in range(count):
            self.addresses.append("127.0.0.1:0")
            self._children.append(self._start(index))
            self.wait_ready(index)

    def _start(self, index: int) -> subprocess.Popen[str]:
        known = [address for other, address in enumerate(self.addresses) if other != index]
        bootstrap = [part for address in known[:3] for part in ("--bootstrap", address)]
        options = ["--http", "off", "--listen", self.addresses[index]]
        return subprocess.Popen(
            [sys.executable, "-m", "p2pkv", "--home", str(self.home(index)), "start", *options, *bootstrap],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def home(self, index: int) -> Path:
        return self._folder / str(index)

    def wait_ready(self, index: int) -> None:
        stdout = self._children[index].stdout
        assert stdout is not None
        line = stdout.readline()
        assert " udp=" in line, line
        self.addresses[index] = line.split(" udp=")[1].split()[0]

    async def kill(self, index: int) -> None:
        """The process ends without a word; what it did is noted."""
        with suppress(P2pkvError):
            self.fetched.update(await self._counters(index))
        child = self._children[index]
        child.send_signal(signal.SIGKILL)
        child.wait()

    async def restart(self, index: int) -> None:
        self._children[index] = self._start(index)
        await asyncio.to_thread(self.wait_ready, index)

    async def _counters(self, index: int) -> dict[str, int]:
        async with Client(self.home(index)) as client:
            counters = (await client.status()).counters
        return {name: counters.get(name, 0) for name in COUNTERS}

    async def all_fetched(self) -> Counter[str]:
        for index in range(len(self._children)):
            self.fetched.update(await self._counters(index))
        return self.fetched

    def close(self) -> None:
        for child in self._children:
            child.kill()
        for child in self._children:
            child.wait()
            if child.stdout is not None:
                child.stdout.close()


@dataclass
class Journal:
    """What a user put and was told."""

    acknowledged: dict[str, bytes] = field(default_factory=dict)
    refused: int = 0
    gets: int = 0
    gets_failed: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.acknowledged.values()))


async def load(user: Peer, journal: Journal, draw: random.Random, pause_s: float = 0.02) -> None:
    """Put new keys, small values and some of several chunks, and read old ones, until cancelled."""
    number = 0
    while True:
        number += 1
        key = f"key {number}"
        value = draw.randbytes(100_000 if number % 50 == 0 else 64)
        try:
            outcome = await user.put(key, value)
            if outcome.reached:
                journal.acknowledged[key] = value
        except P2pkvError:
            journal.refused += 1
        if journal.acknowledged:
            await check(user, journal, [draw.choice(list(journal.acknowledged))])
        await asyncio.sleep(pause_s)


async def check(user: Peer, journal: Journal, keys: Iterable[str]) -> None:
    """Read keys that were acknowledged; a get that fails says so, one that answers must tell the truth."""
    for key in keys:
        journal.gets += 1
        try:
            found = [record.value async for record in user.get(key)]
        except P2pkvError:
            journal.gets_failed += 1
            continue
        if found != [journal.acknowledged[key]]:
            journal.wrong.append(f"{key}: {[(value or b'')[:8] for value in found]}")


async def short_of_replicas(user: Peer, keys: Iterable[str]) -> list[str]:
    """The keys whose record is not on k peers."""
    slots = asyncio.Semaphore(8)

    async def is_short(key: str) -> bool:
        async with slots:
            infos = await user.where(key)
            return sum(info.holds for info in infos) < K

    keys = list(keys)
    return [key for key, short in zip(keys, await asyncio.gather(*map(is_short, keys)), strict=True) if short]


async def run(folder: Path, peers: int, kills: int, period_s: float, seed: int) -> dict[str, float]:
    """Kill one peer after the other under load and start it again; asserts the promises, tells the figures."""
    draw, journal = random.Random(seed), Journal()
    processes = await asyncio.to_thread(Processes, folder, peers)
    try:
        async with Peer(listen=["127.0.0.1:0"], bootstrap=processes.addresses[:4], ephemeral=True) as user:
            loading = asyncio.create_task(load(user, journal, draw))
            for _ in range(kills):
                await asyncio.sleep(period_s)
                victim = draw.randrange(peers)
                await processes.kill(victim)
                await processes.restart(victim)
            began_s = time.monotonic()
            await asyncio.sleep(1.0)
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            short = list(journal.acknowledged)
            while short := await short_of_replicas(user, short):
                assert time.monotonic() < began_s + 60, f"{len(short)} records are on fewer than k peers: {short[:5]}"
                await asyncio.sleep(1.0)
            healed_s = time.monotonic() - began_s
            during = journal.gets, journal.gets_failed
            await check(user, journal, journal.acknowledged)
            assert not journal.wrong
            assert journal.gets_failed == during[1], "a get failed although all peers run"
            fetched = await processes.all_fetched()
    finally:
        processes.close()
    return {
        "puts": len(journal.acknowledged),
        "puts_failed": journal.refused,
        "gets_during": during[0],
        "gets_failed_during": during[1],
        "healed_s": round(healed_s, 1),
        "bytes_put": journal.size_bytes,
        **fetched,
        "repair_bytes_per_stored_byte": round(fetched["upkeep_bytes_fetched"] / (K * journal.size_bytes), 3),
    }
