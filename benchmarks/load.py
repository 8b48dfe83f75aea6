"""Load on a system: so many operations, so many in flight, and what became of each."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.measures import percentile

Operation = Callable[[int], Awaitable[bool]]
"""Carries out operation number n; whether its result is right."""


@dataclass
class Phase:
    """What a load measured. A wrong or unfinished operation counts as one of infinite latency."""

    latencies_s: list[float] = field(default_factory=list)
    right: int = 0
    elapsed_s: float = 0.0

    @classmethod
    def together(cls, phases: Iterable[dict[str, Any]]) -> Phase:
        """What several processes measured at the same time."""
        whole = cls()
        for phase in phases:
            whole.latencies_s += phase["latencies_s"]
            whole.right += phase["right"]
            whole.elapsed_s = max(whole.elapsed_s, phase["elapsed_s"])
        return whole

    def summary(self) -> dict[str, float]:
        done = len(self.latencies_s)
        return {
            "count": done,
            "right_percent": 100 * self.right / done if done else math.nan,
            "per_s": self.right / self.elapsed_s if self.elapsed_s else math.nan,
            "p50_s": percentile(self.latencies_s, 50),
            "p95_s": percentile(self.latencies_s, 95),
        }


@dataclass(frozen=True)
class Budget:
    """Bounds of one load: it ends at the latest after launch_s + deadline_s."""

    count: int  # operations 0 to count - 1
    in_flight: int
    launch_s: float  # no operation begins later than this
    deadline_s: float  # an operation that takes longer has failed


async def apply(operation: Operation, budget: Budget) -> Phase:
    """Run the operations of a budget."""
    phase = Phase()
    began_s = time.perf_counter()
    numbers = iter(range(budget.count))

    async def worker() -> None:
        for number in numbers:
            await _one(operation, number, budget.deadline_s, phase)
            if time.perf_counter() - began_s > budget.launch_s:
                return

    async with asyncio.TaskGroup() as workers:
        for _ in range(budget.in_flight):
            workers.create_task(worker())
    phase.elapsed_s = time.perf_counter() - began_s
    return phase


async def _one(operation: Operation, number: int, deadline_s: float, phase: Phase) -> None:
    began_s = time.perf_counter()
    right = False
    try:
        async with asyncio.timeout(deadline_s):
            right = await operation(number)
    except Exception:
        right = False
    phase.right += right
    phase.latencies_s.append(time.perf_counter() - began_s if right else math.inf)
