"""Pending versions and decisions: one signature, two identities, and nothing that a merge could confuse."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pkv.core.atomic import Verdict, decision_draft, in_the_way, pending, plain, twins, verdict_of
from p2pkv.core.records import (
    BATCH_ID_BYTES,
    DECISION_NAME,
    SIGNING_CONTEXT,
    Flag,
    Version,
    check_shape,
    content_hash,
    merge,
    signed_bytes,
)
from p2pkv.errors import RemoteError

AUTHORS = st.sampled_from([b"a" * 32, b"b" * 32])
BATCHES = st.sampled_from([b"1" * BATCH_ID_BYTES, b"2" * BATCH_ID_BYTES])
VERSIONS = st.builds(
    Version,
    name=st.sampled_from([b"x", b"y"]),
    clock=st.integers(1, 5),
    author=AUTHORS,
    flags=st.sampled_from([0, Flag.OWN, Flag.FILE, Flag.SEALED | 1 << 20]),
    expires_ms=st.just(0),
    size_bytes=st.just(1),
    body=st.binary(max_size=2),
    meta=st.binary(max_size=2),
    signature=st.binary(min_size=64, max_size=64),
)


@given(VERSIONS, BATCHES)
def test_a_pending_version_is_the_plain_one_with_a_mark(version: Version, batch: bytes) -> None:
    waits = pending(version, batch)
    check_shape(waits)
    assert plain(waits) == version and plain(version) == version
    assert signed_bytes(b"k", waits) == signed_bytes(b"k", version) and SIGNING_CONTEXT in signed_bytes(b"k", waits)
    assert (waits.batch, version.batch) == (batch, b"")
    assert waits.dead and not version.dead
    assert content_hash(waits) != content_hash(version)
    assert waits.identity != version.identity and waits.name == version.name


@given(VERSIONS, VERSIONS, BATCHES, BATCHES)
def test_versions_of_other_batches_and_owners_never_merge(
    one: Version, other: Version, batch: bytes, another: bytes
) -> None:
    first, second = pending(one, batch), pending(other, another)
    same = one.identity == other.identity and batch == another
    assert (first.identity == second.identity) == same
    if same:
        assert plain(merge(first, second)).clock == max(one.clock, other.clock)


@given(VERSIONS, st.lists(VERSIONS, max_size=4), BATCHES)
def test_a_pending_version_yields_to_nothing_of_a_lower_rank(
    version: Version, held: list[Version], batch: bytes
) -> None:
    waits = pending(version, batch)
    standing = in_the_way(waits, [*held, pending(version, b"3" * BATCH_ID_BYTES)])
    ours = [other for other in held if other.identity == version.identity]
    if standing is None:
        assert all(merge(other, version) == version for other in ours if other != version)
        assert version not in ours
    else:
        assert standing in ours and merge(version, standing).clock == standing.clock
    assert twins(version, [*held, waits]) == [waits]


@pytest.mark.parametrize("flag", [Flag.ONCE, Flag.STOCK, Flag.SPLIT])
def test_what_cannot_wait_is_refused(flag: int) -> None:
    version = Version(b"x", 1, b"a" * 32, flag | Flag.PENDING, 0, 1, b"1", signature=b"s" * 80)
    with pytest.raises(RemoteError):
        check_shape(version)


def test_a_pending_version_without_a_batch_is_refused() -> None:
    version = Version(b"x", 1, b"a" * 32, Flag.PENDING, 0, 1, b"1", signature=b"s" * BATCH_ID_BYTES)
    with pytest.raises(RemoteError):
        check_shape(version)


def test_a_decision_is_read_as_it_was_made_and_nothing_else_is_one() -> None:
    def decided(verdict: Verdict, clock: int) -> Version:
        draft = decision_draft(verdict, 5)
        return Version(draft.name, clock, b"a" * 32, draft.flags, draft.expires_ms, draft.size_bytes, draft.body)

    committed = decided(Verdict.COMMITTED, 3)
    assert committed.name == DECISION_NAME
    assert verdict_of([committed]) == (Verdict.COMMITTED, committed)
    assert verdict_of([]) is None
    forged = msgspec.structs.replace(decided(Verdict.ABORTED, 9), flags=0)
    assert verdict_of([forged, committed]) == (Verdict.COMMITTED, committed)
    assert verdict_of([msgspec.structs.replace(committed, body=b"perhaps")]) is None
