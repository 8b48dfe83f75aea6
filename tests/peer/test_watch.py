"""Watching a key through both faces of a real peer: while peers come and go, and over the watcher's end."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from p2pkv.gateway.http import Gateway
from p2pkv.outcomes import Record
from p2pkv.real_swarm import Swarm
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


class Watcher:
    """The command `p2pkv watch` as a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self) -> dict[str, str]:
        """The next record that it prints."""
        assert self._process.stdout is not None
        line: dict[str, str] = json.loads(await self._process.stdout.readline())
        return line

    async def kill(self) -> list[dict[str, str]]:
        """What it had printed beyond what was read."""
        self._process.kill()
        rest, _ = await self._process.communicate()
        return [json.loads(line) for line in rest.splitlines(keepends=True) if line.endswith(b"\n")]


@asynccontextmanager
async def command(home: str, *options: str) -> AsyncIterator[Watcher]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "p2pkv", "--home", home, "--json", "watch", "k", *options),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        yield Watcher(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_a_killed_process_resumes_where_it_was() -> None:
    async with asyncio.timeout(100), Swarm(9, store="memory") as swarm:
        with tempfile.TemporaryDirectory(prefix="p2pkv") as home:
            gateway = Gateway(swarm.peers[0], Path(home))
            await gateway.start()
            try:
                await _kill_and_resume(swarm, home)
            finally:
                await gateway.stop()


async def _kill_and_resume(swarm: Swarm, home: str) -> None:
    names: list[str] = []

    async def write() -> None:
        while len(names) < 200:
            outcome = await swarm.peers[len(names) % 9].put("k", b"%d" % len(names))
            names.append(outcome.name)

    await swarm.peers[1].put("k", b"before")
    seen: list[dict[str, str]] = []
    async with asyncio.TaskGroup() as tasks, command(home) as watcher:
        tasks.create_task(write())
        seen += [await watcher.line() for _ in range(20)]
        seen += await watcher.kill()
    first = names.index(seen[0]["name"])
    async with command(home, "--after", seen[-1]["cursor"]) as watcher:
        while len(seen) < 200 - first:
            seen.append(await watcher.line())
        await swarm.peers[1].put("k", b"end")
        seen.append(await watcher.line())
    assert seen.pop()["value"] == "end", "nothing came twice"
    assert {line["name"] for line in seen} == set(names[first:])


async def test_replicas_that_fall_silent_delay_nothing_for_long() -> None:
    async with asyncio.timeout(100), Swarm(12, store="memory") as swarm:
        records = swarm.peers[0].watch("k")
        assert isinstance(records, AsyncGenerator)
        async with aclosing(records):
            seen = asyncio.create_task(anext(records))
            while not seen.done():  # until it listens
                await swarm.peers[1].put("k", b"begin")
                await asyncio.sleep(0.05)
            for victim in (swarm.peers[5], swarm.peers[6]):
                await victim.node.server.endpoint.close()
            names = {(await swarm.peers[number % 5].put("k", b"%d" % number)).name for number in range(30)}
            told: list[str] = []
            while not names <= set(told):
                told.append((await anext(records)).name)
            assert len(set(told)) == len(told)
