"""Sealing of a file's content before it leaves (`upload --encrypt`).

A link's key is 32 random bytes, kept in the link alone: one for a file, or one for all files of a folder. Each upload
of a file has its own random 16-byte salt, kept in the file's meta. From key || salt BLAKE3's key derivation makes two
keys: the AES-256-GCM key of the chunks, and the key of the whole-file hash (a plain hash would tell anyone who
guesses the content that the guess is right).

    sealed payload = AES-256-GCM ciphertext || 16-byte tag
    nonce          = the chunk's first byte's offset in the plain file, 12 bytes, big-endian
    associated     = the codec byte

The offset is unique among a file's chunks and the salt is new for each upload, so no nonce repeats under a derived key.
It also ties a chunk to its place: chunks that were swapped or taken from elsewhere do not open.

Takes key and salt as arguments; makes no randomness.
"""

from __future__ import annotations

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from p2pkv.errors import DamagedError

SEAL_KEY_BYTES = 32
SALT_BYTES = 16
TAG_BYTES = 16
_NONCE_BYTES = 12
_CONTENT_CONTEXT = "p2pkv 2026 sealed file content"
_HASH_CONTEXT = "p2pkv 2026 sealed file hash"


class Seal:
    """Seals and opens the chunks of one file."""

    def __init__(self, key: bytes, salt: bytes) -> None:
        assert len(key) == SEAL_KEY_BYTES
        self._aead = AESGCM(blake3(key + salt, derive_key_context=_CONTENT_CONTEXT).digest())
        self._hash_key = blake3(key + salt, derive_key_context=_HASH_CONTEXT).digest()

    def close(self, offset: int, codec: int, payload: bytes) -> bytes:
        """Seal the chunk whose plain bytes begin at `offset`."""
        return self._aead.encrypt(offset.to_bytes(_NONCE_BYTES, "big"), payload, bytes([codec]))

    def open(self, offset: int, codec: int, sealed: bytes | memoryview) -> bytes:
        """The payload. Raises DamagedError where it is not what was sealed for this place with this key."""
        try:
            return self._aead.decrypt(offset.to_bytes(_NONCE_BYTES, "big"), bytes(sealed), bytes([codec]))
        except InvalidTag:
            raise DamagedError("the content does not open with this key", "check the key in the link") from None

    def hasher(self) -> blake3:
        """A keyed hash for the whole content."""
        return blake3(key=self._hash_key)


def content_hasher(seal: Seal | None) -> blake3:
    """The hash of a file's whole plain content: keyed where the file is sealed."""
    return seal.hasher() if seal else blake3()
