"""Clients that contend for a few records while the peers that decide on them are replaced one after the other.

A proposer may fall asleep between the vote and the storing of what was decided: for a minute or more the decision then
lies in the registers alone, and all of their holders may be replaced meanwhile. Owns what is drawn at random, by the
seed. Judges nothing.
"""

from __future__ import annotations

import random
from asyncio import TaskGroup, create_task, gather, sleep, timeout
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from p2pkv.core.records import Version
from p2pkv.outcomes import Acks, PutOutcome
from p2pkv.simulation.simulation import Seat
from p2pkv.simulation.swarm import SimHome
from p2pkv.swarm.agreement import Agreement
from p2pkv.testing import SimPeer, SimSwarm
from tests.histories import nemesis
from tests.histories.history import History, Recorder

KEY = "contended"
STORING = 12  # peers that store: half as many again as replicas
CLIENTS = 4  # each at a peer of its own that stores nothing, and so votes on nothing
ERA_S = 60.0  # a new write-once name every minute, so that there is always one to race for
SLEEP_S = (60.0, 400.0)
SLEEPS_SHARE = 0.25
SPACING_S = (20.0, 40.0)  # between two replacements: rounds of upkeep follow the first within this time
REGISTERS = ("cas0", "cas1")
REPLACED = ("r0", "r1")
PLAY_S_MAX = 7200.0


class Guest(SimPeer):
    """A peer that keeps nothing and is nobody's replica."""

    def __init__(self, seat: Seat, home: SimHome | None = None) -> None:
        super().__init__(seat, home)
        self._ephemeral = True


class ReplacedSwarm(SimSwarm):
    """Peers that store, and behind them one guest for each client."""

    def __init__(self, **options: Any) -> None:
        super().__init__(STORING + CLIENTS, make_peer=self._make, **options)

    def _make(self, seat: Seat) -> SimPeer:
        return Guest(seat) if STORING <= len(self.peers) < STORING + CLIENTS else SimPeer(seat)

    @property
    def guests(self) -> list[int]:
        return list(range(STORING, STORING + CLIENTS))

    @property
    def storing(self) -> list[int]:
        """The peers that store and are up."""
        return [index for index in self.up if index not in self.guests]


class Client(Recorder):
    """A client at its own guest."""

    def __init__(self, swarm: ReplacedSwarm, history: History, number: int) -> None:
        super().__init__(swarm, history, number)
        self._guest = swarm.guests[number % CLIENTS]
        self._guests = swarm.peers

    @property
    def peer(self) -> SimPeer:
        return self._guests[self._guest]


@contextmanager
def sleepers(rng: random.Random) -> Iterator[None]:
    """Let proposers fall asleep between the vote and what follows it."""
    commit = Agreement._commit

    async def drowsy(self: Agreement, key: bytes, version: Version, acks: Acks) -> PutOutcome:
        if rng.random() < SLEEPS_SHARE:
            await sleep(rng.uniform(*SLEEP_S))
        return await commit(self, key, version, acks)

    Agreement._commit = drowsy  # type: ignore[method-assign]
    try:
        yield
    finally:
        Agreement._commit = commit  # type: ignore[method-assign]


async def contend(client: Client, swarm: ReplacedSwarm, until_s: float) -> None:
    """Race for records, one call after the other."""
    rng = client.rng
    while swarm.now_s < until_s:
        match rng.randrange(10):
            case 0 | 1 | 2 | 3:
                await client.put(KEY, f"once{int(swarm.now_s // ERA_S)}", once=True)
            case 4 | 5 | 6:
                name = rng.choice(REGISTERS)
                await client.read(KEY, name)
                await client.compare_and_set(KEY, name)
            case 7:
                await client.put(KEY, rng.choice(REPLACED))
            case 8:
                await client.delete(KEY, rng.choice(REPLACED))
            case _:
                await client.read(KEY, rng.choice((*REGISTERS, *REPLACED)))
        await client.pause(6.0)


async def replace(swarm: ReplacedSwarm, rng: random.Random, at_once: int) -> None:
    """Peers that store die for good and others take their places, for ever."""
    while True:
        await sleep(at_once * rng.uniform(*SPACING_S))
        for index in rng.sample(swarm.storing, at_once):
            await swarm.replace_soon(index)


async def trouble(swarm: ReplacedSwarm, rng: random.Random, history: History) -> None:
    """Crashes with a return, storms and cuts beside it, for ever."""
    while True:
        await sleep(rng.uniform(20, 60))
        match rng.randrange(3):
            case 0:
                index = rng.choice(swarm.storing)
                await swarm.crash_soon(index)
                await sleep(rng.uniform(1, 30))
                await swarm.restart_soon(index, bootstrap=swarm.storing[:3])
            case 1:
                await nemesis.storm(swarm, rng, history)
            case _:
                await cut(swarm, rng, history)


async def cut(swarm: ReplacedSwarm, rng: random.Random, history: History) -> None:
    """A client's peer, or one that stores, cannot be reached for a while."""
    away = rng.sample([*swarm.storing, *swarm.guests], 1)
    swarm.partition([[index for index in range(len(swarm.peers)) if index not in away]])
    history.cuts_s.append(swarm.now_s)
    await sleep(rng.uniform(3, 20))
    swarm.heal()


async def play(
    swarm: ReplacedSwarm, history: History, *, seed: int, seconds: float, at_once: int = 1, troubled: bool = True
) -> None:
    """Let clients contend while peers are replaced; then all is healed."""
    clients = [Client(swarm, history, number) for number in range(CLIENTS)]
    for number, client in enumerate(clients):
        client.rng = random.Random(f"{seed} {number}")
    for name in REGISTERS:
        await clients[0].put(KEY, name)
    work = [create_task(replace(swarm, random.Random(f"replace {seed}"), at_once))]
    if troubled:
        work.append(create_task(trouble(swarm, random.Random(f"trouble {seed}"), history)))
    with sleepers(random.Random(f"sleep {seed}")):
        async with timeout(PLAY_S_MAX), TaskGroup() as group:
            for client in clients:
                group.create_task(contend(client, swarm, swarm.now_s + seconds))
    for task in work:
        task.cancel()
    ended = await gather(*work, return_exceptions=True)
    assert not [fault for fault in ended if isinstance(fault, Exception)]
    swarm.heal()
    for index in list(swarm.down):
        await swarm.restart_soon(index, bootstrap=swarm.storing[:3])


async def read_all(swarm: ReplacedSwarm, history: History) -> None:
    """Read every record at two peers."""
    names = dict.fromkeys(call.name for call in history.calls)
    for number in (0, 1):
        client = Client(swarm, history, number)
        for name in names:
            await client.read(KEY, name)
