"""Batch signatures: every version verifiable by itself, nothing else passes."""

from __future__ import annotations

from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pkv.core.batches import Batch, Proofs
from p2pkv.core.records import Version, signed_bytes
from p2pkv.limits import BATCH_SIGNED_MAX, SIGNATURE_BYTES_MAX
from p2pkv.swarm import signing
from p2pkv.swarm.identity import Identity

AUTHOR, OTHER = Identity(bytes(range(32))), Identity(bytes(range(1, 33)))
SIGNED = bytes(64)


def unsigned(number: int, author: Identity = AUTHOR) -> Version:
    return Version(b"n%d" % number, 1000 + number, author.public_key, 0, 0, 1, b"%d" % number)


def holds(proofs: Proofs, batch: Batch, text: bytes, signature: bytes) -> bool:
    return proofs.hold(AUTHOR.public_key, text, signature, lambda root: root == batch.root)


unique_texts = st.lists(st.binary(max_size=9), min_size=2, max_size=BATCH_SIGNED_MAX, unique=True)


@given(unique_texts, st.randoms(use_true_random=False))
def test_every_text_holds_in_whatever_order_they_come(texts: list[bytes], random: Random) -> None:
    batch, proofs = Batch(texts), Proofs()
    for number in random.sample(range(len(texts)), len(texts)):
        assert holds(proofs, batch, texts[number], batch.signature(number, SIGNED))


@given(unique_texts, st.data())
def test_another_text_place_or_path_does_not_hold_whatever_was_proven_before(
    texts: list[bytes], data: st.DataObject
) -> None:
    batch, proofs = Batch(texts), Proofs()
    index, other = data.draw(st.permutations(range(len(texts))))[:2]
    for proven in data.draw(st.sets(st.integers(0, len(texts) - 1))):
        assert holds(proofs, batch, texts[proven], batch.signature(proven, SIGNED))
    signature = batch.signature(index, SIGNED)
    assert not holds(proofs, batch, texts[other], signature)
    assert not holds(proofs, batch, texts[index] + b"x", signature)
    at = data.draw(st.integers(65, len(signature) - 1))  # the last of an odd level has two numbers
    damaged = signature[:at] + bytes([signature[at] ^ data.draw(st.integers(1, 255))]) + signature[at + 1 :]
    assert not holds(proofs, batch, texts[index], damaged)


def test_what_is_remembered_of_trees_is_bounded() -> None:
    proofs = Proofs(trees_max=2)
    asked: list[bytes] = []
    for number in (0, 1, 2, 0):
        batch = Batch([b"%d" % number, b"else"])
        signature = batch.signature(0, number.to_bytes(64, "big"))
        assert proofs.hold(AUTHOR.public_key, b"%d" % number, signature, lambda root: not asked.append(root))
    assert len(asked) == 4


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
