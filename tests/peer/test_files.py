"""Files on a swarm of real peers over loopback."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from p2pkv import Peer
from p2pkv.errors import NotFoundError
from p2pkv.outcomes import TransferProgress
from p2pkv.testing import Swarm


@pytest.fixture
async def swarm() -> AsyncIterator[Swarm]:
    async with Swarm(5) as swarm:
        yield swarm


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.timeout(300)
async def test_a_large_file_comes_down_equal_after_two_of_five_peers_died(swarm: Swarm, tmp_path: Path) -> None:
    original = tmp_path / "original"
    original.write_bytes(os.urandom(96 << 20))
    outcome = await swarm.peers[0].upload(original, name="big/file.bin")
    assert outcome.replicas == 5
    await swarm.peers.pop(1).stop()
    await swarm.peers.pop(1).stop()
    await swarm.peers[-1].download("big/file.bin", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == original.read_bytes()


async def test_a_thousand_small_files_come_down_equal(swarm: Swarm, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number in range(1000):
        path = source / f"folder{number % 10}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(number * 13 % 3000))
    await swarm.peers[0].upload(source, name="many")
    await swarm.peers[4].download("many", tmp_path / "copy")
    assert tree(tmp_path / "copy") == tree(source)
    names = [info.name async for info in swarm.peers[2].list_files("many/") if info.kind == "file"]
    assert len(names) == 1000
    assert names == sorted(names)


async def test_progress_tells_what_each_peer_carried(swarm: Swarm, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(os.urandom(3_000_000))
    steps: list[TransferProgress] = []
    await swarm.peers[0].upload(tmp_path / "f", name="f", progress=steps.append)
    others = {peer.address for peer in swarm.peers[1:]}
    assert set(steps[-1].peers) == others
    assert all(size_bytes >= 3_000_000 for size_bytes in steps[-1].peers.values()), "each replica holds all of it"
    async with Peer(listen=["127.0.0.1:0"], bootstrap=[*others], ephemeral=True) as guest:
        await guest.wait_connected()
        await guest.download("f", tmp_path / "g", progress=steps.append)
    assert sum(steps[-1].peers.values()) >= 3_000_000, "a guest holds nothing and fetches all"


async def test_a_deleted_file_is_gone(swarm: Swarm, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 5000)
    await swarm.peers[0].upload(tmp_path / "f", name="f")
    assert (await swarm.peers[3].stat_file("f")).healthy
    assert await swarm.peers[1].delete_file("f") == 1
    with pytest.raises(NotFoundError):
        await swarm.peers[2].download("f", tmp_path / "g")
    assert not (tmp_path / "g").exists()


async def test_an_encrypted_file_opens_with_its_link_alone(swarm: Swarm, tmp_path: Path) -> None:
    secret = b"secret " * 10_000
    (tmp_path / "f").write_bytes(secret)
    outcome = await swarm.peers[0].upload(tmp_path / "f", name="sealed", encrypt=True)
    await swarm.peers[2].download(outcome.link, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == secret
    with pytest.raises(Exception, match=r"(?i)key|encrypted"):
        await swarm.peers[2].download("sealed", tmp_path / "other")
    for peer in swarm.peers:
        store = Path(str(peer.home.folder)) / "store" if peer.home else tmp_path
        assert not any(b"secret secret" in path.read_bytes() for path in store.rglob("*") if path.is_file())


async def test_one_full_replica_does_not_refuse_for_the_others(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(os.urandom(300_000))
    async with Swarm(4, store="memory") as swarm:
        bootstrap = [swarm.peers[0].address]
        async with Peer(listen=["127.0.0.1:0"], bootstrap=bootstrap, store="memory", quota=1) as full:
            await full.wait_connected()
            outcome = await full.upload(tmp_path / "source", "f")
            assert outcome.replicas >= 3
            await swarm.peers[3].download("f", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "source").read_bytes()
