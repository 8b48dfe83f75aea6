"""What was acknowledged is there after SIGKILL and after a loss of power."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from pathlib import Path

import pytest
from blake3 import blake3

from p2pkv.ids import ChunkID, chunk_id_of, place_of_key
from p2pkv.storage.disk import DiskStore
from p2pkv.storage.interface import QuotaExceededError, StoreFailedError
from tests.storage.faulty import FaultyFiles
from tests.storage.samples import NOW_S, put, version

ROOT = Path(__file__).resolve().parents[2]
PLACES = [place_of_key(b"%d" % i) for i in range(7)]


def clock() -> float:
    return NOW_S


def chunk(i: int) -> bytes:
    return blake3(b"%d" % i).digest(length=1 + i * 7919 % 30_000)


def record(i: int):
    return version(b"%08d" % i, clock=i + 1, body=b"body of %d" % i)


async def write_for_ever(folder: Path, first: int) -> None:
    """The child: several writers at once, each line says what is durable."""
    store = DiskStore(folder, clock, pack_bytes_max=1 << 20)
    await store.open()
    numbers = iter(range(first, 1 << 60))

    async def worker() -> None:
        for i in numbers:
            if i % 2:
                await store.put_chunk(chunk_id_of(chunk(i)), chunk(i))
            else:
                await store.commit([put(record(i), PLACES[i % 7]), put(record(i), PLACES[(i + 1) % 7])])
            sys.stdout.write(f"{i}\n")
            sys.stdout.flush()

    await asyncio.gather(*(worker() for _ in range(8)))


def run_and_kill(folder: Path, first: int, lines: int) -> list[int]:
    """Numbers that the child said were durable before it was killed."""
    call = f"asyncio.run(write_for_ever(pathlib.Path({str(folder)!r}), {first}))"
    code = f"import asyncio, pathlib; from tests.storage.test_crash import write_for_ever; {call}"
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert child.stdout is not None
    said = [child.stdout.readline() for _ in range(lines)]
    child.kill()
    said += child.stdout.read().splitlines(keepends=True)
    child.wait()
    child.stdout.close()
    return [int(line) for line in said if line.endswith(b"\n")]


async def check_all(folder: Path, numbers: list[int]) -> None:
    store = DiskStore(folder, clock, pack_bytes_max=1 << 20)
    await store.open()
    for i in numbers:
        if i % 2:
            assert await store.get_chunk(chunk_id_of(chunk(i))) == chunk(i)
        else:
            for place in (PLACES[i % 7], PLACES[(i + 1) % 7]):
                assert await store.read_name(place, b"%08d" % i) == [record(i)]
    report = await store.verify()
    assert report.chunks_damaged == report.records_damaged == []
    assert report.chunks_checked == store.usage().chunks
    assert report.records_checked == store.usage().records
    await store.close()


async def kill_often(folder: Path, times: int, seed: int) -> None:
    rng = random.Random(seed)
    durable: list[int] = []
    for _ in range(times):
        first = max(durable, default=0) + 1000
        said = await asyncio.to_thread(run_and_kill, folder, first, rng.randrange(1, 400))
        assert said
        durable += said
        await check_all(folder, durable)


async def test_acknowledged_survives_sigkill(tmp_path: Path) -> None:
    await kill_often(tmp_path, 10, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_acknowledged_survives_many_sigkills(tmp_path: Path) -> None:
    await kill_often(tmp_path, 200, seed=2)


async def write_until_dark(store: DiskStore, rng: random.Random) -> tuple[dict[ChunkID, bytes], set[ChunkID]]:
    """Put, delete and compact until the disk fails; what is acknowledged, and what is for certain deleted."""
    there: dict[ChunkID, bytes] = {}
    gone: set[ChunkID] = set()

    async def put_some(count: int) -> None:
        for _ in range(count):
            data = rng.randbytes(rng.choice((1, 100, 5000, 40_000)))
            chunk_id = chunk_id_of(data)
            if chunk_id not in gone:
                await store.put_chunk(chunk_id, data)
                there[chunk_id] = data

    for _ in range(40):
        results = await asyncio.gather(*(put_some(5) for _ in range(4)), return_exceptions=True)
        for chunk_id in rng.sample(sorted(there), len(there) // 3):
            assert await store.delete_chunk(chunk_id)
            del there[chunk_id]
            gone.add(chunk_id)
        try:
            await store.compact()
        except (StoreFailedError, QuotaExceededError):
            break
        if any(isinstance(result, StoreFailedError) for result in results):
            break
    return there, gone


async def lose_power_once(folder: Path, seed: int) -> None:
    rng = random.Random(seed)
    files = FaultyFiles(seed)
    store = DiskStore(folder, clock, files=files, pack_bytes_max=100_000)
    await store.open()
    files.actions_left = rng.randrange(1, 400)
    there, gone = await write_until_dark(store, rng)
    await store.close()
    files.lose_power()

    store = DiskStore(folder, clock, pack_bytes_max=100_000)
    await store.open()
    for chunk_id, data in there.items():
        assert await store.get_chunk(chunk_id) == data
    assert not any(await store.has_chunks(sorted(gone)))
    report = await store.verify()
    assert not report.chunks_damaged
    assert await store.put_chunk(chunk_id_of(b"after"), b"after") is True
    assert await store.get_chunk(chunk_id_of(b"after")) == b"after"
    await store.close()


async def test_acknowledged_chunks_survive_a_loss_of_power(tmp_path: Path) -> None:
    for seed in range(25):
        await lose_power_once(tmp_path / str(seed), seed)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_acknowledged_chunks_survive_many_losses_of_power(tmp_path: Path) -> None:
    for seed in range(1000, 2000):
        await lose_power_once(tmp_path / str(seed), seed)
