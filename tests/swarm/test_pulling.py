"""Pulling one chunk past peers that are dead, slow or lie."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from p2pkv import messages
from p2pkv.errors import RemoteError
from p2pkv.ids import Bytes, ChunkID, chunk_id_of
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.hashing import hash_at_once
from p2pkv.swarm.pulling import Pulls, Search

CHUNK = b"\x00the chunk"
ID = chunk_id_of(CHUNK)


class World:
    """Some contacts, of which some have the chunk, some do not answer and some are not heard of."""

    def __init__(self) -> None:
        self.contacts = [Contact(bytes([n]) * 20, f"127.0.0.{n}", 1) for n in range(1, 6)]
        self.have = set(self.contacts)
        self.hanging: set[Contact] = set()  # a pull from these never ends
        self.quiet: set[Contact] = set()
        self.lying: set[Contact] = set()
        self.pulled: list[Contact] = []
        self.running = 0
        self.pulls = Pulls(self, self, hash_at_once)  # type: ignore[arg-type]

    async def call(self, contact: Contact, method: Any, request: messages.HasChunks) -> messages.HasChunksReply:
        await asyncio.sleep(0)
        if contact in self.quiet:
            raise RemoteError("silent", "no answer")
        return messages.HasChunksReply([contact in self.have])

    async def push(self, contact: Contact, chunk_id: ChunkID, stored: Bytes, onward: Sequence[bytes] = ()) -> None:
        raise AssertionError("nothing is pushed")

    def connected(self, contact: Contact) -> bool:
        return True

    def quiet_s(self, contact: Contact) -> float:
        return 9.0 if contact in self.quiet else 0.0

    async def pull(self, contact: Contact, chunk_id: ChunkID) -> Bytes:
        self.pulled.append(contact)
        self.running += 1
        try:
            await asyncio.sleep(0)
            if contact in self.hanging:
                await asyncio.Event().wait()
            if contact not in self.have:
                raise RemoteError("refused", "no such chunk here")
            return b"a lie" if contact in self.lying else CHUNK
        finally:
            self.running -= 1

    async def search(self) -> tuple[Bytes | None, list[str]]:
        search = Search(self.pulls, ID, self.contacts)
        try:
            async with asyncio.timeout(20):
                return await search.run(), search.failures
        finally:
            await search.close()
            assert self.running == 0


@pytest.fixture
def world() -> World:
    return World()


async def test_the_first_who_is_connected_is_enough(world: World) -> None:
    assert await world.search() == (CHUNK, [])
    assert len(world.pulled) == 1


async def test_one_that_is_not_heard_any_more_is_passed_by_at_once(world: World) -> None:
    world.hanging = world.quiet = set(world.contacts[:2])
    for _ in range(3):
        assert (await world.search())[0] == CHUNK
    assert not world.quiet.intersection(world.pulled)


async def test_one_that_falls_silent_under_way_is_not_waited_for(world: World) -> None:
    world.hanging = {world.contacts[0]}
    search = asyncio.create_task(world.search())
    while not world.pulled:
        await asyncio.sleep(0)
    world.quiet = world.hanging
    assert (await search)[0] == CHUNK
    assert world.pulled[0] == world.contacts[0]


async def test_one_that_takes_far_longer_than_usual_is_not_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pkv.swarm.pulling.PULL_PATIENCE_MIN_S", 0.01)
    for _ in range(20):
        await world.search()
    world.hanging = {world.contacts[0]}
    assert (await world.search())[0] == CHUNK
    assert len(world.pulled) == 20 + 2


async def test_liars_and_those_who_lost_it_are_told_and_passed_by(world: World) -> None:
    world.lying, world.have = {world.contacts[0]}, set(world.contacts[:1] + world.contacts[3:4])
    data, failures = await world.search()
    assert data == CHUNK
    assert len(failures) == 1
    assert "do not match the hash" in failures[0]
    assert world.pulled == [world.contacts[0], world.contacts[3]]


async def test_nobody_has_it(world: World) -> None:
    world.have, world.quiet = set(), {world.contacts[4]}
    data, failures = await world.search()
    assert data is None
    assert any("127.0.0.5:1 does not answer" in failure for failure in failures)
    assert len(world.pulled) == 1
