"""Chunks that nobody refers to go after their grace time, and no others; so do traces of old deletions."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from p2pkv.core.records import Version
from p2pkv.ids import chunk_id_of
from p2pkv.storage.interface import RangeQuery
from p2pkv.testing import SimSwarm

DAY_S = 3600.0
RNG = random.Random(1)


@pytest.fixture(autouse=True)
def _short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Days of an hour, two of them of grace, four words a day."""
    short = {"VOUCH_FIRST_S": 600.0, "VOUCH_S": 900.0, "TOMBSTONE_S": 2 * DAY_S, "COLLECT_MARGIN_S": 600.0}
    for name, value in {**short, "CHUNK_GRACE_DAYS": 2}.items():
        monkeypatch.setattr(f"p2pkv.swarm.collecting.{name}", value)
    for name, value in {"DAY_S": DAY_S, "CHUNK_GRACE_DAYS": 2, "CHUNK_DOUBT_DAYS": 1}.items():
        monkeypatch.setattr(f"p2pkv.swarm.chunks.{name}", value)
    monkeypatch.setattr("p2pkv.swarm.upkeep.TOMBSTONE_S", 2 * DAY_S)


async def once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def chunks(swarm: SimSwarm) -> int:
    """How many chunks there are on all peers that run."""
    return sum(swarm.peers[index].left.store.usage().chunks for index in swarm.up)


def read(swarm: SimSwarm, by: int, name: str) -> bytes:
    async def whole() -> bytes:
        _, blocks = await swarm.peers[by].open_file(name)
        return b"".join([block async for block in blocks])

    return swarm.run(whole())


def test_chunks_of_a_deleted_file_go_and_those_of_others_stay() -> None:
    data = {name: RNG.randbytes(3000) for name in ("kept", "gone", "coded")}
    with SimSwarm(8, seed=1, k=3) as swarm:
        for name, content in data.items():
            erasure = "2/4" if name == "coded" else None
            swarm.run(swarm.peers[0].upload(once(content), name, erasure=erasure))
        swarm.run(swarm.peers[1].put("long", data["kept"] * 2))
        before = chunks(swarm)
        swarm.run(swarm.peers[2].delete_file("gone"))
        swarm.run_for(seconds=DAY_S)
        assert chunks(swarm) == before, "the grace time is not over"
        swarm.run_for(seconds=4 * DAY_S)
        assert chunks(swarm) == before - 3
        assert read(swarm, 5, "kept") == data["kept"]
        assert read(swarm, 6, "coded") == data["coded"]


def test_a_deleted_coded_file_gives_all_its_shards_back() -> None:
    with SimSwarm(8, seed=2, k=3) as swarm:
        swarm.run(swarm.peers[0].upload(once(RNG.randbytes(3000)), "coded", erasure="2/4"))
        assert chunks(swarm) == 3 + 4
        swarm.run(swarm.peers[0].delete_file("coded"))
        swarm.run_for(seconds=5 * DAY_S)
        assert chunks(swarm) == 0


def test_a_chunk_that_is_stored_again_in_time_stays() -> None:
    """As an upload that finds it there does not send it again, it must not go while the record is on its way."""
    data = RNG.randbytes(40_000)
    with SimSwarm(6, seed=3, k=3) as swarm:
        swarm.run(swarm.peers[0].upload(once(data), "first"))
        swarm.run(swarm.peers[0].delete_file("first"))
        swarm.run_for(seconds=1.5 * DAY_S)
        again = swarm.run(swarm.peers[1].upload(once(data), "second"))
        assert again.chunks_sent == 0
        swarm.run_for(seconds=4 * DAY_S)
        assert read(swarm, 2, "second") == data
        assert chunks(swarm) == 3


def test_newcomers_do_not_keep_alive_what_nobody_wants() -> None:
    with SimSwarm(4, seed=4, k=3) as swarm:
        swarm.run(swarm.peers[0].upload(once(RNG.randbytes(3000)), "gone"))
        swarm.run(swarm.peers[0].delete_file("gone"))
        for _ in range(5):
            swarm.run_for(seconds=DAY_S)
            swarm.crash(swarm.up[1])
            swarm.add_peer()
        assert chunks(swarm) == 0


def test_a_peer_that_was_cut_off_drops_nothing_that_is_wanted() -> None:
    data = RNG.randbytes(3000)
    with SimSwarm(10, seed=5, k=3) as swarm:
        swarm.run(swarm.peers[0].upload(once(data), "file"))
        stored = [chunk_id_of(b"\x00" + data)]
        held = [i for i in swarm.up if swarm.run(swarm.peers[i].left.store.has_chunks(stored))[0]]
        swarm.partition([held[:1], [i for i in swarm.up if i not in held[:1]]])
        swarm.run_for(seconds=DAY_S)
        swarm.heal()
        swarm.run_for(seconds=3 * DAY_S)
        assert read(swarm, held[1], "file") == data
        assert chunks(swarm) == 3


def test_old_tombstones_are_forgotten_by_all_and_do_not_come_back() -> None:
    async def versions(index: int) -> list[Version]:
        store = swarm.peers[index].left.store
        pages = await store.pages()
        found = [await store.read(RangeQuery(page.place, dead=True)) for page in pages]
        return [version for result in found for version in result.versions]

    with SimSwarm(5, seed=6) as swarm:
        swarm.run(swarm.peers[0].put("key", b"1", name="a"))
        swarm.run(swarm.peers[0].put("key", b"2", name="b"))
        swarm.run(swarm.peers[0].put("key", b"3", name="c", ttl_s=60))
        swarm.run(swarm.peers[0].delete("key", name="a"))
        swarm.run_for(seconds=DAY_S)
        assert {len(swarm.run(versions(index))) for index in range(5)} == {3}
        swarm.run_for(seconds=3 * DAY_S)
        assert {len(swarm.run(versions(index))) for index in range(5)} == {1}
        assert [version.name for version in swarm.run(versions(3))] == [b"b"]
