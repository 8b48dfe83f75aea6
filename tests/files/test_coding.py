"""Erasure-coded files, through the swarm's two ports."""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from p2pkv.core.durability import loss_per_year
from p2pkv.core.erasure import Code
from p2pkv.errors import IncompleteError, InvalidError
from p2pkv.files.coding import lay_out
from p2pkv.files.service import Files
from p2pkv.ids import NodeID, distance, is_shard, place_of_chunk
from p2pkv.limits import MIB
from tests.files.conftest import World
from tests.files.test_transfer import read_all, stream


def lose(world: World, share_kept: int, rng: random.Random) -> None:
    """Lose as many shards of every stripe as it can bear, any of them."""
    shards = [chunk_id for chunk_id in world.chunks.stored if is_shard(chunk_id)]
    for chunk_id in rng.sample(shards, len(shards) - share_kept):
        del world.chunks.stored[chunk_id]


@pytest.mark.parametrize("encrypt", [False, True])
@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("size_bytes", [1025, MIB, 2 * MIB + 17])
async def test_a_coded_file_comes_back_equal(
    files: Files, world: World, tmp_path: Path, size_bytes: int, encrypt: bool, text: bool
) -> None:
    data = (b"a line of a log\n" * size_bytes)[:size_bytes] if text else world.noise(size_bytes)
    up = await files.upload(stream(data), "coded", erasure="4/6", encrypt=encrypt)
    assert up.erasure == "4/6"
    assert await read_all(files, up.link) == data
    assert await read_all(files, up.link, (500, 1020)) == data[500:1021]
    await files.download(up.link, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data


async def test_any_shards_beyond_the_needed_may_be_lost(files: Files, world: World) -> None:
    data = world.noise(MIB)
    await files.upload(stream(data), "coded", erasure="4/6")
    shards = sorted(chunk_id for chunk_id in world.chunks.stored if is_shard(chunk_id))
    for lost in ([0, 1], [2, 5], [3, 4]):
        kept = {shards[index]: world.chunks.stored.pop(shards[index]) for index in lost}
        assert await read_all(files, "coded") == data
        world.chunks.stored |= kept
    for index in range(3):
        del world.chunks.stored[shards[index]]
    with pytest.raises(IncompleteError, match="3 of its 6 shards answer, 4 are needed"):
        await read_all(files, "coded")


async def test_the_swarm_holds_what_the_code_says_and_not_more(files: Files, world: World) -> None:
    data = world.noise(3 * MIB)
    await files.upload(stream(data), "coded", erasure="10/14")
    held = sum(map(len, world.chunks.stored.values()))
    assert 1.4 * len(data) <= held <= 1.41 * len(data)
    found = await files.stat_file("coded")
    assert found.info.erasure == "10/14"
    assert len(found.chunks) == 3 * 15
    assert found.healthy
    lose(world, 41, random.Random(1))
    assert not (await files.stat_file("coded")).healthy


async def test_equal_chunks_are_coded_and_sent_once(files: Files, world: World) -> None:
    block = world.noise(MIB)
    up = await files.upload(stream(block * 4), "same", erasure="2/3")
    assert (up.chunks, up.chunks_sent, world.chunks.puts) == (4, 1, 3 + 1)
    assert await read_all(files, "same") == block * 4
    again = await files.upload(stream(block), "again", erasure="2/3")
    assert again.chunks_sent == 0


async def test_the_expected_loss_is_that_of_all_its_chunks(files: Files, world: World, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("one", "two"):
        (folder / name).write_bytes(world.noise(2 * MIB))
    (folder / "small").write_bytes(b"lies in its record")
    up = await files.upload(folder / "one", erasure="4/6")
    assert up.loss_per_year == pytest.approx(loss_per_year(Code(4, 6), 2))
    down = await files.upload_folder(folder, erasure="4/6")
    assert down.erasure == "4/6"
    assert down.loss_per_year == pytest.approx(loss_per_year(Code(4, 6), 4))
    small = await files.upload(folder / "small", erasure="4/6")
    assert (small.erasure, small.loss_per_year) == ("", 0.0)


@pytest.mark.parametrize("code", ["6/4", "nonsense", "4"])
async def test_what_is_no_code_is_refused(files: Files, code: str) -> None:
    with pytest.raises(InvalidError, match="no erasure code"):
        await files.upload(stream(b"x" * 5000), "coded", erasure=code)


async def test_a_swarm_too_small_for_the_code_is_refused(files: Files, world: World) -> None:
    del world.chunks.nodes[5:]
    with pytest.raises(InvalidError, match="needs 6 peers, and this peer knows 5"):
        await files.upload(stream(b"x" * 5000), "coded", erasure="4/6")


async def test_too_few_shards_stored_is_an_error_and_no_record_appears(files: Files, world: World) -> None:
    world.chunks.replicas_reached = 0
    with pytest.raises(IncompleteError, match=r"erasure-coded chunk .* reached 0 of 6 replicas"):
        await files.upload(stream(b"x" * 5000), "coded", erasure="4/6")
    assert world.records.puts == []


@pytest.mark.parametrize("peers", [14, 20, 200])
def test_shards_of_a_stripe_belong_to_different_peers(peers: int) -> None:
    rng = random.Random(peers)
    nodes = [NodeID(rng.randbytes(20)) for _ in range(peers)]
    alone = []
    for _ in range(20):
        coded = lay_out(rng.randbytes(2000), Code(10, 14), nodes)
        places = [place_of_chunk(shard) for shard in coded.shards.stripe(coded.salts).shards]
        holders = Counter(min(nodes, key=lambda node: distance(node, place)) for place in places)
        alone.append(len(holders))
    assert sum(alone) / len(alone) >= (12 if peers == 14 else 13.9)


# --- the formula ---
def test_copies_lose_as_the_textbook_says() -> None:
    """Mean time to the loss of a mirrored pair: (3 a + m) / (2 a^2), a deaths and m repairs per time."""
    a, m, year_s = 1 / 1e6, 1 / 1e3, 365.25 * 86_400
    mean_s = (3 * a + m) / (2 * a * a)
    assert loss_per_year(Code(1, 2), life_s=1e6, repair_s=1e3) == pytest.approx(-math.expm1(-year_s / mean_s))


@pytest.mark.parametrize(("code", "seed"), [(Code(1, 3), 1), (Code(4, 6), 2), (Code(2, 5), 3)])
def test_the_formula_agrees_with_dice(code: Code, seed: int) -> None:
    """Deaths and repairs drawn at random; repairs are slow, so that losses are not too rare to count."""
    rng, life_s, repair_s = random.Random(seed), 1.0, 0.1
    times = []
    for _ in range(3000):
        lost, now_s = 0, 0.0
        while lost <= code.total - code.needed:
            dies, mends = (code.total - lost) / life_s, (1 / repair_s if lost else 0.0)
            now_s += rng.expovariate(dies + mends)
            lost = lost + 1 if rng.random() < dies / (dies + mends) else 0
        times.append(now_s)
    year_s = 365.25 * 86_400
    told = -math.log1p(-loss_per_year(code, life_s=life_s * year_s, repair_s=repair_s * year_s))
    assert sum(times) / len(times) == pytest.approx(1 / told, rel=0.08)


async def test_other_shards_come_in_the_place_of_those_that_take_too_long(files: Files, world: World) -> None:
    data = world.noise(MIB)
    await files.upload(stream(data), "coded", erasure="4/6")
    slow = [chunk_id for chunk_id in world.chunks.stored if is_shard(chunk_id)][:2]
    world.chunks.delay_of = lambda chunk_id: 1_000_000_000 if chunk_id in slow else 1
    async with asyncio.timeout(30):
        assert await read_all(files, "coded") == data
    assert world.chunks.running == 0


def test_the_document_tells_what_the_formula_gives() -> None:
    text = (Path(__file__).parents[2] / "docs" / "durability.md").read_text()
    rows = re.findall(
        r"^\| (\d+(?:/\d+)?)(?: copies[^|]*)? \| [\d.]+ \| (\S+) \| (\S+) \| (\S+) \|$", text, re.MULTILINE
    )
    assert len(rows) >= 10
    for name, *told in rows:
        code = Code(*map(int, name.split("/"))) if "/" in name else Code(1, int(name))
        for value, days, chunks in zip(told, (90, 90, 7), (1, 1024, 1024), strict=True):
            found = loss_per_year(code, chunks, life_s=days * 86_400, repair_s=3600)
            assert float(value) == pytest.approx(found, rel=0.06)
