"""Clients at work in a simulated swarm, and what befalls it meanwhile: loss, partitions, crashes, returns.

Owns what is drawn at random, by the seed. Judges nothing.
"""

from __future__ import annotations

import random
from asyncio import CancelledError, TaskGroup, create_task, gather, sleep, timeout
from collections.abc import Awaitable, Callable

from p2pkv.testing import SimSwarm
from tests.histories.history import History, Recorder

KEYS = ("alpha", "beta")
REPLACED = ("r0", "r1")
ONCE = tuple(f"once{number}" for number in range(6))
REGISTERS = ("cas0", "cas1")
PLAY_S_MAX = 3600.0  # of virtual time: no call takes for ever
Fault = Callable[[SimSwarm, random.Random, History], Awaitable[None]]


async def work(client: Recorder, calls: int, pause_s: float) -> None:
    """Random operations of one client, one after the other."""
    rng = client.rng
    for _ in range(calls):
        key = rng.choice(KEYS)
        match rng.randrange(12):
            case 0 | 1:
                await client.add(key)
            case 2 | 3:
                await client.put(key, rng.choice(REPLACED))
            case 4:
                await client.put(key, rng.choice(ONCE), once=True)
            case 5 | 6:
                name = rng.choice(REGISTERS)
                await client.read(key, name)
                await client.compare_and_set(key, name)
            case 7:
                await client.delete(key, rng.choice(REPLACED))
            case 8 | 9:
                await client.read(key, rng.choice((*REPLACED, *ONCE, *REGISTERS)))
            case 10:
                await client.list(key)
            case _:
                await client.count(key)
        await client.pause(pause_s)


async def crash_and_return(swarm: SimSwarm, rng: random.Random, history: History) -> None:
    """One process ends and comes back on its home."""
    index = rng.choice(swarm.up)
    await swarm.crash_soon(index)
    await sleep(rng.uniform(1, 30))
    await swarm.restart_soon(index)


async def cut_and_heal(swarm: SimSwarm, rng: random.Random, history: History) -> None:
    """The network falls into two parts for a while."""
    peers = list(range(len(swarm.peers)))
    rng.shuffle(peers)
    border = rng.randrange(1, len(peers))
    swarm.partition([peers[:border], peers[border:]])
    history.cuts_s.append(swarm.now_s)
    await sleep(rng.uniform(5, 40))
    swarm.heal()


async def storm(swarm: SimSwarm, rng: random.Random, history: History) -> None:
    """Many datagrams are lost or come twice for a while."""
    weather = swarm.network.weather
    before = weather.loss, weather.duplication
    weather.loss, weather.duplication = rng.uniform(0.05, 0.25), 0.1
    await sleep(rng.uniform(5, 20))
    weather.loss, weather.duplication = before


async def torment(swarm: SimSwarm, rng: random.Random, faults: list[Fault], history: History) -> None:
    """One fault after the other, for ever; what it began it ends when it is cancelled."""
    try:
        while True:
            await sleep(rng.uniform(0, 15))
            await rng.choice(faults)(swarm, rng, history)
    except CancelledError:
        swarm.heal()
        for index in list(swarm.down):
            await swarm.restart_soon(index)
        raise


async def play(swarm: SimSwarm, history: History, *, seed: int, clients: int, calls: int, faults: list[Fault]) -> None:
    """Let clients work while faults befall the swarm; then all is healed."""
    opener = Recorder(swarm, history, 0)
    for key in KEYS:
        for name in REGISTERS:
            await opener.put(key, name)
    tormentor = create_task(torment(swarm, random.Random(f"nemesis {seed}"), faults, history)) if faults else None
    async with timeout(PLAY_S_MAX), TaskGroup() as group:
        for number in range(clients):
            client = Recorder(swarm, history, number + 1)
            client.rng = random.Random(f"{seed} {number}")
            group.create_task(work(client, calls, 4.0))
    if tormentor is not None:
        tormentor.cancel()
        await gather(tormentor, return_exceptions=True)


async def read_all(swarm: SimSwarm, history: History, at: list[int]) -> None:
    """Read every record at some peers."""
    for number in at:
        client = Recorder(swarm, history, number)
        for key in KEYS:
            await client.list(key)
            await client.count(key)
            for name in (*REPLACED, *ONCE, *REGISTERS):
                await client.read(key, name)
