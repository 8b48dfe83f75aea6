"""What folders up and down share: many files at once, each failure told by name, none hidden."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from p2pkv.errors import P2pkvError, UnreachableError
from p2pkv.files.concurrency import Job, run_jobs
from p2pkv.files.partfile import NoSpaceError
from p2pkv.files.progress import Meter
from p2pkv.limits import FAILURES_REPORTED_MAX, FILES_IN_FLIGHT_MAX
from p2pkv.outcomes import FileFailure, FolderOutcome, TransferOutcome

_FATAL = (UnreachableError, NoSpaceError)
"""What will not be better for the next file: the whole folder ends."""


class Tally:
    """Counts what became of a folder's files."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.files = self.folders = self.links = self.size = self.failed = 0
        self._failures: list[FileFailure] = []
        self._erasure = ""
        self._kept_log = 0.0  # logarithm of the probability that no file is lost within a year

    async def attempt(self, name: str, step: Callable[[], Awaitable[None]]) -> None:
        """Do one file's part; a failure of its own is noted, one that concerns all is raised."""
        try:
            await step()
        except _FATAL:
            raise
        except P2pkvError as error:
            self.fail(name, str(error))

    def coded(self, outcome: TransferOutcome) -> None:
        """Count what an erasure-coded file may lose."""
        if outcome.erasure:
            self._erasure = outcome.erasure
            self._kept_log += math.log1p(-min(outcome.loss_per_year, 1 - 1e-12))

    def fail(self, name: str, reason: str) -> None:
        self.failed += 1
        if len(self._failures) < FAILURES_REPORTED_MAX:
            self._failures.append(FileFailure(name, reason))

    def outcome(self, name: str, link: str = "") -> FolderOutcome:
        return FolderOutcome(
            name=name,
            files=self.files,
            folders=self.folders,
            links=self.links,
            size=self.size,
            seconds=self.meter.seconds,
            failed=self.failed,
            failures=self._failures,
            replicas=self.meter.replicas,
            link=link,
            erasure=self._erasure,
            loss_per_year=-math.expm1(self._kept_log),
        )


async def run_all(jobs: AsyncGenerator[Job[None], None]) -> None:
    """Run a folder's jobs, a bounded number at once, in no order."""
    async with aclosing(jobs), aclosing(run_jobs(jobs, limit=FILES_IN_FLIGHT_MAX, ordered=False)) as finished:
        async for _ in finished:
            pass
