"""Listings of large trees: in order, read ahead, bounded, and errors in their place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pkv.core.records import Version
from p2pkv.errors import IncompleteError, InvalidError
from p2pkv.files import names
from p2pkv.files.listing import list_entries
from p2pkv.files.service import Files
from p2pkv.limits import FOLDER_DEPTH_MAX, FOLDERS_READ_AHEAD_MAX
from tests.files.conftest import World
from tests.files.test_transfer import stream


async def shown(world: World, prefix: str = "") -> list[str]:
    async with aclosing(list_entries(world.records, prefix)) as entries:
        return [entry.shown async for entry in entries]


parts = st.text("ab.-/é", min_size=1, max_size=9).filter(
    lambda name: all(part not in ("", ".", "..") for part in name.split("/"))
)


@settings(max_examples=50, deadline=None)
@given(st.lists(parts, max_size=12), st.text("ab./", max_size=4))
def test_a_listing_is_every_name_with_the_prefix_in_order(wanted: list[str], prefix: str) -> None:
    world = World()

    async def run() -> tuple[set[str], list[str]]:
        files = Files(world.records, world.chunks, now_s=lambda: 0.0, random_bytes=bytes, threads=False)
        there: set[str] = set()
        for name in wanted:
            folders = {f"{name[:at]}/" for at, char in enumerate(name) if char == "/"}
            clash = f"{name}/" in there or any(folder.removesuffix("/") in there for folder in folders)
            if not clash:
                await files.upload(stream(b"x"), name)
                there |= {name, *folders}
        try:
            return there, await shown(world, prefix)
        except InvalidError:
            return there, []

    there, found = asyncio.run(run())
    begin = prefix.removeprefix("/")  # a folder that is named in full is opened, and not listed itself
    assert found == sorted(
        (name for name in there if name.startswith(begin) and (name != begin or begin[-1:] != "/")), key=str.encode
    )


async def plant_folders(files: Files, count: int) -> None:
    for number in range(count):
        await files.upload(stream(b"x"), f"box/{number:03}/file")


async def test_folders_are_read_ahead_within_the_bound(files: Files, world: World, monkeypatch: pytest.MonkeyPatch):
    await plant_folders(files, 40)
    running: set[bytes] = set()
    most = 0
    real = world.records.read

    async def slow(key: bytes, **how: object) -> AsyncIterator[Version]:
        nonlocal most
        running.add(key)
        most = max(most, len(running))
        for _ in range(20):
            await asyncio.sleep(0)
        async for version in real(key, **how):  # type: ignore[arg-type]
            yield version
        running.discard(key)

    monkeypatch.setattr(world.records, "read", slow)
    assert len(await shown(world, "box/")) == 80
    assert 4 <= most <= FOLDERS_READ_AHEAD_MAX + 2


async def test_an_error_comes_after_what_lies_before_it(
    files: Files, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await plant_folders(files, 9)
    real = world.records.read

    async def broken(key: bytes, **how: object) -> AsyncIterator[Version]:
        if key == names.folder_key("box/004"):
            raise IncompleteError("page unreachable")
        async for version in real(key, **how):  # type: ignore[arg-type]
            yield version

    monkeypatch.setattr(world.records, "read", broken)
    found: list[str] = []
    with pytest.raises(IncompleteError, match="page unreachable"):
        async with aclosing(list_entries(world.records, "box/")) as entries:
            async for entry in entries:
                found.append(entry.shown)
    assert found == [f"box/{number:03}/{name}" for number in range(5) for name in ("", "file")][:9]


async def test_leaving_early_leaves_no_task(files: Files, world: World) -> None:
    await plant_folders(files, 20)
    before = asyncio.all_tasks()
    async with aclosing(list_entries(world.records)) as entries:
        assert (await anext(entries)).shown == "box/"
        assert (await anext(entries)).shown == "box/000/"
    assert asyncio.all_tasks() == before


async def test_the_deepest_tree_lists(files: Files, world: World) -> None:
    deep = "/".join("d" * FOLDER_DEPTH_MAX)
    await files.upload(stream(b"x"), deep + "/file")
    assert (await shown(world))[-1] == deep + "/file"
