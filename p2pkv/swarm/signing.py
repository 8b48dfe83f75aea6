"""Are versions signed by their authors? One by one, or many under one signature.

Remembers which batches were found to be signed, so that each costs one verification wherever its versions arrive one
after the other. Decides nothing about what is done with a version.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import msgspec

from p2pkv.core import batches
from p2pkv.core.pages import path_of
from p2pkv.core.records import Flag, Version, signed_bytes
from p2pkv.limits import BATCH_ROOTS_KEPT_MAX, BATCH_SIGNED_MAX
from p2pkv.swarm.identity import Identity, verify


def genuine(key: bytes, version: Version, encoded: bytes = b"") -> bool:
    """Was the version signed by its author? A stock peer's value and a split marker claim none.

    `encoded`: the version, where the caller has it encoded.
    """
    if version.flags & (Flag.STOCK | Flag.SPLIT):
        return True
    text = signed_bytes(key, version, encoded)
    signature = version.signature[len(version.batch) :] if version.pending else version.signature
    if len(signature) == batches.SIGNATURE_BYTES:
        return verify(version.author, text, signature)
    of_root = signature[: batches.SIGNATURE_BYTES]
    return _proofs.hold(version.author, text, signature, lambda root: _root_signed(version.author, root, of_root))


_proofs = batches.Proofs()


@lru_cache(BATCH_ROOTS_KEPT_MAX)
def _root_signed(author: bytes, root: bytes, signature: bytes) -> bool:
    return verify(author, batches.root_text(root), signature)


def sign(identity: Identity, key: bytes, unsigned: Sequence[Version]) -> list[Version]:
    """The versions with their author's signatures: a plain one for one alone, else one signature for many."""
    if len(unsigned) == 1:
        signature = identity.sign(signed_bytes(key, unsigned[0]))
        return [msgspec.structs.replace(unsigned[0], signature=signature)]
    order = sorted(range(len(unsigned)), key=lambda index: path_of(unsigned[index].name))
    signed: dict[int, Version] = {}
    for start in range(0, len(unsigned), BATCH_SIGNED_MAX):
        part = order[start : start + BATCH_SIGNED_MAX]  # of few pages, so that one replica gets most of them
        signed.update(zip(part, _sign_batch(identity, key, [unsigned[index] for index in part]), strict=True))
    return [signed[index] for index in range(len(unsigned))]


def _sign_batch(identity: Identity, key: bytes, unsigned: Sequence[Version]) -> list[Version]:
    batch = batches.Batch([signed_bytes(key, version) for version in unsigned])
    of_root = identity.sign(batches.root_text(batch.root))
    replace = msgspec.structs.replace
    return [replace(version, signature=batch.signature(index, of_root)) for index, version in enumerate(unsigned)]
