"""A peer's Ed25519 identity: its key, its NodeID, signing and verifying.

Owns the key file. A key once made is never replaced: a damaged file is an error for the user to mend.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey

from p2pkv.errors import P2pkvError
from p2pkv.ids import PUBLIC_KEY_BYTES, NodeID, PublicKey, node_id_of

SEED_BYTES = 32
SIGNATURE_BYTES = 64
KEYS_REMEMBERED_MAX = 4096


class Identity:
    """A key pair and the NodeID that follows from it."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._key = SigningKey(seed)
        self.public_key = PublicKey(bytes(self._key.verify_key))
        self.node_id: NodeID = node_id_of(self.public_key)

    @classmethod
    def generate(cls, random_bytes: Callable[[int], bytes] = os.urandom) -> Identity:
        return cls(random_bytes(SEED_BYTES))

    @classmethod
    def load_or_create(cls, path: Path) -> Identity:
        """The identity of a key file; where there is none, a new one. Raises P2pkvError where the file is damaged."""
        try:
            seed = path.read_bytes()
        except FileNotFoundError:
            identity = cls.generate()
            identity._save(path)
            return identity
        except OSError as error:
            raise P2pkvError(
                f"cannot read the key {path}: {error.strerror}", "make it readable for this user"
            ) from error
        if len(seed) != SEED_BYTES:
            raise P2pkvError(
                f"the key {path} is damaged ({len(seed)} bytes, not {SEED_BYTES})",
                "restore it from a backup, or remove it to become a new peer",
            )
        return cls(seed)

    def _save(self, path: Path) -> None:
        """Whole or not at all, and readable by its owner alone."""
        draft = path.with_name(path.name + ".new")
        try:
            draft.unlink(missing_ok=True)
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(self._seed)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError as error:
            raise P2pkvError(
                f"cannot write the key {path}: {error.strerror}", "choose a home that is writable"
            ) from error

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        return self._key.sign(message).signature

    def __repr__(self) -> str:
        return f"Identity({self.node_id.hex()})"


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Does the signature hold? False for keys and signatures of a wrong length too."""
    if len(public_key) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        crypto_sign_open(signature + message, public_key)
    except BadSignatureError:
        return False
    return True


@lru_cache(KEYS_REMEMBERED_MAX)
def is_key_of(public_key: bytes, node_id: bytes) -> bool:
    """Does the NodeID follow from the key?"""
    return len(public_key) == PUBLIC_KEY_BYTES and node_id_of(PublicKey(public_key)) == node_id
