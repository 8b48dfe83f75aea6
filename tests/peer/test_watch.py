"""Watching a key: every record once, also those that come late, while peers come and go, and over a resumption."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pkv import limits
from p2pkv.core.clock import clock_of
from p2pkv.core.records import Cursor, Version
from p2pkv.errors import IncompleteError
from p2pkv.outcomes import Record
from p2pkv.watching import Watch, position_of
from tests.peer.faces import FACES, Face, lone_face

NOW_S = 1e9


def version(number: int, at_s: float) -> Version:
    return Version(f"n{number:05d}".encode(), clock_of(at_s), b"", 0, 0, 0, b"")


class Key:
    """A key that is read as the swarm would, and may fail."""

    def __init__(self) -> None:
        self.held: list[Version] = []
        self.looks = 0
        self.failures: list[int] = []  # looks that fail after their first record
        self.arriving: dict[int, list[Version]] = {}  # before which look

    async def read(self, after: Cursor | None) -> AsyncIterator[Version]:
        self.held += self.arriving.pop(self.looks, [])
        self.looks += 1
        for number, held in enumerate(sorted(self.held, key=position_of)):
            if self.looks in self.failures and number:
                raise IncompleteError("a replica is away")
            if after is None or position_of(held) > after:
                yield held


async def told(watch: Watch, key: Key, looks: int) -> list[bytes]:
    """What is told until the key was looked at so often."""
    names: list[bytes] = []

    async def listen() -> None:
        async for found in watch.arrivals():
            names.append(found.name)

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(listen())
        while key.looks < looks:
            await asyncio.sleep(0)
        task.cancel()
    return names


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pkv.watching.WATCH_S", 0.0)
    monkeypatch.setattr("p2pkv.watching.WATCH_SWEEP_S", 0.0)


@given(st.lists(st.tuples(st.integers(1, 8), st.floats(-limits.WATCH_SWEEP_BACK_S + 1, 300.0)), max_size=30))
async def test_every_arrival_is_told_once_however_late_it_is_stamped(arrivals: list[tuple[int, float]]) -> None:
    key = Key()
    key.held = [version(90_000, NOW_S)]
    late = [(look, version(number, NOW_S + shift)) for number, (look, shift) in enumerate(arrivals)]
    for look, held in late:
        key.arriving.setdefault(look, []).append(held)
    watch = Watch(key.read, lambda: NOW_S)
    await watch.begin("")
    names = await told(watch, key, 11)
    assert sorted(names) == sorted([b"n90000", *(held.name for _, held in late)])


async def test_what_was_there_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    key = Key()
    key.held = [version(number, NOW_S + number) for number in range(5)]
    first = Watch(key.read, lambda: NOW_S)
    await first.begin("")
    await told(first, key, 3)
    key.held += [version(7, NOW_S + 7)]
    second = Watch(key.read, lambda: NOW_S)
    await second.begin(first.cursor)
    assert await told(second, key, key.looks + 4) == [b"n00007"]


async def test_a_look_that_fails_ends_nothing_and_doubles_nothing() -> None:
    key = Key()
    key.failures = [1, 2, 4]
    key.arriving = {0: [version(1, NOW_S), version(2, NOW_S + 1)], 3: [version(3, NOW_S + 2)]}
    watch = Watch(key.read, lambda: NOW_S)
    assert await told(watch, key, 8) == [b"n00001", b"n00002", b"n00003"]


async def test_a_key_that_cannot_be_read_any_more_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pkv.watching.WATCH_PATIENCE_S", 0.0)
    key = Key()
    key.held = [version(1, NOW_S), version(2, NOW_S)]
    key.failures = [1]
    arrivals = Watch(key.read, lambda: NOW_S).arrivals()
    assert (await anext(arrivals)).name == b"n00001"
    with pytest.raises(IncompleteError):
        await anext(arrivals)


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pkv.watching.WATCH_SEEN_MAX", 10)
    key = Key()
    key.held = [version(number, NOW_S + number / 1000) for number in range(100)]
    watch = Watch(key.read, lambda: NOW_S)
    assert len(await told(watch, key, 6)) == 100
    assert len(watch._seen) <= 11


@pytest.mark.parametrize("kind", FACES)
async def test_a_watch_outlives_peers_and_resumes(kind: str) -> None:
    async with lone_face(kind, 5) as (swarm, face):
        await face.put("k", b"before")
        seen = asyncio.Queue[Record]()
        async with asyncio.timeout(50), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(_collect(face, seen))
            while not seen.qsize():  # until it listens
                await swarm.peers[2].put("k", b"0")
                await asyncio.sleep(0.05)
            await swarm.peers.pop(3).stop()
            for number in range(1, 4):
                await swarm.peers[number % 3].put("k", b"%d" % number)
            await swarm.add_peer()
            await swarm.peers[-1].wait_connected()
            await swarm.peers[-1].put("k", b"last")
            records = []
            while not records or records[-1].value != b"last":
                records.append(await seen.get())
            task.cancel()
        values = [record.value for record in records]
        assert b"before" not in values
        assert [value for value in values if value != b"0"] == [b"1", b"2", b"3", b"last"]
        assert len({record.name for record in records}) == len(records)
        await face.put("k", b"meanwhile")
        async with asyncio.timeout(20), aclosing(face.watch("k", after=records[-1].cursor)) as again:  # type: ignore[type-var]
            assert (await anext(again)).value == b"meanwhile"


async def _collect(face: Face, seen: asyncio.Queue[Record]) -> None:
    async for record in face.watch("k"):
        seen.put_nowait(record)
