"""Batch signatures: every version verifiable by itself, nothing else passes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pkv.core.batches import Batch, root_of
from p2pkv.core.records import Version, signed_bytes
from p2pkv.limits import BATCH_SIGNED_MAX, SIGNATURE_BYTES_MAX
from p2pkv.swarm import signing
from p2pkv.swarm.identity import Identity

AUTHOR, OTHER = Identity(bytes(range(32))), Identity(bytes(range(1, 33)))
SIGNED = bytes(64)


def unsigned(number: int, author: Identity = AUTHOR) -> Version:
    return Version(b"n%d" % number, 1000 + number, author.public_key, 0, 0, 1, b"%d" % number)


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=BATCH_SIGNED_MAX))
def test_every_text_leads_to_the_root(texts: list[bytes]) -> None:
    batch = Batch(texts)
    assert {root_of(text, batch.signature(n, SIGNED)) for n, text in enumerate(texts)} == {batch.root}


@given(st.lists(st.binary(max_size=9), min_size=2, max_size=BATCH_SIGNED_MAX, unique=True), st.data())
def test_another_text_or_place_leads_elsewhere(texts: list[bytes], data: st.DataObject) -> None:
    batch = Batch(texts)
    index, other = data.draw(st.permutations(range(len(texts))))[:2]
    assert root_of(texts[other], batch.signature(index, SIGNED)) != batch.root
    assert root_of(texts[index] + b"x", batch.signature(index, SIGNED)) != batch.root


@given(st.binary(max_size=SIGNATURE_BYTES_MAX))
def test_garbage_is_no_signature_and_no_crash(garbage: bytes) -> None:
    assert not signing.genuine(b"key", msgspec.structs.replace(unsigned(1), signature=garbage))


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 100])
def test_versions_signed_together_hold_one_by_one_and_under_their_key_alone(count: int) -> None:
    versions = signing.sign(AUTHOR, b"key", [unsigned(number) for number in range(count)])
    assert all(signing.genuine(b"key", version) for version in versions)
    assert not any(signing.genuine(b"another key", version) for version in versions)
    for version in versions:
        for changes in ({"body": b"forged"}, {"clock": 1}, {"author": OTHER.public_key}, {"name": b"else"}):
            assert not signing.genuine(b"key", msgspec.structs.replace(version, **changes))
    assert max(len(version.signature) for version in versions) <= 64 + 1 + 16 * 5


def test_a_plain_signature_stays_what_it_was() -> None:
    (version,) = signing.sign(AUTHOR, b"key", [unsigned(1)])
    assert version.signature == AUTHOR.sign(signed_bytes(b"key", version))
