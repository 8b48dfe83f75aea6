"""Many small files, and two downloads at once, between processes on this machine.

    python -m benchmarks.crowds [--files 10000] [--mib 256]

One holder with a store on disk; a folder of files of 1 to 16 KiB goes there and comes back to another peer, every file
compared. Then two peers in processes of their own fetch one file at the same time. Prints what it measured and a JSON
object.
"""

from __future__ import annotations

import argparse
import asyncio
import filecmp
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.files import ROOT, own_cost

FOLDERS = 100
SMALL_BYTES = (1024, 16_384)


@contextmanager
def holder(folder: Path) -> Iterator[str]:
    """A peer with a store, in a process of its own; its address."""
    command = [sys.executable, "-m", "benchmarks.files", "--role", "hold", "--system", "p2pkv", "--folder", str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["address"]
    finally:
        process.kill()
        process.wait()


def make_files(root: Path, count: int) -> int:
    """Random content, the same at every run; bytes altogether."""
    rng, size = random.Random(1), 0
    for number in range(count):
        folder = root / f"{number % FOLDERS:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        size += (folder / f"{number}").write_bytes(rng.randbytes(rng.randint(*SMALL_BYTES)))
    return size


def differing(one: Path, other: Path) -> int:
    """How many files of one folder are not equal in the other."""
    names = [str(path.relative_to(one)) for path in one.rglob("*") if path.is_file()]
    _, mismatch, errors = filecmp.cmpfiles(one, other, names, shallow=False)
    return len(mismatch) + len(errors)


async def many(address: str, source: Path, target: Path) -> dict[str, float]:
    """Files per second up and down."""
    from p2pkv.peer import Peer

    rates = {}
    for verb in ("up", "down"):
        async with Peer(listen=["127.0.0.1:0"], bootstrap=[address], ephemeral=True) as peer:
            await peer.wait_connected()
            began_s = time.perf_counter()
            outcome = await (peer.upload(source, name="many") if verb == "up" else peer.download("many", target))
            rates[verb] = outcome.files / (time.perf_counter() - began_s)
    return rates


async def publish(address: str, source: Path) -> None:
    from p2pkv.peer import Peer

    async with Peer(listen=["127.0.0.1:0"], bootstrap=[address], ephemeral=True) as peer:
        await peer.wait_connected()
        await peer.upload(source, name="file")


async def fetch(address: str, target: Path) -> None:
    """Say ready, wait for the word, fetch; print how long it took."""
    from p2pkv.peer import Peer

    async with Peer(listen=["127.0.0.1:0"], bootstrap=[address], ephemeral=True) as peer:
        await peer.wait_connected()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        began_s = time.perf_counter()
        await peer.download("file", target)
        print(json.dumps({"fetch_s": time.perf_counter() - began_s, **own_cost()}), flush=True)


def together(address: str, folder: Path, size: int) -> list[float]:
    """MB/s of two downloads that begin at the same time."""
    command = [sys.executable, "-m", "benchmarks.crowds", "--role", "fetch", "--address", address, "--target"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    both = [
        subprocess.Popen([*command, str(folder / f"copy{n}")], text=True, cwd=ROOT, **pipes)  # type: ignore[call-overload]
        for n in range(2)
    ]
    for one in both:
        one.stdout.readline()
    for one in both:
        one.stdin.write("\n")
        one.stdin.flush()
    return [size / json.loads(one.communicate(timeout=300)[0])["fetch_s"] / 1e6 for one in both]


def report(count: int, size: int) -> None:
    import uvloop

    with tempfile.TemporaryDirectory(prefix="p2pkv-bench-") as name, holder(Path(name)) as address:
        folder = Path(name)
        total = make_files(folder / "many", count)
        rates = uvloop.run(many(address, folder / "many", folder / "back"))
        wrong = differing(folder / "many", folder / "back")
        print(
            f"{count} files, {total / 1e6:.0f} MB: up {rates['up']:.0f}/s, down {rates['down']:.0f}/s, {wrong} differ"
        )
        source = folder / "source.bin"
        source.write_bytes(os.urandom(size))
        uvloop.run(publish(address, source))
        pair = together(address, folder, size)
        equal = all(filecmp.cmp(source, folder / f"copy{n}", shallow=False) for n in range(2))
        apart = 1 - min(pair) / max(pair)
        print(f"two downloads at once: {pair[0]:.0f} and {pair[1]:.0f} MB/s, {apart:.0%} apart, equal: {equal}")
    print(json.dumps({"many": rates, "differing": wrong, "together": pair, "equal": equal}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--role", choices=["fetch"])
    parser.add_argument("--address", default="")
    parser.add_argument("--target", type=Path)
    options = parser.parse_args()
    if options.role:
        import uvloop

        uvloop.run(fetch(options.address, options.target))
    else:
        report(options.files, options.mib << 20)


if __name__ == "__main__":
    main()
