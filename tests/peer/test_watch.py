"""Watching a key through both faces of a real peer: while peers come and go, and over the watcher's end."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from p2pkv.outcomes import Record
from tests.peer.faces import FACES, Face, lone_face


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
