"""Agreement on one record among its replicas: CASPaxos (Rystsov 2018), without leaders and without a log.

Theory of operation. Write-once and compare-and-set must not tell two racing writers yes, which merging alone would do.
A record has one register; its acceptors are the k peers nearest to a place that key and name alone decide. A proposer
asks a majority to promise its ballot (phase 1), learns the state from the highest accepted ballot, applies its change
to it, and has a majority accept the result at its ballot (phase 2); then the version is chosen, and is stored like any
other, by its proposer or by whoever meets it on the way. A proposer that meets its own version was successful; one that
meets another's, after its own may have been accepted somewhere, does not know whether that stood in between, and says
so. A refusal too is only told after the state that it rests on was accepted by a majority at the proposer's ballot:
else it could rest on one that vanishes.

What is in the register but not yet chosen is never shown to readers: they read pages, and a version enters its page
only once it is chosen. What was written without consensus counts too: proposers read the pages beside the promises.

Acceptors change as peers come and go. What one knows of a register another one may merge with what it knows; who has to
do so before its first vote, and why that is enough while they change one after the other, says `swarm/catching_up.py`.
Owns no network, no clock, no storage.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from p2pkv.core.records import Flag, Version, content_hash, rank
from p2pkv.limits import BALLOT_STEP_MAX

Ballot = tuple[int, bytes]
"""A number that only grows, and the NodeID of the proposer to tell equal numbers apart."""

NO_BALLOT: Ballot = (0, b"")


class AcceptorState(msgspec.Struct, array_like=True, frozen=True):
    """What one acceptor must remember durably before it answers."""

    promised: Ballot = NO_BALLOT
    accepted_ballot: Ballot = NO_BALLOT
    accepted: Version | None = None
    key: bytes = b""  # of the record: whoever takes the register over checks place and signature by it

    def encode(self) -> bytes:
        return _encoder.encode(self)

    @classmethod
    def decode(cls, state: bytes | None) -> AcceptorState:
        return _decoder.decode(state) if state else cls()

    def promise(self, ballot: Ballot) -> AcceptorState | None:
        """The state after a promise; None where a higher ballot was promised already, or this one leaps too far."""
        if ballot <= self.promised or self._leaps(ballot):
            return None
        return msgspec.structs.replace(self, promised=ballot)

    def accept(self, ballot: Ballot, version: Version) -> AcceptorState | None:
        """The state after accepting; None where a higher ballot was promised, or this one leaps too far."""
        if ballot < self.promised or self._leaps(ballot):
            return None
        return AcceptorState(ballot, ballot, version, self.key)

    def merge(self, other: AcceptorState) -> AcceptorState:
        """What both know of one register: commutative, associative, idempotent, and never less than either."""
        newer = max(self, other, key=_order)
        return AcceptorState(
            max(self.promised, other.promised), newer.accepted_ballot, newer.accepted, max(self.key, other.key)
        )

    def _leaps(self, ballot: Ballot) -> bool:
        return ballot[0] > self.promised[0] + BALLOT_STEP_MAX


def _order(state: AcceptorState) -> tuple[Ballot, bytes]:
    """Of two accepted versions the one of the higher ballot counts; a ballot has one version, unless somebody lies."""
    return state.accepted_ballot, content_hash(state.accepted) if state.accepted is not None else b""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(AcceptorState)


class Learnt(msgspec.Struct, frozen=True):
    """What a majority of promises says of the record."""

    current: Version | None  # None: there was never one
    settled: bool  # it stands in the page of some replica: its writer was told, or it came by an ordinary put


def learn(accepted: Sequence[tuple[Ballot, Version | None]], standing: Sequence[Version]) -> Learnt:
    """The record's state from the promises: the highest accepted ballot's version, or a higher-ranked one of a page."""
    _, chosen = max(accepted, key=lambda pair: pair[0], default=(NO_BALLOT, None))
    page = max(standing, key=rank, default=None)
    if page is not None and (chosen is None or rank(page) >= rank(chosen)):
        return Learnt(page, settled=True)
    return Learnt(chosen, settled=chosen is None)


def exists(version: Version | None, now_s: float) -> bool:
    """Is there a record? A tombstone or an expired version is none; a write-once record stays one for ever."""
    if version is None:
        return False
    return bool(version.flags & Flag.ONCE) or not (version.dead or version.expired(now_s))
