"""How much of a file the swarm holds already when it has an older version of it: fixed chunks and chunks by content.

    python -m benchmarks.chunking OLD.tar NEW.tar

Prints a JSON object: for each way of cutting, the part of NEW that lies in chunks of OLD, and how many chunks NEW has.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from blake3 import blake3
from fastcdc import fastcdc

from p2pkv.limits import CHUNK_BYTES_MAX

KIB = 1024
AVERAGES = (256 * KIB, 64 * KIB, 16 * KIB)


def fixed(path: Path) -> list[int]:
    size = path.stat().st_size
    return [min(CHUNK_BYTES_MAX, size - start) for start in range(0, size, CHUNK_BYTES_MAX)]


def by_content(path: Path, average: int) -> list[int]:
    sizes = fastcdc(str(path), average // 4, average, min(4 * average, CHUNK_BYTES_MAX), fat=False)
    return [chunk.length for chunk in sizes]


def ids(path: Path, sizes: list[int]) -> list[tuple[bytes, int]]:
    with path.open("rb") as file:
        return [(blake3(file.read(size)).digest(), size) for size in sizes]


def shared(old: list[tuple[bytes, int]], new: list[tuple[bytes, int]]) -> dict[str, float]:
    known = {chunk_id for chunk_id, _ in old}
    total = sum(size for _, size in new)
    held = sum(size for chunk_id, size in new if chunk_id in known)
    return {"percent_held": round(100 * held / total, 1), "chunks": len(new)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args()
    result: dict[str, object] = {"fixed": shared(*(ids(path, fixed(path)) for path in (options.old, options.new)))}
    for average in AVERAGES:
        cut = [ids(path, by_content(path, average)) for path in (options.old, options.new)]
        result[f"by content, {average // KIB} KiB on average"] = shared(*cut)
    began_s = time.perf_counter()
    by_content(options.new, AVERAGES[0])
    elapsed_s = time.perf_counter() - began_s
    print(json.dumps(result | {"cutting_mb_per_s": round(options.new.stat().st_size / elapsed_s / 1e6)}, indent=1))


if __name__ == "__main__":
    main()
