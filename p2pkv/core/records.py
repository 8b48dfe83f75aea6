"""Records: the versions of a value, their signatures and their merge.

A key holds records; a record is called by its name (and, where it was put with `--own`, by its owner too, so two owners
never compete for one record). A version is one state of a record. Two replicas merge by taking, record by record,
the version of the highest rank: `rank` is a total order, so merging is commutative, associative and idempotent.

Owns what a version is and what is signed. Never touches storage, network, clock or randomness.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

import msgspec
from blake3 import blake3

from p2pkv import wire
from p2pkv.core.clock import CLOCK_MAX, clock_of, time_of
from p2pkv.errors import InvalidError, RemoteError
from p2pkv.ids import PUBLIC_KEY_BYTES
from p2pkv.limits import (
    BODY_BYTES_MAX,
    KEY_BYTES_MAX,
    META_BYTES_MAX,
    NAME_BYTES_MAX,
    SIGNATURE_BYTES_MAX,
    STOCK_VALUE_BYTES_MAX,
)

SIGNING_CONTEXT: Final = b"p2pkv record version 1\x00"
SPLIT_NAME: Final = b"\xff split"  # no UTF-8, so no user's record is called so
DECISION_NAME: Final = b"\xff decision"  # of a batch (core.atomic)
BATCH_ID_BYTES: Final = 16
HASH_BYTES: Final = 16
SIZE_BYTES_MAX: Final = (1 << 63) - 1


class Flag:
    """What a version is, as bits (plain numbers: an enum's operators cost a third of a put). Unknown bits are kept
    and signed, and mean nothing here."""

    TOMBSTONE: Final = 1  # deleted; body is empty
    CHUNKED: Final = 2  # body is an encoded ChunkList, not the value
    OWN: Final = 4  # only its author may replace or delete it
    ONCE: Final = 8  # write-once: chosen by consensus, never replaced
    STOCK: Final = 16  # put by a stock kademlia peer: unsigned, no author, name empty
    FILE: Final = 32  # a file of a folder: meta is an encoded FileMeta
    SEALED: Final = 64  # the content is encrypted; the key lies in the link
    SPLIT: Final = 128  # no record: its page is split (core.pages)
    PENDING: Final = 256  # waits in an atomic batch (core.atomic). Not signed: the plain version is the same without it


_MARKED: Final = Flag.OWN | Flag.PENDING
_UNSEEN: Final = Flag.TOMBSTONE | Flag.PENDING
_SPECIAL: Final = Flag.STOCK | Flag.SPLIT | Flag.PENDING


class Version(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One state of a record, as it is stored and sent. Field order is the wire's."""

    name: bytes  # UTF-8
    clock: int  # hybrid logical clock
    author: bytes  # Ed25519 public key; empty with STOCK
    flags: int
    expires_ms: int  # milliseconds since the epoch; 0 never
    size_bytes: int  # of the value, uncompressed
    body: bytes
    meta: bytes = b""
    signature: bytes = b""

    @property
    def owner(self) -> bytes:
        """Part of the record's identity: the author's key with OWN, empty for a shared record.

        A pending version has its batch's id behind it, so it lies beside the record that stands under its name.
        """
        if self.flags & _MARKED:
            return (self.author if self.flags & Flag.OWN else b"") + self.batch
        return b""

    @property
    def batch(self) -> bytes:
        """The batch that a pending version waits in; empty for every other."""
        return self.signature[:BATCH_ID_BYTES] if self.flags & Flag.PENDING else b""

    @property
    def pending(self) -> bool:
        return bool(self.flags & Flag.PENDING)

    @property
    def identity(self) -> tuple[bytes, bytes]:
        return self.name, self.owner

    @property
    def dead(self) -> bool:
        """There is nothing to show: it is deleted, or waits in a batch."""
        return bool(self.flags & _UNSEEN)

    @property
    def time_s(self) -> float:
        return time_of(self.clock)

    def expired(self, now_s: float) -> bool:
        return bool(self.expires_ms) and self.expires_ms <= now_s * 1000


class Cursor(msgspec.Struct, array_like=True, frozen=True, order=True, gc=False):
    """A position in a page: behind the record with this clock, name and owner.

    In time order records compare by (clock, name, owner), in name order by (name, owner) and the clock is ignored.
    """

    clock: int
    name: bytes
    owner: bytes = b""


class Period(msgspec.Struct, frozen=True):
    """A span of time: from `since_s` on and before `until_s`, in seconds since the epoch; None: no bound."""

    since_s: float | None = None
    until_s: float | None = None

    def begin(self, after: Cursor | None, *, reverse: bool) -> Cursor | None:
        """Where to begin to read in time order, so that nothing is read that lies before the period."""
        bound_s = self.until_s if reverse else self.since_s
        if bound_s is None:
            return after
        edge = Cursor(_clock_at(bound_s), b"") if reverse else Cursor(_clock_at(bound_s) - 1, _LAST_NAME)
        return edge if after is None else (min(after, edge) if reverse else max(after, edge))

    def ended(self, version: Version, *, reverse: bool) -> bool:
        """Does the version lie behind the period, in the direction of reading?"""
        if reverse:
            return self.since_s is not None and version.clock < _clock_at(self.since_s)
        return self.until_s is not None and version.clock >= _clock_at(self.until_s)


def _clock_at(time_s: float) -> int:
    """The first clock value of a moment; of one that no clock reaches, the nearest that is."""
    return clock_of(min(max(time_s, 0.0), time_of(CLOCK_MAX)))


ALWAYS = Period()
_LAST_NAME = b"\xff" * NAME_BYTES_MAX
_encoder = msgspec.msgpack.Encoder()
_encode, _binary_bytes = _encoder.encode, wire.binary_bytes
_HEAD_OF_8, _HEAD_OF_9 = wire.array_head(8), wire.array_head(9)
_SIGNED_HEAD: Final = SIGNING_CONTEXT + _HEAD_OF_9
_cursor_decoder = msgspec.msgpack.Decoder(Cursor)


def encode(version: Version) -> bytes:
    """The version as it is stored and sent; its length is the version's size wherever sizes are bounded."""
    return _encoder.encode(version)


def encoded_bytes(version: Version) -> int:
    """How many bytes the version takes in a message."""
    return len(encode(version))


def signed_bytes(key: bytes, version: Version, encoded: bytes = b"") -> bytes:
    """What the author signs: every field but the signature, bound to the key; and not that it waits in a batch.

    `encoded`: the version, where the caller has it encoded; here and below.
    """
    if version.flags & Flag.PENDING:
        version, encoded = msgspec.structs.replace(version, flags=version.flags & ~Flag.PENDING), b""
    return _SIGNED_HEAD + _encoder.encode(key) + _unsigned(version, encoded)


def content_of(version: Version, encoded: bytes = b"") -> bytes:
    """What tells two versions of one record apart, whatever replica they lie on: one array in msgpack."""
    if version.flags & Flag.PENDING:
        return _HEAD_OF_9 + _unsigned(version, encoded) + _encoder.encode(version.batch)
    return _HEAD_OF_8 + _unsigned(version, encoded)


def content_hash(version: Version, encoded: bytes = b"") -> bytes:
    """16 bytes that do the same."""
    return blake3(content_of(version, encoded)).digest(length=HASH_BYTES)


def _unsigned(version: Version, encoded: bytes) -> bytes:
    """The encoded fields between the head, which is one byte, and the signature, which is the last."""
    return (encoded or _encode(version))[1 : -_binary_bytes(len(version.signature))]


def rank(version: Version) -> tuple[bool, int, bytes, bytes]:
    """The total order of a record's versions. A write-once version outranks all: consensus chose it for ever."""
    return bool(version.flags & Flag.ONCE), version.clock, version.author, content_hash(version)


def merge(current: Version | None, incoming: Version) -> Version:
    """The version that both replicas keep."""
    if current is None or rank(incoming) > rank(current):
        return incoming
    return current


def version_token(version: Version) -> str:
    """The version as users see it, for compare-and-set: clock and content, in hex."""
    return f"{version.clock:016x}-{content_hash(version).hex()}"


def check_key(key: bytes) -> None:
    """Raise RemoteError where a key sent by a peer is out of bounds."""
    if not 0 < len(key) <= KEY_BYTES_MAX:
        raise RemoteError("malformed", f"key of {len(key)} bytes")


def check_shape(version: Version) -> None:
    """Raise RemoteError where a version breaks a bound. Says nothing of its signature."""
    if in_bounds(version):
        return  # the usual case; the rest finds out what is wrong with the others, and checks stock values
    flags = version.flags
    if flags & Flag.SPLIT or version.name == SPLIT_NAME:
        _check_split(version)
        return
    stock = bool(flags & Flag.STOCK)
    faults = (
        (len(version.name) > NAME_BYTES_MAX, "name too long"),
        (stock != (not version.name), "an empty name is for stock values alone"),
        (len(version.author) != (0 if stock else PUBLIC_KEY_BYTES), "author of a wrong length"),
        (len(version.body) > BODY_BYTES_MAX and not stock, "body too long"),
        (len(version.meta) > META_BYTES_MAX, "meta too long"),
        (len(version.signature) > SIGNATURE_BYTES_MAX, "signature too long"),
        (not 0 < version.clock <= CLOCK_MAX, "clock out of range"),
        (not 0 <= version.expires_ms <= CLOCK_MAX, "expiry out of range"),
        (not 0 <= version.size_bytes <= SIZE_BYTES_MAX, "size out of range"),
        (not 0 <= flags < 1 << 32, "flags out of range"),
        (bool(flags & Flag.TOMBSTONE and version.body), "a tombstone has no body"),
        (stock and bool(flags & (Flag.OWN | Flag.ONCE | Flag.CHUNKED)), "a stock value is plain"),
        (bool(flags & Flag.PENDING) and not _may_wait(version), "not a version that may wait in a batch"),
        (stock and not flags & Flag.TOMBSTONE and not _is_stock_value(version.body), "not a value of a stock peer"),
    )
    for broken, what in faults:
        if broken:
            raise RemoteError("malformed", what)


def in_bounds(version: Version) -> bool:
    """Is it a plain record of a p2pkv peer, with nothing wrong? Says nothing of its signature."""
    return (
        0 < len(version.name) <= NAME_BYTES_MAX
        and len(version.author) == PUBLIC_KEY_BYTES
        and len(version.body) <= BODY_BYTES_MAX
        and len(version.meta) <= META_BYTES_MAX
        and len(version.signature) <= SIGNATURE_BYTES_MAX
        and 0 < version.clock <= CLOCK_MAX  # none stands before a marker of a split
        and 0 <= version.expires_ms <= CLOCK_MAX
        and 0 <= version.size_bytes <= SIZE_BYTES_MAX
        and 0 <= version.flags < 1 << 32
        and not version.flags & _SPECIAL
        and version.name != SPLIT_NAME
        and not (version.flags & Flag.TOMBSTONE and version.body)
    )


def _may_wait(version: Version) -> bool:
    """Is it one of those that are merged, with a batch's id in front of its signature?"""
    merged = not version.flags & (Flag.STOCK | Flag.ONCE)
    return merged and version.name != DECISION_NAME and len(version.signature) > BATCH_ID_BYTES


def _is_stock_value(body: bytes) -> bool:
    """Is it one scalar in msgpack, within the bound? Anyone may send one: it is unsigned."""
    if len(body) > STOCK_VALUE_BYTES_MAX:
        return False
    try:
        wire.decoded(wire.decode_scalar, body)
    except RemoteError:
        return False
    return True


def _check_split(version: Version) -> None:
    """A split marker is one and the same whoever makes it; only its page differs, in `meta`."""
    flags = Flag.TOMBSTONE | Flag.SPLIT
    marker = Version(SPLIT_NAME, 0, b"", flags, 0, 0, b"", version.meta)
    if version != marker or len(version.meta) > META_BYTES_MAX:
        raise RemoteError("malformed", "not a split marker")


def encode_cursor(version: Version) -> str:
    """The position behind a version as an opaque text for users."""
    return urlsafe_b64encode(_encoder.encode(Cursor(version.clock, *version.identity))).decode().rstrip("=")


def decode_cursor(text: str) -> Cursor:
    """Raises InvalidError where the text is no cursor of ours."""
    try:
        return _cursor_decoder.decode(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, msgspec.MsgspecError) as error:
        raise InvalidError(
            f"not a cursor: {text!r}", "give `after` a cursor that an earlier answer returned"
        ) from error
