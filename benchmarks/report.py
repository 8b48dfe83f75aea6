"""Turns measurements into benchmarks/RESULTS.md: tables of medians, ratios to the rivals, bars met and missed."""

from __future__ import annotations

import math
import os
import platform
from collections import defaultdict
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from benchmarks.measures import median
from benchmarks.rivals import ENTRIES

Summary = dict[str, dict[str, float]]
"""Of one cell: phase -> figure -> value."""

STOCK = "stock-8"
OURS = "p2pkv-memory"
CONDITION_TITLES = {"loss-5": "5 % loss", "loss-10": "10 % loss", "dead-30": "30 % of the peers killed"}


class Results:
    """All summaries of a run."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, int, str], list[Summary]] = defaultdict(list)

    def add(self, system: str, peers: int, condition: str, summary: Summary) -> None:
        self._cells[system, peers, condition].append(summary)

    def value(self, system: str, peers: int, condition: str, phase: str, figure: str) -> float:
        """The median over the rounds; NaN where nothing was measured."""
        summaries = self._cells.get((system, peers, condition), [])
        return median([summary[phase][figure] for summary in summaries if phase in summary])

    def rounds(self, condition: str) -> int:
        return max((len(s) for (_, _, where), s in self._cells.items() if where == condition), default=0)

    def sizes(self) -> list[int]:
        return sorted({peers for _, peers, _ in self._cells})

    def systems(self, peers: int, condition: str) -> list[str]:
        return [name for name in ENTRIES if (name, peers, condition) in self._cells]

    def conditions(self, peers: int) -> list[str]:
        return [c for c in CONDITION_TITLES if any((name, peers, c) in self._cells for name in ENTRIES)]


class Bar(NamedTuple):
    """One requirement, and the figure that answers it."""

    what: str
    value: float
    bound: float
    at_least: bool
    unit: str

    @property
    def met(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def render(results: Results, fault: str) -> str:
    """The whole document."""
    parts = [_head(results, fault)]
    for peers in results.sizes():
        if results.systems(peers, "plain"):
            parts.append(_plain(results, peers))
        parts += [_impaired(results, peers, condition) for condition in results.conditions(peers)]
    parts += [_bars(results), _notes()]
    return "\n\n".join(parts) + "\n"


def _head(results: Results, fault: str) -> str:
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; absolute figures belong to one machine, ratios to the same run. Values of 100 bytes, "
        "32 operations in flight. Half of the peers live in each of two processes, both of which carry out half of the "
        "operations; what one process put, the other reads. Every system starts anew for every cell; the systems take "
        f"turns. Figures without loss are medians of {results.rounds('plain')} rounds, the others of "
        f"{max(results.rounds(c) for c in CONDITION_TITLES)}.",
        "",
        f"Machine: {os.cpu_count()} cores, {platform.system()} {platform.release()}, "
        f"{platform.python_implementation()} {platform.python_version()}. "
        f"Versions: {', '.join(_versions())}.",
    ]
    if fault:
        lines += ["", f"The runs with loss were left out: {fault}."]
    return "\n".join(lines)


def _versions() -> Iterable[str]:
    for package in ("p2pkv", "kademlia", "rpcudp", "opendht"):
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            yield f"{package} not installed"


def _plain(results: Results, peers: int) -> str:
    def row(system: str) -> list[str]:
        def value(phase: str, figure: str) -> float:
            return results.value(system, peers, "plain", phase, figure)

        def ratio(phase: str, rival: str) -> float:
            return value(phase, "per_s") / results.value(rival, peers, "plain", phase, "per_s")

        return [
            ENTRIES[system].label,
            *(_count(value(phase, "per_s")) for phase in ("put", "get", "lookup")),
            *(_ms(value(phase, "p50_s")) for phase in ("put alone", "get alone")),
            _ratio(ratio("put", "opendht")),
            _ratio(ratio("get", STOCK)),
            _percent(min(value("put", "right_percent"), value("get", "right_percent"))),
        ]

    heads = [
        "system", "put/s", "get/s", "absent key/s", "put alone, median", "get alone, median",
        "put rate / OpenDHT's", "get rate / stock k=8's", "right",
    ]  # fmt: skip
    return f"## {peers} peers\n\n" + table(heads, map(row, results.systems(peers, "plain")))


def _impaired(results: Results, peers: int, condition: str) -> str:
    def row(system: str) -> list[str]:
        def cell(phase: str, figure: str, text: Callable[[float], str]) -> str:
            return text(results.value(system, peers, condition, phase, figure))

        columns = [("p50_s", _ms), ("p95_s", _ms), ("right_percent", _percent)]
        return [
            ENTRIES[system].label,
            *(cell(phase, figure, text) for phase in ("get", "put") for figure, text in columns),
        ]

    heads = ["system", "get median", "get p95", "found", "put median", "put p95", "acknowledged"]
    title = f"## {peers} peers, {CONDITION_TITLES[condition]}"
    return f"{title}\n\n" + table(heads, map(row, results.systems(peers, condition)))


def bars(results: Results) -> Iterable[Bar]:
    """What p2pkv is to reach, in the memory engine unless it says otherwise."""
    for peers in results.sizes():

        def value(phase: str, figure: str, condition: str = "plain", peers: int = peers, system: str = OURS) -> float:
            return results.value(system, peers, condition, phase, figure)

        if results.systems(peers, "plain"):
            rival = value("put", "per_s", system="opendht")
            yield Bar(f"{peers} peers: put rate, OpenDHT's = 1", value("put", "per_s") / rival, 1, True, "x")
            rival = value("get", "per_s", system=STOCK)
            yield Bar(f"{peers} peers: get rate, stock kademlia's = 1", value("get", "per_s") / rival, 2, True, "x")
            yield Bar(f"{peers} peers: get alone, median", value("get alone", "p50_s") * 1e3, 1, False, "ms")
        limits = {"loss-5": (60, 200), "loss-10": (120, 400), "dead-30": (200, 500)}
        for condition in results.conditions(peers):
            title = f"{peers} peers, {CONDITION_TITLES[condition]}"
            for phase, bound in zip(("get", "put"), limits[condition], strict=True):
                yield Bar(f"{title}: {phase} p95", value(phase, "p95_s", condition) * 1e3, bound, False, "ms")
                yield Bar(f"{title}: {phase} right", value(phase, "right_percent", condition), 100, True, "%")


def bar_rows(bars: Iterable[Bar]) -> Iterable[list[str]]:
    """Those that something was measured for."""
    return (
        [
            bar.what,
            f"{'at least' if bar.at_least else 'at most'} {bar.bound:g} {bar.unit}",
            f"{bar.value:.3g} {bar.unit}",
            "met" if bar.met else "**missed**",
        ]
        for bar in bars
        if not math.isnan(bar.value)
    )


def _bars(results: Results) -> str:
    return "## Bars\n\n" + table(["p2pkv, memory engine", "bar", "measured", ""], bar_rows(bars(results)))


def _notes() -> str:
    rows = ([entry.label, entry.lacks] for entry in ENTRIES.values())
    return "## What each figure pays for\n\n" + table(["system", "does and does not"], rows)


def table(heads: list[str], rows: Iterable[list[str]]) -> str:
    """In Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _count(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.0f}"


def _ratio(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g} %"


def _ms(value_s: float) -> str:
    if math.isnan(value_s):
        return "-"
    return "never" if math.isinf(value_s) else f"{value_s * 1e3:,.3g} ms" if value_s < 1 else f"{value_s:.1f} s"
