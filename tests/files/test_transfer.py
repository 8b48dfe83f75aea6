"""One file up and down, through the swarm's two ports."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from p2pkv.errors import DamagedError, IncompleteError, InvalidError, NotFoundError, P2pkvError, RefusedError
from p2pkv.files.service import Files
from p2pkv.limits import CHUNKS_IN_FLIGHT_MAX, MIB, PIECES_HELD_MAX
from p2pkv.outcomes import TransferProgress
from tests.files.conftest import World

SIZES = [0, 1, 1024, 1025, MIB - 1, MIB, MIB + 1, 3 * MIB + 17]


async def stream(data: bytes, block: int = 70_000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), block):
        yield data[at : at + block]


async def read_all(files: Files, name: str, byte_range: tuple[int, int | None] | None = None) -> bytes:
    _, parts = await files.open(name, byte_range)
    return b"".join([part async for part in parts])


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("encrypt", [False, True])
@pytest.mark.parametrize("size_bytes", SIZES)
async def test_a_file_comes_back_equal_with_mode_and_time(
    files: Files, world: World, tmp_path: Path, size_bytes: int, encrypt: bool
) -> None:
    source = tmp_path / "cat.jpg"
    source.write_bytes(world.noise(size_bytes))
    source.chmod(0o640)
    os.utime(source, ns=(5, 1_600_000_000_123_456_789))
    up = await files.upload(source, to="photos/2026", encrypt=encrypt)
    assert (up.name, up.size, up.replicas) == ("photos/2026/cat.jpg", size_bytes, 8)
    target = tmp_path / "out"
    down = await files.download(up.link, target)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_mtime_ns == 1_600_000_000_123_456_789
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert down.hash == up.hash
    assert await read_all(files, up.link) == source.read_bytes()
    assert left(tmp_path) == ["cat.jpg", "out"]


async def test_content_compresses_and_equal_chunks_are_put_once(files: Files, world: World) -> None:
    block = world.noise(MIB // 2) * 2
    up = await files.upload(stream(block * 6), "same")
    assert (up.chunks, up.chunks_sent, world.chunks.puts) == (6, 1, 1)
    assert await read_all(files, "same") == block * 6
    await files.upload(stream(b"a line of a log\n" * 100_000), "log")
    assert sum(map(len, world.chunks.stored.values())) < 1.1 * MIB


async def test_encrypted_content_and_its_key_never_reach_the_swarm(files: Files, world: World) -> None:
    secret = b"the plans of the bank " * 100_000
    up = await files.upload(stream(secret), "plans", encrypt=True)
    again = await files.upload(stream(secret), "plans2", encrypt=True)
    small = await files.upload(stream(b"the plans"), "small", encrypt=True)
    assert again.chunks_sent == 3
    held = list(world.chunks.stored.values())
    held += [version.body + version.meta for page in world.records.keys.values() for version in page.values()]
    assert not any(b"the plans" in stored for stored in held)
    with pytest.raises(InvalidError, match="encrypted"):
        await read_all(files, "plans")
    with pytest.raises(DamagedError):
        await read_all(files, "p2pkv:plans#" + again.link.partition("#")[2])
    with pytest.raises(InvalidError, match="damaged"):
        await read_all(files, up.link[:-3])
    assert await read_all(files, small.link) == b"the plans"
    assert await read_all(files, up.link, (MIB - 3, MIB + 3)) == secret[MIB - 3 : MIB + 4]


@pytest.mark.parametrize("byte_range", [(0, 0), (5, None), (MIB - 1, MIB), (MIB, 2 * MIB - 1), (0, 10**12), (7, 7)])
async def test_a_range_is_that_part_and_fetches_no_more(
    files: Files, world: World, tmp_path: Path, byte_range: tuple[int, int | None]
) -> None:
    data = world.noise(4 * MIB + 5)
    await files.upload(stream(data), "data")
    first, last = byte_range
    wanted = data[first : None if last is None else last + 1]
    world.chunks.gets.clear()
    assert await read_all(files, "data", byte_range) == wanted
    assert len(world.chunks.gets) <= len(wanted) // MIB + 2
    down = await files.download("data", tmp_path / "part", byte_range=byte_range)
    assert (tmp_path / "part").read_bytes() == wanted
    assert down.size == len(wanted)


@pytest.mark.parametrize("byte_range", [(10, None), (-1, 3), (5, 4)])
async def test_a_range_outside_the_file_is_refused(files: Files, byte_range: tuple[int, int | None]) -> None:
    await files.upload(stream(b"0123456789"), "digits")
    with pytest.raises(InvalidError, match="10 bytes"):
        await read_all(files, "digits", byte_range)


async def test_chunks_go_several_at_once_and_never_more_than_the_bound(files: Files, world: World, tmp_path: Path):
    world.chunks.hold = lambda: world.chunks.most_running < 8
    data = world.noise(20 * MIB)
    await files.upload(stream(data, MIB), "data")
    assert 8 <= world.chunks.most_running <= CHUNKS_IN_FLIGHT_MAX
    world.chunks.most_running = 0
    world.chunks.delay_of = lambda chunk_id: 5 + chunk_id[0]  # they finish out of order
    await files.download("data", tmp_path / "data")
    assert (tmp_path / "data").read_bytes() == data
    assert 8 <= world.chunks.most_running <= CHUNKS_IN_FLIGHT_MAX


async def test_too_few_replicas_is_an_error_that_says_who_and_why_and_no_record_appears(files: Files, world: World):
    world.chunks.replicas_reached = 3
    with pytest.raises(IncompleteError, match=r"3 of 8 replicas, 5 are needed \(127\.0\.0\.1:9: quota\)"):
        await files.upload(stream(world.noise(3 * MIB)), "data")
    world.chunks.replicas_reached = 8
    with pytest.raises(NotFoundError):
        await read_all(files, "data")
    world.records.replicas_reached = 2
    with pytest.raises(IncompleteError, match="2 of 8"):
        await files.upload(stream(b"small"), "small")


async def test_a_put_that_fails_once_is_done_again(files: Files, world: World) -> None:
    world.chunks.replicas_reached = 4
    first: set[bytes] = set()

    def recovers(chunk_id: bytes) -> int:
        world.chunks.replicas_reached = 8 if chunk_id in first else 4
        first.add(chunk_id)
        return 0

    world.chunks.delay_of = recovers
    data = world.noise(3 * MIB)
    up = await files.upload(stream(data), "data")
    assert (up.replicas, up.chunks_sent, world.chunks.puts) == (8, 3, 6)
    assert await read_all(files, "data") == data


async def test_a_file_that_changes_while_it_is_read_is_not_stored(files: Files, world: World, tmp_path: Path) -> None:
    source = tmp_path / "log"
    content = world.noise(18 * MIB)  # more than may be in flight, so it is not read to its end at once
    changes = {
        "grown": lambda: source.open("ab").write(b"more"),
        "replaced": lambda: (tmp_path / "new").write_bytes(source.read_bytes()) and (tmp_path / "new").rename(source),
        "cut": lambda: os.truncate(source, 5),
        "gone": source.unlink,
    }
    for name, change in changes.items():
        source.write_bytes(content)
        pending = [change]

        def on_put(chunk_id: bytes, pending: list[object] = pending) -> int:
            if pending:
                pending.pop()()  # type: ignore[operator]
            return 1

        world.chunks.delay_of = on_put
        with pytest.raises(P2pkvError, match="changed while it was read"):
            await files.upload(source, name)
        assert await files.find(name) is None


async def test_a_broken_download_goes_on_where_it_stopped(files: Files, world: World, tmp_path: Path) -> None:
    data = world.noise(48 * MIB)
    await files.upload(stream(data, MIB), "data")
    target = tmp_path / "data"
    target.write_bytes(b"what was there before")

    def dies(chunk_id: bytes, attempt: int) -> None:
        if len(world.chunks.gets) > 44:
            raise asyncio.CancelledError

    world.chunks.gets.clear()
    world.chunks.on_get = dies
    with pytest.raises(asyncio.CancelledError):
        await files.download("data", target)
    assert target.read_bytes() == b"what was there before"
    assert left(tmp_path) == [".data.p2pkv-part", ".data.p2pkv-part.journal", "data"]
    world.chunks.gets.clear()
    world.chunks.on_get = lambda chunk_id, attempt: None
    down = await world.files().download("data", target)
    assert target.read_bytes() == data
    assert down.chunks == 48
    assert down.chunks_sent + 1 == len(world.chunks.gets), "those and the list"
    assert down.chunks_sent <= 48 - 44 + CHUNKS_IN_FLIGHT_MAX + PIECES_HELD_MAX
    assert left(tmp_path) == ["data"]


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from tests.files.conftest import World
from tests.files.test_transfer import stream
world = World()
def dies(chunk_id, attempt):
    if len(world.chunks.gets) > 44:
        os.kill(os.getpid(), signal.SIGKILL)
async def main():
    files = world.files()
    await files.upload(stream(world.noise(48 << 20), 1 << 20), "data")
    world.chunks.on_get = dies
    await files.download("data", Path(sys.argv[1]))
asyncio.run(main())
"""


async def test_a_download_killed_by_the_system_goes_on_in_another_process(
    files: Files, world: World, tmp_path: Path
) -> None:
    target = tmp_path / "data"
    root = str(Path(__file__).parents[2])
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, str(target), cwd=root)
    assert await killed.wait() == -signal.SIGKILL
    assert left(tmp_path) == [".data.p2pkv-part", ".data.p2pkv-part.journal"]
    data = world.noise(48 * MIB)  # the same seed, so the same record as in the killed process
    await files.upload(stream(data, MIB), "data")
    down = await files.download("data", target)
    assert target.read_bytes() == data
    assert down.chunks_sent <= 48 - 44 + CHUNKS_IN_FLIGHT_MAX + PIECES_HELD_MAX
    assert left(tmp_path) == ["data"]


async def test_resuming_believes_only_what_is_on_the_disk(files: Files, world: World, tmp_path: Path) -> None:
    data = world.noise(6 * MIB)
    await files.upload(stream(data, MIB), "data")
    last = list(world.chunks.stored)[-1]
    kept = world.chunks.stored.pop(last)
    with pytest.raises(IncompleteError, match="cannot be fetched"):
        await files.download("data", tmp_path / "data")
    with (tmp_path / ".data.p2pkv-part").open("r+b") as part:
        part.seek(MIB + 7)
        part.write(b"power was lost here")
    with (tmp_path / ".data.p2pkv-part.journal").open("ab") as journal:
        journal.write(b"torn")
    world.chunks.stored[last] = kept
    down = await files.download("data", tmp_path / "data")
    assert (tmp_path / "data").read_bytes() == data
    assert down.chunks_sent < down.chunks


async def test_a_part_of_another_version_is_not_used(files: Files, world: World, tmp_path: Path) -> None:
    await files.upload(stream(world.noise(4 * MIB)), "data")
    gone = list(world.chunks.stored)[2]
    del world.chunks.stored[gone]
    with pytest.raises(IncompleteError):
        await files.download("data", tmp_path / "data")
    data = world.noise(4 * MIB)
    await files.upload(stream(data), "data")
    down = await files.download("data", tmp_path / "data")
    assert (tmp_path / "data").read_bytes() == data
    assert down.chunks_sent == 4


async def test_a_chunk_that_fails_once_is_asked_for_again(files: Files, world: World) -> None:
    data = world.noise(3 * MIB)
    await files.upload(stream(data), "data")

    def flaky(chunk_id: bytes, attempt: int) -> None:
        if attempt == 0:
            raise IncompleteError("silent")

    world.chunks.on_get = flaky
    assert await read_all(files, "data") == data


async def test_damaged_chunks_are_an_error_and_leave_no_file(files: Files, world: World, tmp_path: Path) -> None:
    await files.upload(stream(world.noise(MIB // 2)), "data")
    (only,) = world.chunks.stored
    world.chunks.stored[only] = b"damaged"
    with pytest.raises(IncompleteError, match=only.hex()[:12]):
        await files.download("data", tmp_path / "data")
    assert left(tmp_path) == []


async def test_a_lying_record_is_caught_by_the_hash_of_the_whole(files: Files, world: World, tmp_path: Path) -> None:
    await files.upload(stream(world.noise(3 * MIB)), "a")
    await files.upload(stream(world.noise(3 * MIB)), "b")
    root = world.records.keys[b"\x00p2pkv/folder/"]
    from msgspec.structs import replace

    root[b"a"] = replace(root[b"a"], body=root[b"b"].body)
    with pytest.raises(DamagedError, match="hash"):
        await files.download("a", tmp_path / "a")
    with pytest.raises(DamagedError, match="hash"):
        await read_all(files, "a")
    assert left(tmp_path) == []


async def test_a_full_disk_names_the_path_and_what_to_do(
    files: Files, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = world.noise(5 * MIB)
    await files.upload(stream(data), "data")
    written: list[int] = []

    def full(fd: int, view: memoryview, offset: int, real=os.pwrite) -> int:
        written.append(offset)
        if len(written) > 2:
            raise OSError(28, "No space left on device")
        return real(fd, view, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(P2pkvError, match="data: no space left") as caught:
        await files.download("data", tmp_path / "data")
    assert "free some space" in caught.value.mend
    monkeypatch.undo()
    down = await files.download("data", tmp_path / "data")
    assert (tmp_path / "data").read_bytes() == data
    assert down.chunks_sent == 3


async def test_a_file_larger_than_the_disk_is_refused_before_it_fills(
    files: Files, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await files.upload(stream(world.noise(2 * MIB)), "data")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(MIB, MIB, 1000))
    world.chunks.gets.clear()
    with pytest.raises(P2pkvError, match="no space left"):
        await files.download("data", tmp_path / "data")
    assert (world.chunks.gets, left(tmp_path)) == ([], [])


async def test_two_downloads_to_one_place_do_not_mix(files: Files, world: World, tmp_path: Path) -> None:
    data = world.noise(3 * MIB)
    await files.upload(stream(data), "data")
    second_done = False
    world.chunks.hold = lambda: not second_done
    async with asyncio.TaskGroup() as group:
        group.create_task(files.download("data", tmp_path / "x"))
        while not world.chunks.running:
            await asyncio.sleep(0.001)
        with pytest.raises(P2pkvError, match="another download"):
            await files.download("data", tmp_path / "x")
        second_done = True
    assert (tmp_path / "x").read_bytes() == data


async def test_what_a_user_may_get_wrong(files: Files, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidError, match="a pipe"):
        await files.upload(tmp_path / "pipe")
    with pytest.raises(NotFoundError, match="missing: No such file"):
        await files.upload(tmp_path / "missing")
    with pytest.raises(InvalidError, match="is a folder"):
        await files.upload(tmp_path)
    with pytest.raises(InvalidError, match="no name"):
        await files.upload(stream(b"x"))
    for bad in ("a//b", "../x", "a/./b", "new\nline", "nul\x00", "", "/"):
        with pytest.raises(InvalidError):
            await files.upload(stream(b"x"), bad)
    with pytest.raises(NotFoundError, match="no file nothing"):
        await files.download("nothing", tmp_path / "x")
    await files.upload(stream(b"x"), "folder/x")
    with pytest.raises(InvalidError, match="is a folder"):
        await files.download("folder", tmp_path / "x")
    with pytest.raises(RefusedError, match="is a file"):
        await files.upload(stream(b"x"), "folder/x/y")
    with pytest.raises(RefusedError, match="is a folder"):
        await files.upload(stream(b"x"), "folder")
    with pytest.raises(NotFoundError):
        await files.download("folder/x", tmp_path / "no" / "such" / "place")
    with pytest.raises(InvalidError, match="replicas"):
        await files.upload(stream(b"x"), "x", replicas=0)


async def test_download_into_a_folder_and_over_a_file(files: Files, tmp_path: Path) -> None:
    await files.upload(stream(b"new"), "notes/todo")
    await files.download("notes/todo", tmp_path)
    (tmp_path / "other").write_bytes(b"old")
    await files.download("p2pkv:notes/todo", tmp_path / "other")
    assert (tmp_path / "todo").read_bytes() == (tmp_path / "other").read_bytes() == b"new"


async def test_write_once_refuses_the_second(files: Files) -> None:
    await files.upload(stream(b"1"), "ledger", once=True)
    with pytest.raises(RefusedError):
        await files.upload(stream(b"2"), "ledger", once=True)
    assert await read_all(files, "ledger") == b"1"


async def test_progress_ends_with_done_and_counts_every_byte(files: Files, world: World, tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.write_bytes(world.noise(5 * MIB))
    steps: list[TransferProgress] = []
    await files.upload(source, progress=steps.append)
    assert (steps[-1].phase, steps[-1].done, steps[-1].total, steps[-1].replicas) == ("done", 5 * MIB, 5 * MIB, 8)
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    steps.clear()
    await files.download("data", tmp_path / "out", progress=steps.append)
    assert (steps[-1].phase, steps[-1].done, steps[-1].chunks_done) == ("done", 5 * MIB, 5)


async def test_a_cancelled_upload_gives_its_share_back(files: Files, world: World) -> None:
    world.chunks.delay_of = lambda chunk_id: 10**9
    for _ in range(3):
        task = asyncio.create_task(files.upload(stream(world.noise(20 * MIB), MIB), "data"))
        while world.chunks.running < 8:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert world.chunks.running == 0
    world.chunks.delay_of = lambda chunk_id: 1
    data = world.noise(2 * MIB)
    await asyncio.wait_for(files.upload(stream(data), "data"), 10)
    assert await read_all(files, "data") == data
