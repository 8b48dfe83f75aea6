"""What the replicas said of versions that were stored: counted, never judged.

Owns no network and no rule of what becomes of a version that did not reach its acknowledgements.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from p2pkv import messages
from p2pkv.core.records import Flag, Version, version_token
from p2pkv.errors import RefusedError
from p2pkv.messages import StoreResult
from p2pkv.outcomes import PutOutcome, ReplicaFailure


@dataclass(slots=True)
class Tally:
    """What the replicas said of one version."""

    version: Version
    asked: int
    needed: int
    stored: int = 0
    failures: list[ReplicaFailure] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    newer: Version | None = None  # of a higher rank, standing at some replica
    stale: int = 0  # replicas where a newer version stands
    split: bool = False  # some replica says that the page is split

    @property
    def reached(self) -> bool:
        return self.stored >= self.needed

    @property
    def superseded(self) -> bool:
        """Has every replica of enough either this version or a newer one?"""
        return self.stored + self.stale >= self.needed

    @property
    def overtaken(self) -> bool:
        """Did it fail because a newer version stands that a later put may replace?"""
        once = self.newer is not None and self.newer.flags & Flag.ONCE
        return not self.reached and self.stale > 0 and not once

    @property
    def newest_clock(self) -> int:
        return self.newer.clock if self.newer is not None else 0

    def add(self, result: StoreResult, node: str, address: str) -> None:
        if result.code in (messages.STORED, messages.ALREADY):
            self.stored += 1
        elif result.code == messages.STALE:
            if result.current is not None and (self.newer is None or result.current.clock > self.newer.clock):
                self.newer = result.current
            self.stale += 1
            self.failures.append(ReplicaFailure(node, address, "a newer version stands"))
        else:
            self.split = self.split or result.code == messages.SPLIT
            reason = result.detail or "knows nearer peers"
            if result.code == messages.REFUSED:
                self.refusals.append(reason)
            self.failures.append(ReplicaFailure(node, address, reason))

    def outcome(self) -> PutOutcome:
        return PutOutcome(
            name=self.version.name.decode(errors="replace"),
            version=version_token(self.version),
            asked=self.asked,
            stored=self.stored,
            needed=self.needed,
            failures=self.failures,
        )

    def raise_refusal(self) -> None:
        """A put that failed because replicas refused it is refused, not merely incomplete."""
        if self.reached or not self.refusals:
            return
        current = version_token(self.newer) if self.newer else ""
        mend = "free space or raise the quota" if self.refusals[0].startswith("quota") else ""
        raise RefusedError(f"the replicas refused: {self.refusals[0]}", mend, current=current)
