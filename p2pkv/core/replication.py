"""The arithmetic of replicas: quorums, range digests, and the merge of several replicas' answers into one.

Theory of operation. A page lies on the n peers nearest to its place (n = k, or every peer of a smaller swarm). A write
is acknowledged by W = majority of n; a read hears R = n - W + 1 replicas, so that it meets every acknowledged write
in at least one of them. Each replica answers with a run of versions in the reader's order, and with `more` where the
run was cut. The merged answer covers the shortest of the cut runs; versions beyond it wait for the next question.

Where replicas disagree about a record within the covered part, its position is no proof of its state (a replaced
record has moved to the end of the time order, a stale one stands at its old position). `merge_runs` therefore names
the records in dispute, and the caller asks every replica for them by name before it decides (`settle`). Of a replica
that showed its whole page nothing needs to be asked, so a record on which all others agree is decided by the runs.

Owns no network and no clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from blake3 import blake3

from p2pkv.core.records import Cursor, Flag, Version, content_hash, content_of, merge, rank
from p2pkv.outcomes import Acks, Order

Identity = tuple[bytes, bytes]
"""A record within its key: name and owner."""

DIGEST_BYTES = 16


def write_quorum(replicas: int) -> int:
    """The majority."""
    return replicas // 2 + 1


def read_quorum(replicas: int) -> int:
    """The least number of replicas that meets every majority."""
    return replicas - write_quorum(replicas) + 1


def needed(acks: Acks, replicas: int) -> int:
    """How many of `replicas` must have a record durably before its put is done."""
    return {"1": 1, "quorum": write_quorum(replicas), "all": replicas}[acks]


def position(version: Version, order: Order) -> Cursor:
    """Where a version stands in an order; cursors of one order compare as their records do."""
    return Cursor(version.clock if order == "time" else 0, version.name, version.owner)


def cursor_in(order: Order, cursor: Cursor | None) -> Cursor | None:
    """A cursor of either order, as the positions of this order compare with it."""
    return Cursor(0, cursor.name, cursor.owner) if cursor is not None and order == "name" else cursor


def digest_of(versions: Iterable[Version]) -> bytes:
    """16 bytes that are equal where two runs hold the same versions in the same order."""
    return blake3(b"".join(map(content_of, versions))).digest(length=DIGEST_BYTES)


@dataclass(frozen=True)
class Run:
    """One replica's answer: versions in the asked order, and whether the run was cut behind the last of them."""

    versions: Sequence[Version]
    more: bool
    whole: bool = False  # it is all that the replica has of the page, from its beginning


@dataclass(frozen=True)
class MergedRuns:
    """What several runs say together."""

    agreed: list[Version]  # in order; every replica has exactly these
    disputed: list[Identity]  # records on which the replicas differ within the covered part
    end: Cursor | None  # the covered part ends here (inclusive); None: at the end of the page
    decided: Collection[Identity] = ()  # they differ on these too, and the runs show all that anybody has of them


def merge_runs(runs: Sequence[Run], order: Order, *, reverse: bool, after: Cursor | None = None) -> MergedRuns:
    """Merge replicas' runs that all began behind the same position, `after`, but for the whole ones."""
    end = covered_end(runs, order, reverse=reverse)
    partial = sum(not run.whole for run in runs)
    counts: dict[Identity, Counter[bytes]] = {}
    of_partial: dict[Identity, Counter[bytes]] = {}
    versions: dict[Identity, Version] = {}
    for run in runs:
        for version in run.versions:
            here, identity = position(version, order), version.identity
            if end is not None and _beyond(here, end, reverse=reverse):
                break
            if run.whole and after is not None and not _beyond(here, after, reverse=reverse):
                continue
            mark = content_hash(version)
            counts.setdefault(identity, Counter())[mark] += 1
            if not run.whole:
                of_partial.setdefault(identity, Counter())[mark] += 1
            versions[identity] = version
    differing = {identity for identity, tally in counts.items() if list(tally.values()) != [len(runs)]}
    decided = {i for i in differing if not partial or list(of_partial.get(i, {}).values()) == [partial]}
    agreed = [version for identity, version in versions.items() if identity not in differing]
    agreed.sort(key=lambda version: position(version, order), reverse=reverse)
    return MergedRuns(agreed, [identity for identity in counts if identity in differing - decided], end, decided)


def within(version: Version, order: Order, after: Cursor | None, end: Cursor | None, *, reverse: bool) -> bool:
    """Does the version stand behind `after` and not beyond `end`, in the direction of reading?"""
    here = position(version, order)
    if after is not None and not _beyond(here, after, reverse=reverse):
        return False
    return end is None or not _beyond(here, end, reverse=reverse)


def covered_end(runs: Sequence[Run], order: Order, *, reverse: bool) -> Cursor | None:
    """How far all of several runs go; None where each goes to the end."""
    ends = [position(run.versions[-1], order) for run in runs if run.more and run.versions]
    if not ends:
        return None
    return max(ends) if reverse else min(ends)


def _beyond(here: Cursor, end: Cursor, *, reverse: bool) -> bool:
    return here < end if reverse else here > end


@dataclass
class Settlement:
    """A disputed record decided: the version that stands, and which replicas (by index) lack it."""

    version: Version
    stale: list[int] = field(default_factory=list)


def settle(holdings: Sequence[Sequence[Version]]) -> list[Settlement]:
    """Decide records from what each replica holds under their names.

    `holdings[i]` is every version that replica i holds of the disputed names (any owner).
    """
    winners: dict[Identity, Version] = {}
    for held in holdings:
        for version in held:
            winners[version.identity] = merge(winners.get(version.identity), version)
    settlements = {identity: Settlement(version) for identity, version in winners.items()}
    for index, held in enumerate(holdings):
        have = {version.identity: rank(version) for version in held}
        for identity, settlement in settlements.items():
            if have.get(identity) != rank(settlement.version):
                settlement.stale.append(index)
    return list(settlements.values())


def without_echoes(versions: Sequence[Version], stock_bytes: dict[bytes, bytes]) -> list[Version]:
    """Leave out a stock peer's value that only repeats a signed record: stock readers cache what they found.

    `stock_bytes` maps the encoded body of a stock value to the bytes that it stands for.
    """
    bodies = {version.body for version in versions if not version.flags & Flag.STOCK and not version.dead}
    return [v for v in versions if not (v.flags & Flag.STOCK and stock_bytes.get(v.body) in bodies)]
