"""The byte layout of bulk packets. Everything is big-endian; the first byte is the type, at least 0x10.

    HELLO   type 1, version 1, 0 2, initiator's id 8, zeros to 64      may I? (never larger answers than questions)
    COOKIE  type 1, version 1, 0 2, initiator's id 8, responder's id 8, epoch 4, proof 16
    OPEN    the same fields as COOKIE: the initiator brings them back
    DATA    type 1, 0 1, span 2, id 8, number 4, stream 4, offset 4, size 4, then bytes of the message of that size
    ACK     type 1, buffer 1, count 2, id 8, number 4, delay 4 (microseconds), credit 8, count times (first 4, last 4)
    PING    type 1, 0 1, span 2, id 8, number 4, then padding of any length
    RESET   type 1, code's length 1, span 2, id 8, number 4, stream 4, cost 4, code, detail
    CLOSE   type 1, code's length 1, 0 2, id 8, number 4, code
    LOST    type 1, 0 1, 0 2, id 8: the sender knows no connection of this id, which it was sent

The id is the receiver's own name for the connection, except in LOST. DATA, PING and RESET share one sequence of
numbers and are acknowledged; ACK and CLOSE count for themselves. `span` says how many numbers below this one may
still be under way, so that the receiver forgets what lies further back. `buffer` is the binary logarithm of the
receiver's socket buffer.

Owns offsets and lengths. `parse` raises RemoteError("malformed") and nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from p2pkv.errors import ERROR_CODES, RemoteError
from p2pkv.limits import BULK_ACK_RANGES_MAX, BULK_DETAIL_BYTES_MAX, BULK_MESSAGE_BYTES_MAX

Buffer = bytes | bytearray | memoryview

VERSION: Final = 1
HELLO, COOKIE, OPEN, DATA, ACK, PING, RESET, CLOSE, LOST = range(0x10, 0x19)
NUMBERED: Final = frozenset({DATA, PING, RESET})
OF_CONNECTION: Final = frozenset({DATA, ACK, PING, RESET, CLOSE})
HELLO_BYTES: Final = 64
PROOF_BYTES: Final = 16

_PREFIX: Final = struct.Struct(">BBHQ")
_NUMBERED: Final = struct.Struct(">BBHQI")
_DATA: Final = struct.Struct(">BBHQIIII")
_ACK: Final = struct.Struct(">BBHQIIQ")
_RESET: Final = struct.Struct(">BBHQIII")
_COOKIE: Final = struct.Struct(f">BBHQQI{PROOF_BYTES}s")
PREFIX_BYTES: Final = _PREFIX.size
DATA_HEAD_BYTES: Final = _DATA.size
PING_HEAD_BYTES: Final = _NUMBERED.size
ACK_HEAD_BYTES: Final = _ACK.size


@dataclass(slots=True)
class Hello:
    initiator: int


@dataclass(slots=True)
class Cookie:
    """COOKIE and OPEN alike."""

    initiator: int
    responder: int
    epoch: int
    proof: bytes


@dataclass(slots=True)
class Data:
    span: int
    number: int
    stream: int
    offset: int
    size: int
    payload: memoryview


@dataclass(slots=True)
class Ack:
    number: int
    delay_s: float
    credit: int
    buffer_bytes: int
    ranges: list[tuple[int, int]]  # ascending, the end outside


@dataclass(slots=True)
class Ping:
    span: int
    number: int
    size: int


@dataclass(slots=True)
class Reset:
    span: int
    number: int
    stream: int
    cost: int  # what the stream's requester was charged
    code: str
    detail: str


@dataclass(slots=True)
class Close:
    code: str


Packet = Data | Ack | Ping | Reset | Close


def kind_of(packet: Buffer) -> tuple[int, int]:
    """Type and id of any packet. Raises RemoteError."""
    if len(packet) < _PREFIX.size:
        raise RemoteError("malformed", f"bulk packet of {len(packet)} bytes")
    kind, _, _, connection = _PREFIX.unpack_from(packet)
    return kind, connection


def hello(initiator: int) -> bytes:
    return _PREFIX.pack(HELLO, VERSION, 0, initiator).ljust(HELLO_BYTES, b"\0")


def cookie(kind: int, fields: Cookie) -> bytes:
    """`kind` is COOKIE or OPEN."""
    return _COOKIE.pack(kind, VERSION, 0, fields.initiator, fields.responder, fields.epoch, fields.proof)


def data_head(span: int, connection: int, number: int, stream: int, offset: int, size: int) -> bytes:
    """What stands before the bytes of a message."""
    return _DATA.pack(DATA, 0, span, connection, number, stream, offset, size)


def ack(connection: int, fields: Ack) -> bytes:
    buffer = max(fields.buffer_bytes, 1).bit_length() - 1
    delay = min(int(fields.delay_s * 1e6), (1 << 32) - 1)
    head = _ACK.pack(ACK, buffer, len(fields.ranges), connection, fields.number, delay, fields.credit)
    numbers = [number for start, end in fields.ranges for number in (start, end - 1)]
    return head + struct.pack(f">{len(numbers)}I", *numbers)


def ping(span: int, connection: int, number: int, size: int = 0) -> bytes:
    """Padded to `size` bytes altogether."""
    return _NUMBERED.pack(PING, 0, span, connection, number).ljust(size, b"\0")


def reset(connection: int, fields: Reset) -> bytes:
    raw = fields.code.encode()
    text = fields.detail.encode()[:BULK_DETAIL_BYTES_MAX]
    return _RESET.pack(RESET, len(raw), fields.span, connection, fields.number, fields.stream, fields.cost) + raw + text


def close(connection: int, number: int, code: str) -> bytes:
    raw = code.encode()
    return _NUMBERED.pack(CLOSE, len(raw), 0, connection, number) + raw


def lost(connection: int) -> bytes:
    return _PREFIX.pack(LOST, 0, 0, connection)


def parse_hello(packet: Buffer) -> Hello:
    if len(packet) != HELLO_BYTES:
        raise RemoteError("malformed", "hello of a wrong length")
    _, version, _, initiator = _PREFIX.unpack_from(packet)
    if version != VERSION:
        raise RemoteError("malformed", f"bulk version {version}")
    return Hello(initiator)


def parse_cookie(packet: Buffer) -> Cookie:
    """COOKIE and OPEN alike."""
    if len(packet) != _COOKIE.size:
        raise RemoteError("malformed", "cookie of a wrong length")
    _, version, _, initiator, responder, epoch, proof = _COOKIE.unpack(packet)
    if version != VERSION:
        raise RemoteError("malformed", f"bulk version {version}")
    return Cookie(initiator, responder, epoch, proof)


def parse(packet: Buffer) -> Packet:
    """A packet of a connection: DATA, ACK, PING, RESET or CLOSE. Raises RemoteError."""
    try:
        return _PARSERS[packet[0]](packet)
    except (KeyError, IndexError, struct.error, UnicodeDecodeError) as error:
        raise RemoteError("malformed", f"bulk packet of {len(packet)} bytes") from error


def parse_data(packet: Buffer) -> Data:
    """By itself, for speed: most packets are of this type. Raises RemoteError."""
    if len(packet) <= DATA_HEAD_BYTES:
        raise RemoteError("malformed", f"bulk packet of {len(packet)} bytes")
    _, _, span, _, number, stream, offset, size = _DATA.unpack_from(packet)
    payload = memoryview(packet)[DATA_HEAD_BYTES:]
    if not (0 < len(payload) <= size - offset and size <= BULK_MESSAGE_BYTES_MAX):
        raise RemoteError("malformed", "bytes outside of their message")
    return Data(span, number, stream, offset, size, payload)


def _parse_ack(packet: Buffer) -> Ack:
    _, buffer, count, _, number, delay, credit = _ACK.unpack_from(packet)
    if count > BULK_ACK_RANGES_MAX or len(packet) != ACK_HEAD_BYTES + 8 * count or buffer > 40:
        raise RemoteError("malformed", f"ack of {count} ranges")
    numbers = struct.unpack_from(f">{2 * count}I", packet, ACK_HEAD_BYTES)
    if any(one >= other for one, other in zip(numbers[1::2], numbers[2::2], strict=False)) or any(
        first > last for first, last in zip(numbers[::2], numbers[1::2], strict=True)
    ):
        raise RemoteError("malformed", "ack ranges out of order")
    ranges = [(first, last + 1) for first, last in zip(numbers[::2], numbers[1::2], strict=True)]
    return Ack(number, delay / 1e6, credit, 1 << buffer, ranges)


def _parse_ping(packet: Buffer) -> Ping:
    _, _, span, _, number = _NUMBERED.unpack_from(packet)
    return Ping(span, number, len(packet))


def _parse_reset(packet: Buffer) -> Reset:
    _, length, span, _, number, stream, cost = _RESET.unpack_from(packet)
    text = bytes(packet[_RESET.size :])
    if length > len(text) or len(text) > length + BULK_DETAIL_BYTES_MAX:
        raise RemoteError("malformed", "reset of a wrong length")
    return Reset(span, number, stream, cost, _code(text[:length]), text[length:].decode("utf-8", "replace"))


def _parse_close(packet: Buffer) -> Close:
    _, length, _, _, _ = _NUMBERED.unpack_from(packet)
    text = bytes(packet[_NUMBERED.size :])
    if length != len(text):
        raise RemoteError("malformed", "close of a wrong length")
    return Close(_code(text))


def _code(raw: bytes) -> str:
    """An error code as the peer sent it; one we do not know counts as a plain failure."""
    code = raw.decode("ascii", "replace")
    return code if code in ERROR_CODES else "failed"


_PARSERS: Final[dict[int, Callable[[Buffer], Packet]]] = {
    DATA: parse_data,
    ACK: _parse_ack,
    PING: _parse_ping,
    RESET: _parse_reset,
    CLOSE: _parse_close,
}
