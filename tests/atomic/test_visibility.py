"""Nobody ever sees a part of a batch: whatever is lost, whoever dies, and wherever its writer ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from p2pkv.testing import SimSwarm
from tests.atomic.observer import At, Observer, crash_after, until_read, waiting
from tests.histories.history import History
from tests.histories.nemesis import Fault, crash_and_return, cut_and_heal, storm, torment
from tests.pages.checker import bound
from tests.seeds import seeds

KEYS = ["alpha", "beta", "gamma"]
RECORDS: list[At] = [(key, name) for key in KEYS for name in ("x", "y")]


def observed(swarm: SimSwarm, observer: Observer, work: Callable[[], Awaitable[None]], seed: int) -> None:
    """Do some work while two readers get all keys all the time."""

    async def everything() -> None:
        readers = [
            asyncio.create_task(observer.read_on(swarm, [1, 2, 3], KEYS, seed)),
            asyncio.create_task(observer.read_on(swarm, [4, 5], KEYS, seed + 1)),
        ]
        working = asyncio.ensure_future(work())
        try:
            await asyncio.wait([working, *readers], return_when=asyncio.FIRST_COMPLETED)
            for task in (*readers, working):
                if task.done():
                    task.result()
        finally:
            for task in (*readers, working):
                task.cancel()
            await asyncio.gather(*readers, working, return_exceptions=True)

    swarm.run(everything())


def end(swarm: SimSwarm, observer: Observer, told: dict[int, str], up: list[int]) -> None:
    """Everything came to an end: nothing waits, all peers see the same, whole batches."""
    for _ in range(40):
        if not swarm.run(waiting(swarm, up)):
            break
        swarm.run_for(seconds=10)
    assert not swarm.run(waiting(swarm, up)), "something waits still"
    shown: dict[At, int] = {}
    for key in KEYS:
        for index in up[:3]:
            found = swarm.run(until_read(swarm.peers[index], key))
            shown |= {(key, name): int(value or b"0") for name, value in found.items() if (key, name) in RECORDS}
            assert swarm.run(swarm.peers[index].count(key)) == len(found)
    last_done = max((number for number, what in told.items() if what == "done"), default=0)
    for at in RECORDS:
        assert shown.get(at, 0) >= observer.floor.get(at, 0)
        assert shown.get(at, 0) not in observer.failed
    assert len({shown.get(at, 0) for at in RECORDS}) == 1, f"a part of a batch: {shown}"
    assert shown.get(RECORDS[0], 0) >= last_done


def batches_under_loss(seed: int, *, deaths: int = 0, rounds: int = 6) -> None:
    rng = random.Random(seed)
    observer, told = Observer(), dict[int, str]()
    with SimSwarm(14, seed=seed, loss=0.05) as swarm:

        async def write() -> None:
            for number in range(1, rounds + 1):
                told[number] = await observer.put(swarm.peers[0], number, RECORDS)
                await asyncio.sleep(rng.uniform(0, 0.5))

        async def die() -> None:
            for index in rng.sample(range(6, 14), deaths):
                await asyncio.sleep(rng.uniform(0, 0.6))
                swarm.kill(index)
                swarm.down.add(index)

        async def work() -> None:
            await asyncio.gather(write(), die())

        observed(swarm, observer, work, seed)
        assert "done" in told.values()
        assert observer.gets > 20
        end(swarm, observer, told, swarm.up)


def writer_that_ends(seed: int, datagrams: int, *, loss: float = 0.0) -> str:
    """The writer of the second of three batches falls silent behind the so many-th datagram; what came of it."""
    observer, told = Observer(), dict[int, str]()
    with SimSwarm(12, seed=seed, loss=loss) as swarm:
        writer = 11

        async def work() -> None:
            told[1] = await observer.put(swarm.peers[0], 1, RECORDS)
            crash_after(swarm, writer, datagrams)
            ending = asyncio.create_task(observer.put(swarm.peers[writer], 2, RECORDS))
            await asyncio.sleep(1.5)
            swarm.kill(writer)
            swarm.down.add(writer)
            ending.cancel()
            with suppress(asyncio.CancelledError):
                told[2] = await ending
            await asyncio.sleep(80)  # the others find out what became of it

        observed(swarm, observer, work, seed)
        end(swarm, observer, told, swarm.up)
        second = 2 in observer.seen
        told[3] = swarm.run(observer.put(swarm.peers[0], 3, RECORDS))
        assert told[3] == "done"
        end(swarm, observer, told, swarm.up)
        return "seen" if second else "never"


def batches_while_pages_split(seed: int) -> None:
    """Other records make the pages of all keys split while batches come; every second batch ends in the middle."""
    rng = random.Random(seed)
    observer, told = Observer(), dict[int, str]()
    with SimSwarm(14, seed=seed, loss=0.02) as swarm:
        bound(swarm.peers, 12)

        async def fill() -> None:
            for step in range(6):
                for key in KEYS:
                    async for _ in swarm.peers[0].put_many(key, [b"0"] * 8):
                        pass
                await asyncio.sleep(0.2 * step)

        async def write() -> None:
            for number in range(1, 6):
                writer = 0 if number % 2 else rng.randrange(8, 14)
                if writer in swarm.down:
                    continue
                if number % 2:
                    told[number] = await observer.put(swarm.peers[0], number, RECORDS)
                else:
                    await cut_short(number, writer)

        async def cut_short(number: int, writer: int) -> None:
            ending = asyncio.create_task(observer.put(swarm.peers[writer], number, RECORDS))
            await asyncio.sleep(rng.uniform(0, 0.6))
            if not ending.done():
                swarm.kill(writer)
                swarm.down.add(writer)
            ending.cancel()
            with suppress(asyncio.CancelledError):
                told[number] = await ending

        async def work() -> None:
            await asyncio.gather(write(), fill())

        observed(swarm, observer, work, seed)
        end(swarm, observer, told, swarm.up)


def batches_under_torment(seed: int, faults: list[Fault], *, rounds: int) -> None:
    """Three writers, each with records of its own under keys of all, while peers come and go and the network breaks."""
    observer, told, history = Observer(), dict[int, str](), History()
    with SimSwarm(12, seed=seed) as swarm:
        observer.now_s, observer.cuts_s = lambda: swarm.now_s, history.cuts_s

        async def write(writer: int) -> None:
            rng = random.Random(f"{seed} {writer}")
            for number in range(writer, 3 * rounds, 3):
                peer = swarm.peers[rng.choice(swarm.up)]
                told[number] = await observer.put(peer, number, [(key, f"of {writer}") for key in KEYS])
                await asyncio.sleep(rng.uniform(0, 8))

        async def work() -> None:
            tormentor = asyncio.create_task(torment(swarm, random.Random(seed), faults, history))
            await asyncio.gather(*(write(writer) for writer in (1, 2, 3)))
            tormentor.cancel()
            await asyncio.gather(tormentor, return_exceptions=True)

        observed(swarm, observer, work, seed)
        assert "done" in told.values()
        for _ in range(60):
            swarm.run_for(seconds=10)
            if not swarm.run(waiting(swarm, swarm.up)):
                break
        assert not swarm.run(waiting(swarm, swarm.up)), "something waits still"
        for writer in (1, 2, 3):
            found = [swarm.run(until_read(swarm.peers[index], key)) for key in KEYS for index in (0, 5, 9)]
            shown = {answer.get(f"of {writer}") for answer in found}
            assert len(shown) == 1, f"a part of a batch: {shown}"


@pytest.mark.parametrize("seed", [1, 2])
def test_no_get_sees_a_part_of_a_batch_under_crashes_and_storms(seed: int) -> None:
    batches_under_torment(seed, [crash_and_return, storm], rounds=6)


@pytest.mark.parametrize("seed", [1, 2])
def test_no_get_sees_a_part_of_a_batch_under_loss(seed: int) -> None:
    batches_under_loss(seed)


@pytest.mark.parametrize("seed", seeds([1], [2]))
def test_no_get_sees_a_part_of_a_batch_while_pages_split(seed: int) -> None:
    batches_while_pages_split(seed)


def test_no_get_sees_a_part_of_a_batch_while_replicas_die() -> None:
    batches_under_loss(7, deaths=2)


def test_a_writer_that_ends_at_any_step_leaves_all_or_nothing() -> None:
    ends = {writer_that_ends(3, datagrams) for datagrams in (25, 70, 140)}
    assert ends == {"seen", "never"}


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 400))
def test_many_seeds(seed: int) -> None:
    rng = random.Random(seed)
    match seed % 6:
        case 4:
            batches_under_torment(seed, [crash_and_return, storm], rounds=10)
        case 5:
            batches_under_torment(seed, [crash_and_return, storm, cut_and_heal], rounds=10)
        case 0:
            batches_under_loss(seed, deaths=rng.randrange(4), rounds=12)
        case 1:
            batches_while_pages_split(seed)
        case _:
            writer_that_ends(seed, rng.randrange(1, 160), loss=rng.choice([0.0, 0.0, 0.05, 0.15]))
