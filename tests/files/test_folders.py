"""Whole folders: up, listed, down, deleted."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from msgspec.structs import replace

from p2pkv.core.manifest import FileMeta, Kind
from p2pkv.core.records import Flag
from p2pkv.errors import IncompleteError, InvalidError, NotFoundError
from p2pkv.files import names
from p2pkv.files.service import Files
from p2pkv.limits import MIB
from p2pkv.outcomes import FileInfo
from tests.files.conftest import World
from tests.files.test_transfer import left, read_all, stream


def plant(root: Path, world: World) -> Path:
    """A folder with everything that folders have."""
    (root / "empty").mkdir(parents=True)
    (root / "deep" / "er").mkdir(parents=True)
    (root / "deep" / "er" / "big").write_bytes(world.noise(2 * MIB + 3))
    (root / "deep" / "run.sh").write_text("#!/bin/sh\n")
    (root / "deep" / "run.sh").chmod(0o755)
    (root / "deep.txt").write_text("sorts before deep/")
    (root / "nothing").touch()
    (root / "Größe 100% #1?.txt").write_text("ä")
    (root / "to-big").symlink_to("deep/er/big")
    (root / "deep" / "dangling").symlink_to("no/where")
    os.utime(root / "deep", ns=(1, 1_500_000_000_000_000_000))
    return root


def picture(root: Path) -> dict[str, object]:
    """Everything of a tree that has to come back."""
    shown: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        found = path.lstat()
        content = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        mode = 0 if path.is_symlink() else stat.S_IMODE(found.st_mode)
        shown[str(path.relative_to(root))] = (content, mode, 0 if path.is_symlink() else found.st_mtime_ns)
    return shown


async def listing(files: Files, prefix: str = "") -> list[FileInfo]:
    return [info async for info in files.list_files(prefix)]


async def shown(files: Files, prefix: str = "") -> list[str]:
    return [info.name for info in await listing(files, prefix)]


@pytest.mark.parametrize("encrypt", [False, True])
async def test_a_folder_comes_back_equal(files: Files, world: World, tmp_path: Path, encrypt: bool) -> None:
    source = plant(tmp_path / "src", world)
    up = await files.upload_folder(source, to="backup", encrypt=encrypt)
    assert (up.name, up.files, up.folders, up.links, up.failed) == ("backup/src", 5, 4, 2, 0)
    assert up.size == sum(path.stat().st_size for path in source.rglob("*") if path.is_file() and not path.is_symlink())
    down = await files.download_folder(up.link, tmp_path / "out")
    assert (down.files, down.folders, down.links, down.failed) == (5, 3, 2, 0)
    assert picture(tmp_path / "out") == picture(source)


async def test_listing_is_sorted_by_full_name_and_every_folder_is_in_it(files: Files, world: World, tmp_path: Path):
    await files.upload_folder(plant(tmp_path / "src", world), to="a/b")
    await files.upload(stream(b"x"), "a/b0")
    found = await shown(files)
    assert found == sorted(found, key=str.encode)
    assert found[:4] == ["a/", "a/b/", "a/b/src/", "a/b/src/Größe 100% #1?.txt"]
    assert found.index("a/b/src/deep.txt") < found.index("a/b/src/deep/") < found.index("a/b/src/deep/er/big")
    assert await shown(files, "a/b") == [name for name in found if name.startswith("a/b")]
    assert await shown(files, "a/b/src/de") == [name for name in found if name.startswith("a/b/src/de")]
    assert await shown(files, "a/b/src/deep/er/") == ["a/b/src/deep/er/big"]
    assert await shown(files, "nothing/here") == []
    by_name = {info.name: info for info in await listing(files, "a/b/src/")}
    assert by_name["a/b/src/to-big"].target == "deep/er/big"
    assert by_name["a/b/src/deep/er/big"].chunks == 3
    assert by_name["a/b/src/deep/run.sh"].mode == 0o755
    assert by_name["a/b/src/deep/"].mtime == 1_500_000_000
    flat = [info.name async for info in files.list_files("a/b/src/deep/", recursive=False)]
    assert flat == ["a/b/src/deep/dangling", "a/b/src/deep/er/", "a/b/src/deep/run.sh"]


async def test_a_thousand_small_files_cost_one_record_each(files: Files, world: World, tmp_path: Path) -> None:
    source = tmp_path / "many"
    source.mkdir()
    for number in range(1000):
        (source / f"{number:04}").write_bytes(b"%d" % number * 50)
    up = await files.upload_folder(source)
    assert (up.files, up.failed, world.chunks.puts, len(world.records.puts)) == (1000, 0, 0, 1001)
    down = await files.download_folder("many", tmp_path / "out")
    assert (down.files, down.failed) == (1000, 0)
    assert picture(tmp_path / "out") == picture(source)
    assert len(await shown(files, "many/")) == 1000


async def test_what_cannot_be_uploaded_is_told_by_name_and_the_rest_goes_on(files: Files, tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    os.mkfifo(source / "pipe")
    (source / "fine").write_text("x")
    (source / "bad\nname").write_text("x")
    Path(os.fsdecode(os.fsencode(source) + b"/\xff\xfe")).write_text("x")
    up = await files.upload_folder(source)
    assert (up.files, up.failed) == (1, 3)
    told = {failure.name: failure.reason for failure in up.failures}
    assert "a pipe" in told["src/pipe"]
    assert "control characters" in told["src/bad\nname"]
    assert await shown(files) == ["src/", "src/fine"]
    with pytest.raises(InvalidError, match="no such folder"):
        await files.upload_folder(tmp_path / "missing")


async def test_a_second_download_fetches_only_what_is_missing(files: Files, world: World, tmp_path: Path) -> None:
    source = plant(tmp_path / "src", world)
    (source / "deep" / "big2").write_bytes(world.noise(3 * MIB))
    up = await files.upload_folder(source, encrypt=True)
    await files.download_folder(up.link, tmp_path / "out")
    (tmp_path / "out" / "deep" / "er" / "big").unlink()
    (tmp_path / "out" / "deep" / "run.sh").write_text("#!/bin/ed\n")
    world.chunks.gets.clear()
    down = await files.download_folder(up.link, tmp_path / "out")
    assert (down.files, down.failed, len(world.chunks.gets)) == (6, 0, 3)
    assert picture(tmp_path / "out") == picture(source)


async def test_one_missing_chunk_fails_one_file(files: Files, world: World, tmp_path: Path) -> None:
    source = plant(tmp_path / "src", world)
    await files.upload_folder(source)
    lost = next(iter(world.chunks.stored))
    del world.chunks.stored[lost]
    down = await files.download_folder("src", tmp_path / "out")
    assert (down.failed, down.files) == (1, 4)
    assert "src/deep/er/big" in down.failures[0].name
    assert not (tmp_path / "out" / "deep" / "er" / "big").exists()


def sneak(world: World, folder: str, name: str, kind: Kind = Kind.FILE, body: bytes = b"evil") -> None:
    """What a stranger may put without our code: a record of any name in any folder."""
    page = world.records.keys.setdefault(names.folder_key(folder), {})
    sample = next(version for pages in world.records.keys.values() for version in pages.values())
    version = replace(sample, name=name.encode(), flags=int(Flag.FILE), size_bytes=len(body), body=body)
    page[name.encode()] = replace(version, meta=FileMeta(kind).encode())


async def test_nothing_of_a_hostile_folder_lands_outside_the_target(files: Files, world: World, tmp_path: Path) -> None:
    await files.upload(stream(b"good"), "box/good")
    for name in ("../evil", "..", ".", "a/b", "/etc/evil", "ctrl\x1b[2J", "x" * 1000):
        sneak(world, "box", name)
    sneak(world, "box", "trap", Kind.LINK, str(tmp_path / "outside").encode())
    sneak(world, "box", "up", Kind.LINK, b"../outside")
    sneak(world, "box", "same", Kind.LINK, b"good")
    sneak(world, "box", "door", Kind.LINK, b"inner")
    sneak(world, "box", "door/", Kind.FOLDER, b"")
    sneak(world, "box/door", "evil")
    sneak(world, "box", "trap/", Kind.FOLDER, b"")
    sneak(world, "box/trap", "evil")
    (tmp_path / "outside").mkdir()
    for _ in range(2):  # the second run finds what the first made
        down = await files.download_folder("box", tmp_path / "out")
        assert down.failed >= 3
        assert left(tmp_path / "outside") == []
        assert left(tmp_path) == ["out", "outside"]
        assert (tmp_path / "out" / "same").readlink() == Path("good")
        assert not (tmp_path / "out" / "trap").is_symlink()
        assert not (tmp_path / "out" / "up").exists()


async def test_a_link_in_the_target_folder_is_not_followed(files: Files, tmp_path: Path) -> None:
    await files.upload(stream(b"x"), "box/sub/file")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere")
    down = await files.download_folder("box", tmp_path / "out")
    assert down.failed == 2
    assert left(tmp_path / "elsewhere") == []


async def test_malformed_records_do_not_hide_the_good_ones(files: Files, world: World) -> None:
    await files.upload(stream(b"good"), "box/good")
    page = world.records.keys[names.folder_key("box")]
    page[b"\xff"] = replace(page[b"good"], name=b"\xff")
    page[b"meta"] = replace(page[b"good"], name=b"meta", meta=b"\xc1garbage")
    page[b"plain"] = replace(page[b"good"], name=b"plain", flags=0)
    page[b"bad"] = replace(page[b"good"], name=b"bad", flags=int(Flag.FILE | Flag.CHUNKED), body=b"\x93")
    assert await shown(files, "box/") == ["box/bad", "box/good"]
    with pytest.raises(NotFoundError):
        await read_all(files, "box/meta")


async def test_delete(files: Files, world: World, tmp_path: Path) -> None:
    await files.upload_folder(plant(tmp_path / "src", world))
    await files.upload(stream(b"x"), "other")
    assert (await files.delete_file("src/deep/run.sh")).files == 1
    with pytest.raises(NotFoundError):
        await read_all(files, "src/deep/run.sh")
    with pytest.raises(NotFoundError):
        await files.delete_file("src/deep/run.sh")
    with pytest.raises(InvalidError, match="is a folder"):
        await files.delete_file("src")
    gone = await files.delete_file("src", recursive=True)
    assert (gone.files, gone.folders, gone.links, gone.failed) == (4, 4, 2, 0)
    assert await shown(files) == ["other"]
    await files.upload(stream(b"again"), "src/deep/run.sh")
    assert await shown(files, "src/") == ["src/deep/", "src/deep/run.sh"]


async def test_stat_shows_every_chunk_and_who_holds_it(files: Files, world: World) -> None:
    await files.upload(stream(world.noise(3 * MIB)), "data", replicas=3)
    found = await files.stat_file("data")
    assert (found.info.size, found.replicas_wanted, found.link) == (3 * MIB, 3, "p2pkv:data")
    assert {chunk.id for chunk in found.chunks} == {chunk_id.hex() for chunk_id in world.chunks.stored}
    assert all(chunk.replicas[0].holds for chunk in found.chunks)


async def test_an_incomplete_listing_is_an_error_not_a_short_answer(
    files: Files, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await files.upload(stream(b"x"), "box/a")
    real = world.records.read

    async def broken(key: bytes, **how: object):  # type: ignore[no-untyped-def]
        async for version in real(key, **how):  # type: ignore[arg-type]
            yield version
        raise IncompleteError("page 2 of 3 is unreachable")

    monkeypatch.setattr(world.records, "read", broken)
    with pytest.raises(IncompleteError):
        await shown(files, "box/")
    with pytest.raises(IncompleteError):
        await files.download_folder("box", tmp_path / "out")
