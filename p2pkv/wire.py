"""Every byte of a datagram that is not bulk transfer: frames, the extension behind them, the stock methods.

A frame is `type (1) | message id (20) | msgpack | extension msgpack | its length (2, big-endian) | 0xC1`. The first
three parts are rpcudp's; a stock peer ignores what follows the msgpack, and 0xC1 never ends one by itself that is
meant to be an extension, because the length before it must fit and the bytes must decode. Parsing raises RemoteError
and never any other error, whatever the bytes. Knows nothing of sockets, peers or who may do what.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, Generic, NamedTuple, NewType, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from p2pkv.errors import ERROR_CODES, RemoteError
from p2pkv.ids import ID_BYTES, PUBLIC_KEY_BYTES
from p2pkv.limits import (
    AMPLIFICATION_MAX,
    RPC_DATAGRAM_BYTES_MAX,
    RPC_EXTENSION_BYTES_MAX,
    RPC_PAYLOAD_BYTES_MAX,
)

REQUEST: Final = 0x00
REPLY: Final = 0x01
ERROR: Final = 0x02
SEALED: Final = 0x08  # reserved: a datagram under the swarm key
BULK_MIN: Final = 0x10  # this and above: bulk transfer

MESSAGE_ID_BYTES: Final = 20
HEAD_BYTES: Final = 1 + MESSAGE_ID_BYTES
VERSION: Final = 1
TRAILER_MARK: Final = 0xC1  # the one byte that msgpack never uses
_TAIL_BYTES: Final = 3  # length and mark

PROVE: Final = 1  # flag of a request: answer with the public key and a proof
BULK: Final = 4  # flag of both: this peer takes chunks by bulk transfer
EPHEMERAL: Final = 2  # flag of both: this peer stores nothing, keep it out of routing tables

PROOF_CONTEXT: Final = b"p2pkv proof of a node id 1\x00"
PROOF_BYTES: Final = 64
DETAIL_CHARS_MAX: Final = 200
PORT_MAX: Final = 65_535

# An answer of 20 nodes at 48 bytes, its extension with a proof (230), head and msgpack heads (30), a third of it.
PADDED_REQUEST_BYTES: Final = (20 * 48 + 230 + 30) // AMPLIFICATION_MAX

Id = Annotated[bytes, Meta(min_length=ID_BYTES, max_length=ID_BYTES)]
MessageID = NewType("MessageID", bytes)
Scalar = int | float | bool | str | bytes
"""What a stock peer may store."""
Plain = Any
"""What an `rpc_` method without types of its own takes and gives: scalars, None, and lists and maps of these."""
PLAIN_DEPTH_MAX: Final = 4


class NodeTuple(NamedTuple):
    """A peer as others name it."""

    node_id: bytes
    host: str  # a numeric address
    port: int


class Extension(Struct, array_like=True, frozen=True, gc=False):
    """What p2pkv peers say beside every message. Later versions append fields."""

    version: int
    node_id: Id
    flags: int = 0
    cookie_yours: Annotated[bytes, Meta(max_length=32)] = b""  # that the receiver gave to us
    cookie_for_you: Annotated[bytes, Meta(max_length=32)] = b""  # that the receiver shows from now on
    public_key: Annotated[bytes, Meta(max_length=PUBLIC_KEY_BYTES)] = b""
    proof: Annotated[bytes, Meta(max_length=PROOF_BYTES)] = b""
    padding: Annotated[bytes, Meta(max_length=RPC_EXTENSION_BYTES_MAX)] = b""


class Request(Struct, array_like=True, frozen=True, gc=False):
    """A call before its arguments are decoded."""

    method: Annotated[str, Meta(max_length=64)]
    args: Raw


class Fault(Struct, array_like=True, frozen=True, gc=False):
    """A typed error reply."""

    code: Annotated[str, Meta(max_length=32)]
    detail: Annotated[str, Meta(max_length=4 * DETAIL_CHARS_MAX)] = ""


class Frame(NamedTuple):
    """A datagram taken apart; the body is not decoded yet."""

    kind: int
    message_id: bytes
    body: bytes
    extension: Extension | None


class StunArgs(Struct, array_like=True, frozen=True, gc=False):
    pass


class PingArgs(Struct, array_like=True, frozen=True, gc=False):
    node_id: Id


class FindArgs(Struct, array_like=True, frozen=True, gc=False):
    node_id: Id
    target: Id


class StoreArgs(Struct, array_like=True, frozen=True, gc=False):
    node_id: Id
    place: Id
    value: Raw


Q = TypeVar("Q")
R = TypeVar("R")


class Method(Generic[Q, R]):
    """One of our own RPC methods: its name on the wire and the types of both messages."""

    __slots__ = ("name", "needs_cookie", "reply", "request")

    def __init__(self, name: str, request: type[Q], reply: type[R], needs_cookie: bool = True) -> None:
        """`needs_cookie`: answered only to a sender whose address is proven."""
        self.name = name
        self.request = request
        self.reply = reply
        self.needs_cookie = needs_cookie

    def __repr__(self) -> str:
        return f"Method({self.name})"


Decode = Callable[[Any], Any]
"""Bytes or Raw to a typed value; wrap it with `decoded`."""

_encoder = msgspec.msgpack.Encoder()
_encode = _encoder.encode
_decode_extension = msgspec.msgpack.Decoder(Extension).decode
_decode_request = msgspec.msgpack.Decoder(Request).decode
_decode_fault = msgspec.msgpack.Decoder(Fault).decode
_decode_any = msgspec.msgpack.Decoder().decode
_decode_list = msgspec.msgpack.Decoder(list[Raw]).decode
_decode_map = msgspec.msgpack.Decoder(dict[str, Raw]).decode
_GARBAGE = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError, TypeError)


def decoder_of(type_: Any) -> Decode:
    """A decoder of one type. It raises whatever msgspec raises: call it by `decoded`."""
    return msgspec.msgpack.Decoder(type_).decode


def decoded(decode: Decode, body: bytes | memoryview | Raw, code: str = "malformed") -> Any:
    """Decode, or raise RemoteError of this code."""
    try:
        return decode(body)
    except _GARBAGE as error:
        raise RemoteError(code, str(error)[:DETAIL_CHARS_MAX]) from None


def decode_scalar(body: bytes | Raw) -> Scalar:
    """A value that a stock peer may store. Raises ValueError for anything else; call it by `decoded`."""
    data = bytes(body)
    if not data or not _is_scalar(data[0]):
        raise ValueError("not an int, float, bool, str or bytes")
    value: Scalar = _decode_any(data)
    return value


def decode_plain(body: bytes | Raw, depth: int = PLAIN_DEPTH_MAX) -> Plain:
    """Scalars, None, lists and maps of a bounded depth. Raises ValueError and what msgspec raises."""
    data = bytes(body)
    if data and _is_array(data[0]) and depth:
        return [decode_plain(item, depth - 1) for item in _decode_list(data)]
    if data and _is_map(data[0]) and depth:
        return {key: decode_plain(item, depth - 1) for key, item in _decode_map(data).items()}
    return None if data == b"\xc0" else decode_scalar(data)


def _is_array(head: int) -> bool:
    return 0x90 <= head <= 0x9F or head in {0xDC, 0xDD}


def _is_map(head: int) -> bool:
    return 0x80 <= head <= 0x8F or head in {0xDE, 0xDF}


def _is_scalar(head: int) -> bool:
    """By the first byte of msgpack; what remains is nil, the unused 0xC1 and extension types."""
    other = head in {0xC0, 0xC1} or 0xC7 <= head <= 0xC9 or 0xD4 <= head <= 0xD8
    return not (other or _is_array(head) or _is_map(head))


def encode(value: object) -> bytes:
    """A value as msgpack that every msgpack library reads."""
    return _encode(value)


def array_head(count: int) -> bytes:
    """What stands before the elements of an array in msgpack."""
    if count < 16:
        return bytes((0x90 | count,))
    return b"\xdc" + count.to_bytes(2, "big") if count < 1 << 16 else b"\xdd" + count.to_bytes(4, "big")


def binary_bytes(size_bytes: int) -> int:
    """How many bytes a byte string takes in msgpack."""
    return size_bytes + (2 if size_bytes < 1 << 8 else 3 if size_bytes < 1 << 16 else 5)


# --- parsing ---


def parse_frame(datagram: bytes) -> Frame:
    """Take a request, reply or error apart. Raises RemoteError("malformed")."""
    size = len(datagram)
    if not HEAD_BYTES < size <= RPC_DATAGRAM_BYTES_MAX or datagram[0] > ERROR:
        raise RemoteError("malformed", "not a frame")
    extension: Extension | None = None
    end = size
    if datagram[-1] == TRAILER_MARK:
        begin = size - _TAIL_BYTES - (datagram[-3] << 8 | datagram[-2])
        if begin > HEAD_BYTES and size - begin <= RPC_EXTENSION_BYTES_MAX + _TAIL_BYTES:
            try:
                extension = _decode_extension(datagram[begin:-_TAIL_BYTES])
                end = begin
            except _GARBAGE:
                pass  # a stock peer's message that happens to end like this
    if end - HEAD_BYTES > RPC_PAYLOAD_BYTES_MAX:
        raise RemoteError("malformed", "payload too long")
    return Frame(datagram[0], datagram[1:HEAD_BYTES], datagram[HEAD_BYTES:end], extension)


def parse_request(body: bytes) -> Request:
    """The method's name and its arguments, still encoded. Raises RemoteError("malformed")."""
    request: Request = decoded(_decode_request, body)
    return request


def parse_fault(body: bytes) -> RemoteError:
    """The error that a typed error reply stands for. A code that we do not know, or that is ours alone, is `failed`."""
    fault: Fault = decoded(_decode_fault, body, "misbehaved")
    known = fault.code in ERROR_CODES and fault.code not in {"silent", "misbehaved"}
    return RemoteError(fault.code if known else "failed", fault.detail[:DETAIL_CHARS_MAX])


# --- building ---


def trailer(extension: Extension) -> bytes:
    """The extension as it stands behind every frame."""
    encoded = _encode(extension)
    assert len(encoded) <= RPC_EXTENSION_BYTES_MAX
    return encoded + len(encoded).to_bytes(2, "big") + bytes((TRAILER_MARK,))


def padded_trailer(extension: Extension, frame_bytes: int) -> bytes:
    """The same, filled up so that the whole frame entitles us to a full answer before our address is proven."""
    plain = trailer(extension)
    missing = PADDED_REQUEST_BYTES - frame_bytes - len(plain)
    if missing <= 0:
        return plain
    return trailer(msgspec.structs.replace(extension, padding=bytes(missing)))


def request_body(method: str, args: object) -> bytes:
    """Raises ValueError where the arguments do not fit a datagram: our own caller's mistake."""
    body = _encode((method, args))
    if len(body) > RPC_PAYLOAD_BYTES_MAX:
        raise ValueError(f"{method} takes {len(body)} bytes, {RPC_PAYLOAD_BYTES_MAX} fit")
    return body


def request_frame(message_id: bytes, body: bytes, trailer_: bytes) -> bytes:
    return b"\x00" + message_id + body + trailer_


def reply_frame(message_id: bytes, body: bytes, trailer_: bytes) -> bytes:
    return b"\x01" + message_id + body + trailer_


def fault_frame(message_id: bytes, error: RemoteError, trailer_: bytes) -> bytes:
    return b"\x02" + message_id + _encode((error.code, error.detail[:DETAIL_CHARS_MAX])) + trailer_


def proof_text(message_id: bytes, prover_id: bytes, asker_id: bytes) -> bytes:
    """What a peer signs to prove its NodeID: bound to one question of one asker."""
    return PROOF_CONTEXT + message_id + prover_id + asker_id
