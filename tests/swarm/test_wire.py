"""Frames: what we write every msgpack library reads, and garbage either parses or raises RemoteError."""

from __future__ import annotations

from typing import Any

import pytest
import umsgpack
from hypothesis import example, given
from hypothesis import strategies as st

from p2pkv import wire
from p2pkv.errors import RemoteError
from p2pkv.limits import RPC_DATAGRAM_BYTES_MAX, RPC_EXTENSION_BYTES_MAX, RPC_PAYLOAD_BYTES_MAX

ID = bytes(range(20))
MESSAGE_ID = bytes(reversed(range(20)))
EXTENSION = wire.Extension(wire.VERSION, ID, wire.PROVE, b"theirs", b"ours", b"k" * 32, b"s" * 64)

scalars = st.one_of(
    st.integers(-(1 << 63), (1 << 64) - 1), st.floats(allow_nan=False), st.booleans(), st.text(), st.binary()
)
plain = st.recursive(
    st.one_of(scalars, st.none()), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10
)


def frame() -> bytes:
    body = wire.request_body("find_node", (ID, ID))
    return wire.request_frame(MESSAGE_ID, body, wire.trailer(EXTENSION))


def test_a_request_of_ours_is_one_of_rpcudp() -> None:
    datagram = frame()
    assert (datagram[0], datagram[1:21]) == (0, MESSAGE_ID)
    assert umsgpack.unpackb(datagram[21:]) == ["find_node", [ID, ID]]


def test_a_frame_comes_apart_as_it_was_put_together() -> None:
    parsed = wire.parse_frame(frame())
    assert (parsed.kind, parsed.message_id, parsed.extension) == (wire.REQUEST, MESSAGE_ID, EXTENSION)
    request = wire.parse_request(parsed.body)
    assert request.method == "find_node"
    args = wire.decoded(wire.decoder_of(wire.FindArgs), request.args)
    assert (args.node_id, args.target) == (ID, ID)


def test_the_trailer_ends_with_its_length_and_the_mark() -> None:
    trailer = wire.trailer(wire.Extension(1, ID))
    assert trailer[-1] == 0xC1
    assert int.from_bytes(trailer[-3:-1], "big") == len(trailer) - 3
    assert umsgpack.unpackb(trailer[:-3]) == [1, ID, 0, b"", b"", b"", b"", b""]


def test_fields_of_a_later_version_are_ignored() -> None:
    encoded = umsgpack.packb([9, ID, 0, b"", b"c", b"", b"", b"", "new", [1, 2]])
    later = encoded + len(encoded).to_bytes(2, "big") + b"\xc1"
    extension = wire.parse_frame(wire.reply_frame(MESSAGE_ID, b"\xc0", later)).extension
    assert extension is not None
    assert (extension.version, extension.cookie_for_you) == (9, b"c")


def test_a_stock_frame_that_ends_like_a_trailer_is_still_read() -> None:
    body = umsgpack.packb(["store", [ID, ID, b"\x00\x05\xc1"]])
    parsed = wire.parse_frame(b"\x00" + MESSAGE_ID + body)
    assert parsed.extension is None
    assert parsed.body == body


def test_padding_entitles_to_a_full_answer() -> None:
    body = wire.request_body("ping", (ID,))
    padded = wire.padded_trailer(wire.Extension(1, ID), wire.HEAD_BYTES + len(body))
    assert len(wire.request_frame(MESSAGE_ID, body, padded)) >= wire.PADDED_REQUEST_BYTES
    assert len(padded) <= RPC_EXTENSION_BYTES_MAX + 3
    assert wire.parse_frame(wire.request_frame(MESSAGE_ID, body, padded)).extension is not None


def test_an_error_reply_names_only_codes_that_peers_may_send() -> None:
    def round_trip(code: str) -> str:
        return wire.parse_fault(wire.parse_frame(wire.fault_frame(MESSAGE_ID, RemoteError(code, "why"), b"")).body).code

    assert [round_trip(code) for code in ("quota", "silent", "misbehaved", "invented")] == [
        "quota",
        "failed",
        "failed",
        "failed",
    ]


def test_arguments_that_do_not_fit_are_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="fit"):
        wire.request_body("store", (ID, ID, bytes(RPC_PAYLOAD_BYTES_MAX)))


@given(scalars)
def test_scalars_keep_value_and_type(value: Any) -> None:
    decoded = wire.decode_scalar(wire.encode(value))
    assert (type(decoded), decoded) == (type(value), value)
    assert umsgpack.unpackb(wire.encode(value)) == value


@given(plain)
def test_plain_values_come_back_or_are_too_deep(value: Any) -> None:
    try:
        assert wire.decoded(wire.decode_plain, wire.encode(value)) == value
    except RemoteError as error:
        assert error.code == "malformed"


@pytest.mark.parametrize("value", [None, [1], {"a": 1}, umsgpack.Ext(5, b"x")])
def test_stock_values_are_scalars_alone(value: Any) -> None:
    with pytest.raises(RemoteError):
        wire.decoded(wire.decode_scalar, umsgpack.packb(value))


def parse_all(datagram: bytes) -> None:
    try:
        parsed = wire.parse_frame(datagram)
        if parsed.kind == wire.ERROR:
            wire.parse_fault(parsed.body)
        request = wire.parse_request(parsed.body)
        for type_ in (wire.PingArgs, wire.FindArgs, wire.StoreArgs, list[wire.NodeTuple]):
            wire.decoded(wire.decoder_of(type_), request.args)
    except RemoteError as error:
        assert error.code in {"malformed", "misbehaved"}


@pytest.mark.fuzz
@given(st.binary(max_size=RPC_DATAGRAM_BYTES_MAX + 10))
@example(b"")
@example(b"\x00" * 21)
@example(b"\x00" + MESSAGE_ID + b"\x92\xa1a" + b"\x91" * 8000)
@example(b"\x00" + MESSAGE_ID + b"\x92\xa1a" + b"\x81\xa1a" * 2000)
@example(b"\x01" + MESSAGE_ID + b"\xdd\xff\xff\xff\xff")
@example(b"\x00" + MESSAGE_ID + b"\x92\xa2\xff\xfe\x90")
def test_garbage_raises_remote_error_and_nothing_else(datagram: bytes) -> None:
    parse_all(datagram)
    parse_all(b"\x00" + MESSAGE_ID + datagram)
    parse_all(b"\x02" + MESSAGE_ID + datagram)


@pytest.mark.fuzz
@given(
    st.lists(st.tuples(st.integers(0, len(frame()) - 1), st.integers(0, 255)), max_size=8), st.integers(0, len(frame()))
)
def test_damaged_frames_raise_remote_error_and_nothing_else(changes: list[tuple[int, int]], length: int) -> None:
    datagram = bytearray(frame())
    for offset, byte in changes:
        datagram[offset] = byte
    parse_all(bytes(datagram[:length]))
    parse_all(bytes(datagram))
