"""`make bench`: every system under every condition, side by side, into benchmarks/RESULTS.md.

Each figure comes from a swarm of its own, started for it in fresh processes; the systems take turns within a round.
Datagrams are dropped by the kernel's packet filter, in a network namespace of the benchmark's own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import network, report
from benchmarks.rivals import ENTRIES

SIZES = (20, 100)
CONDITIONS = ("plain", "loss-5", "loss-10", "dead-30")
CELL_S_MAX = 400
ROOT = Path(__file__).parent.parent


class Cell(NamedTuple):
    """One measurement."""

    system: str
    peers: int
    condition: str


def cells(sizes: list[int], conditions: list[str], systems: list[str]) -> Iterator[Cell]:
    for peers in sizes:
        for condition in conditions:
            for system in systems:
                if condition == "plain" or ENTRIES[system].impaired:
                    yield Cell(system, peers, condition)


def measure(cell: Cell, *, quick: bool) -> report.Summary | None:
    """One cell in processes of its own; None where it did not end well."""
    lossy = cell.condition.startswith("loss")
    with network.namespace() if lossy else nullcontext([]) as inside:
        command = [*inside, sys.executable, "-m", "benchmarks.key_values", *map(str, cell)]
        try:
            done = subprocess.run(
                [*command, *(["--quick"] if quick else [])],
                stdout=subprocess.PIPE,
                cwd=ROOT,
                timeout=CELL_S_MAX,
                check=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        except subprocess.SubprocessError as error:
            print(f"  {' '.join(map(str, cell))}: {error}", file=sys.stderr)
            return None
    summary: report.Summary = json.loads(done.stdout)
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round at 20 peers, printed and not kept")
    parser.add_argument("--rounds", type=int, default=3, help="rounds without loss; those with loss have one")
    parser.add_argument("--only", action="append", choices=ENTRIES, help="this system (may be given again)")
    parser.add_argument("--condition", action="append", choices=CONDITIONS)
    parser.add_argument("--peers", action="append", type=int)
    options = parser.parse_args()
    systems = [name for name in options.only or ENTRIES if ENTRIES[name].installed]
    fault = network.fault()
    conditions = [c for c in options.condition or CONDITIONS if not (fault and c.startswith("loss"))]
    if fault:
        print(f"no runs with loss: {fault}", file=sys.stderr)
    results = report.Results()
    for number in range(1 if options.quick else options.rounds):
        chosen = [c for c in conditions if number == 0 or c == "plain"]
        for cell in cells(options.peers or ([20] if options.quick else list(SIZES)), chosen, systems):
            print(
                f"round {number + 1}: {cell.system}, {cell.peers} peers, {cell.condition}", file=sys.stderr, flush=True
            )
            summary = measure(cell, quick=options.quick)
            if summary is not None:
                results.add(cell.system, cell.peers, cell.condition, summary)
    text = report.render(results, fault)
    print(text)
    if not (options.quick or options.only or options.condition or options.peers):
        (ROOT / "benchmarks" / "RESULTS.md").write_text(text)


if __name__ == "__main__":
    main()
