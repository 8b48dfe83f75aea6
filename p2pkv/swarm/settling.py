"""Brings committed batches to their end wherever versions of them still wait: plain versions take their place.

Theory of operation. Whoever reads a page and hears that versions wait there asks what became of their batches. What is
committed counts from the moment of its decision, so the reader first does what the batch's writer may not have done
yet: it stores the plain versions at a majority of their replicas, and only then reads. What is aborted, or not decided
yet, counts for nothing. The same is done for what waits for long (`resolving.py`).

Owns no decision. Drops nothing itself: replicas give up a pending version as they store its plain one.
"""

from __future__ import annotations

from collections.abc import Iterable

from p2pkv import messages
from p2pkv.core.atomic import BATCH_KEYS, Verdict, plain
from p2pkv.core.records import Cursor, Version, rank
from p2pkv.core.replication import Identity, Run, merge_runs, within
from p2pkv.errors import IncompleteError
from p2pkv.ids import Place
from p2pkv.limits import RECORDS_ANSWER_MAX
from p2pkv.swarm.decisions import Decisions
from p2pkv.swarm.page_reading import runs_of
from p2pkv.swarm.replica import OWNED
from p2pkv.swarm.signing import genuine
from p2pkv.swarm.sources import Sources
from p2pkv.swarm.tallies import Tally
from p2pkv.swarm.writing import Writer


class Settling:
    """Ends of batches, page by page."""

    def __init__(self, decisions: Decisions, sources: Sources, writer: Writer) -> None:
        self._decisions = decisions
        self._sources = sources
        self._writer = writer

    async def settle(self, key: bytes, place: Place, batches: Iterable[bytes]) -> bool:
        """Apply in one page what is committed of some batches; True where any is.

        Raises IncompleteError, UnreachableError where it cannot be known, or not be done: then a read would lack it.
        """
        if key.startswith(BATCH_KEYS):
            return False
        committed = {batch for batch in batches if await self._decisions.of(batch) is Verdict.COMMITTED}
        if committed:
            waiting = await self._waiting(key, place)
            await self.apply(key, [version for version in waiting if version.batch in committed])
        return bool(committed)

    async def apply(self, key: bytes, versions: list[Version]) -> None:
        """Store the plain versions of pending ones, whose batch is committed. Raises IncompleteError."""
        if not versions:
            return
        tallies = await self._writer.store_batch(key, [plain(version) for version in versions], "quorum")
        short = [tally for tally in tallies if not _applied(tally)]
        if short:
            raise IncompleteError(
                f"{len(short)} records of a committed batch could not be brought to enough of their replicas",
                "try again when more peers are reachable",
            )

    async def _waiting(self, key: bytes, place: Place) -> list[Version]:
        """All that waits in a page, at whichever of a read quorum of its replicas."""
        found: dict[Identity, Version] = {}
        after: Cursor | None = None
        while True:
            request = messages.FindRecords(place, after=after, limit=RECORDS_ANSWER_MAX, pending=True)
            opening = await self._sources.open_raw(request)
            opening.require_quorum()
            runs = [Run([v for v in run.versions if v.pending], run.more) for run in runs_of(opening)]
            end = merge_runs(runs, "time", reverse=False).end
            for version in (version for run in runs for version in run.versions):
                standing = found.get(version.identity)
                newer = standing is None or rank(version) > rank(standing)
                if newer and within(version, "time", after, end, reverse=False) and genuine(key, version):
                    found[version.identity] = version
            if end is None or end == after:
                return list(found.values())
            after = end


def _applied(tally: Tally) -> bool:
    """Do enough replicas have the version, or a newer one, or another owner's record in its place?"""
    owned = sum(reason.startswith(OWNED) for reason in tally.refusals)
    return tally.stored + tally.stale + owned >= tally.needed
