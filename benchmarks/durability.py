"""What is lost under churn that is far too harsh: the simulator beside the formula of p2pkv/core/durability.py.

Whole peers in virtual time, real repair. Every peer dies, with its disk, after a time drawn from an exponential
distribution, and an empty one takes its seat. The formula is given the mean life of peers and the mean time that
repair took in this very run. `python -m benchmarks.durability` prints a table; it takes some minutes.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from p2pkv.core.durability import loss_rate
from p2pkv.core.erasure import Code
from p2pkv.ids import ChunkID, is_shard, is_stripe
from p2pkv.testing import SimSwarm

PEERS = 30
FILE_BYTES = 2000
LOOK_S = 30.0


@dataclass
class Setting:
    """k copies are the code 1/k."""

    code: Code
    life_h: float
    hours: float
    files: int = 100


SETTINGS = [
    Setting(Code(1, 2), 2, 24),
    Setting(Code(1, 3), 0.5, 12),
    Setting(Code(2, 3), 8, 24),
    Setting(Code(4, 6), 8, 24),
    Setting(Code(10, 14), 6, 24),
]


@dataclass
class Run:
    """One swarm, and what becomes of what was stored in it."""

    setting: Setting
    swarm: SimSwarm
    units: dict[str, list[ChunkID]] = field(default_factory=dict)  # each file's chunk, or the shards of it
    absent: dict[ChunkID, float] = field(default_factory=dict)
    repairs_s: list[float] = field(default_factory=list)
    deaths: int = 0

    def fill(self, rng: random.Random) -> None:
        code = self.setting.code
        for number in range(self.setting.files):
            before = self.held()
            data = rng.randbytes(FILE_BYTES)
            erasure = str(code) if code.needed > 1 else None
            self.swarm.run(self.swarm.peers[0].upload(_once(data), f"file-{number}", erasure=erasure))
            new = [chunk_id for chunk_id in self.held() - before if not is_stripe(chunk_id)]
            self.units[f"file-{number}"] = [i for i in new if is_shard(i)] if erasure else new

    def held(self) -> set[ChunkID]:
        """Every chunk that somebody has."""
        found: set[ChunkID] = set()
        for index in self.swarm.up:
            found.update(self.swarm.run(self.swarm.peers[index].left.store.chunk_ids(None, 100_000)))
        return found

    def copies(self) -> dict[ChunkID, int]:
        counts: dict[ChunkID, int] = {}
        for index in self.swarm.up:
            for chunk_id in self.swarm.run(self.swarm.peers[index].left.store.chunk_ids(None, 100_000)):
                counts[chunk_id] = counts.get(chunk_id, 0) + 1
        return counts

    def look(self) -> None:
        """Note which shards, or full numbers of copies, are lacking and which are there again."""
        code, copies = self.setting.code, self.copies()
        wanted = 1 if code.needed > 1 else code.total
        for chunk_id in (chunk_id for ids in self.units.values() for chunk_id in ids):
            if copies.get(chunk_id, 0) < wanted:
                self.absent.setdefault(chunk_id, self.swarm.now_s)
            elif chunk_id in self.absent:
                self.repairs_s.append(self.swarm.now_s - self.absent.pop(chunk_id))

    def lost(self) -> int:
        held = self.held()
        return sum(sum(chunk_id in held for chunk_id in ids) < self.setting.code.needed for ids in self.units.values())

    def churn(self, rng: random.Random) -> None:
        """Deaths and newcomers for as long as the setting says."""
        life_s, end_s = self.setting.life_h * 3600, self.swarm.now_s + self.setting.hours * 3600
        while self.swarm.now_s < end_s:
            next_s = self.swarm.now_s + rng.expovariate(PEERS / life_s)
            while self.swarm.now_s + LOOK_S < next_s:
                self.swarm.run_for(seconds=LOOK_S)
                self.look()
            self.swarm.run_for(seconds=max(0.0, next_s - self.swarm.now_s))
            index = rng.choice(self.swarm.up)
            self.swarm.crash(index)
            self.swarm.restart(index, home_lost=True)
            self.deaths += 1


def measure(setting: Setting, seed: int) -> str:
    """One row of the table."""
    began_s, rng = time.monotonic(), random.Random(seed)
    with SimSwarm(PEERS, seed=seed, k=setting.code.total if setting.code.needed == 1 else 8) as swarm:
        run = Run(setting, swarm)
        run.fill(rng)
        run.churn(rng)
        swarm.run_for(seconds=60)
        lost = run.lost()
    repair_s = sum(run.repairs_s) / max(1, len(run.repairs_s))
    rate = loss_rate(setting.code, life_s=setting.life_h * 3600, repair_s=max(repair_s, 1.0))
    told = setting.files * (1 - 2.718281828 ** (-rate * setting.hours * 3600))
    name = f"{setting.code.total} copies" if setting.code.needed == 1 else str(setting.code)
    took_s = time.monotonic() - began_s
    return (
        f"| {name} | {setting.life_h:g} h | {setting.hours:g} h | {run.deaths} | {repair_s / 60:.1f} min "
        f"| {lost} of {setting.files} | {told:.1f} | {took_s:.0f} s |"
    )


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="the number of one setting")
    chosen = parser.parse_args()
    print("| kept as | mean life | for | deaths | repair took | files lost | the formula says | wall time |")
    print("|---|---|---|---|---|---|---|---|")
    for number, setting in enumerate(SETTINGS):
        if chosen.only in (None, number):
            print(measure(setting, chosen.seed))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
