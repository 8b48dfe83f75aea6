"""Atomic batches: versions that wait aside until their whole batch is decided, and the one record that decides.

Theory of operation. A version of a batch is first stored *pending*: the same signed version, marked by a flag that is
not signed and by the batch's id in front of its signature. So it lies beside the record that stands under its name,
neither replaces the other, and whoever has it can store the plain version, which is exactly what its author signed.
When every version of the batch waits at a majority of its page's replicas, one write-once record under a key of the
batch's own decides: committed or aborted. From then on every reader who meets a pending version knows what it is
worth. A replica gives a pending version up only for its plain one (or a newer one), in one step, or where the batch is
aborted; so no reader finds neither of the two.

Owns how pending versions and decisions are made and told apart. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Final

import msgspec

from p2pkv.core.drafts import Draft
from p2pkv.core.records import DECISION_NAME, Flag, Version, rank

BATCH_KEYS: Final = b"\0p2pkv/batch/"
"""Keys of decisions begin so, which no user's key does; the batch's id follows."""


class Verdict(Enum):
    """What became of a batch. There is no third, and it never changes."""

    COMMITTED = b"committed"
    ABORTED = b"aborted"


def pending(version: Version, batch: bytes) -> Version:
    """The version as it waits in a batch."""
    return msgspec.structs.replace(version, flags=version.flags | Flag.PENDING, signature=batch + version.signature)


def plain(version: Version) -> Version:
    """The version that its author signed."""
    if not version.flags & Flag.PENDING:
        return version
    signature = version.signature[len(version.batch) :]
    return msgspec.structs.replace(version, flags=version.flags & ~Flag.PENDING, signature=signature)


def in_the_way(version: Version, held: Iterable[Version]) -> Version | None:
    """The plain version, this very one or a newer one, because of which a pending version need not wait any more."""
    ours = plain(version)
    for standing in held:
        if standing.identity == ours.identity and rank(standing) >= rank(ours):
            return standing
    return None


def twins(version: Version, held: Iterable[Version]) -> list[Version]:
    """The pending forms of a plain version."""
    return [other for other in held if other.flags & Flag.PENDING and plain(other) == version]


def decision_key(batch: bytes) -> bytes:
    return BATCH_KEYS + batch


def decision_draft(verdict: Verdict, expires_ms: int) -> Draft:
    """The record that decides a batch, to be agreed on."""
    return Draft(DECISION_NAME, int(Flag.ONCE), expires_ms, len(verdict.value), verdict.value)


def verdict_of(versions: Sequence[Version]) -> tuple[Verdict, Version] | None:
    """What was decided, by what stands under the name of decisions; None: nothing yet."""
    decisions = [version for version in versions if version.flags & Flag.ONCE and version.body in _BY_BODY]
    if not decisions:
        return None
    version = max(decisions, key=rank)
    return _BY_BODY[version.body], version


_BY_BODY: Final = {verdict.value: verdict for verdict in Verdict}
