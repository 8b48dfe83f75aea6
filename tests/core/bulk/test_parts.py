"""The parts of bulk transfer by themselves: ranges, packets, handshake, pacing, acknowledgements."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pkv.core.bulk import packets
from p2pkv.core.bulk.batch import Options
from p2pkv.core.bulk.connection import Connection
from p2pkv.core.bulk.credit import Budget
from p2pkv.core.bulk.events import Accept
from p2pkv.core.bulk.handshake import Doorman
from p2pkv.core.bulk.pacing import Pacer
from p2pkv.core.bulk.ranges import RangeSet
from p2pkv.core.bulk.receipts import Receipts
from p2pkv.core.bulk.recovery import runs_of
from p2pkv.errors import ERROR_CODES, RemoteError
from p2pkv.limits import BULK_ACK_RANGES, BULK_ACK_RANGES_MAX, BULK_COOKIE_EPOCH_S, BULK_PACKET_BYTES

SPANS = st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda pair: (pair[0], pair[0] + pair[1]))
U16, U32, U64 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
CODES = st.sampled_from(sorted(ERROR_CODES))


def ranges_of(numbers: set[int]) -> list[tuple[int, int]]:
    ordered = sorted(numbers)
    starts = [n for n in ordered if n - 1 not in numbers]
    ends = [n + 1 for n in ordered if n + 1 not in numbers]
    return list(zip(starts, ends, strict=True))


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "take"]), SPANS)))
def test_a_range_set_is_a_set(steps: list[tuple[str, tuple[int, int]]]) -> None:
    ranges, model = RangeSet(), set[int]()
    for verb, (start, end) in steps:
        span = set(range(start, end))
        if verb == "add":
            assert ranges.add(start, end) == len(span - model)
            model |= span
        elif verb == "remove":
            ranges.remove(start, end)
            model -= span
        elif model:
            low, high = ranges.take(end - start)
            assert (low, high) == (min(model), min(low + end - start, ranges_of(model)[0][1]))
            model -= set(range(low, high))
        assert list(ranges) == ranges_of(model)
        assert ranges.end == (max(model) + 1 if model else 0)
        assert ranges.covers(start, end) == (span <= model)
        assert (start in ranges) == (start in model)


@given(st.sets(st.integers(0, 200)), st.integers(0, 200), st.integers(1, 10))
def test_a_range_set_forgets_from_below(numbers: set[int], floor: int, most: int) -> None:
    ranges = RangeSet()
    for number in numbers:
        ranges.add(number, number + 1)
    ranges.forget(floor, most)
    assert list(ranges) == ranges_of({n for n in numbers if n >= floor})[-most:]


@given(st.integers(0, 2**60))
def test_runs_of_a_mask(mask: int) -> None:
    bits = {n for n in range(mask.bit_length()) if mask >> n & 1}
    assert list(runs_of(mask)) == ranges_of(bits)


@given(st.lists(st.integers(0, 300), max_size=400), st.integers(0, 2000))
def test_receipts_acknowledge_what_came(numbers: list[int], span: int) -> None:
    """Whatever the order: an ack names nothing that did not come, and all of it where nothing had to be forgotten."""
    receipts, seen, floor = Receipts(), set[int](), 0
    for number in numbers:
        fresh = receipts.note(number, span, 1.0)
        assert not fresh or number not in seen
        seen.add(number)
        floor = max(floor, number - span)
    _, _, ranges = receipts.take(2.0)
    told = {n for start, end in ranges for n in range(start, end)}
    assert told <= seen
    assert len(ranges) <= BULK_ACK_RANGES
    if span > 300:
        assert ranges == ranges_of(seen)[-BULK_ACK_RANGES:]


# --- packets ---


@given(U16, U64, U32, U32, st.integers(0, 1000), st.binary(min_size=1, max_size=200), st.integers(0, 1000))
def test_data_comes_back(
    span: int, connection: int, number: int, stream: int, offset: int, payload: bytes, more: int
) -> None:
    size = offset + len(payload) + more
    packet = packets.data_head(span, connection, number, stream, offset, size) + payload
    assert packets.kind_of(packet) == (packets.DATA, connection)
    parsed = packets.parse(packet)
    assert isinstance(parsed, packets.Data)
    assert (parsed.span, parsed.number, parsed.stream, parsed.offset, parsed.size, bytes(parsed.payload)) == (
        span,
        number,
        stream,
        offset,
        size,
        payload,
    )


@given(U32, U64, st.sets(st.integers(0, 2000)), st.integers(0, 40), st.floats(0, 1000))
def test_acks_come_back(number: int, credit: int, numbers: set[int], buffer: int, delay_s: float) -> None:
    fields = packets.Ack(number, delay_s, credit, 1 << buffer, ranges_of(numbers)[-BULK_ACK_RANGES_MAX:])
    packet = packets.ack(7, fields)
    assert len(packet) <= BULK_PACKET_BYTES
    parsed = packets.parse(packet)
    assert isinstance(parsed, packets.Ack)
    assert abs(parsed.delay_s - delay_s) < 1e-5
    parsed.delay_s = delay_s
    assert parsed == fields


@given(U16, U64, U32, U32, U32, CODES, st.text(max_size=300))
def test_resets_come_back(
    span: int, connection: int, number: int, stream: int, cost: int, code: str, detail: str
) -> None:
    parsed = packets.parse(packets.reset(connection, packets.Reset(span, number, stream, cost, code, detail)))
    assert isinstance(parsed, packets.Reset)
    assert (parsed.span, parsed.number, parsed.stream, parsed.cost, parsed.code) == (span, number, stream, cost, code)
    assert detail.startswith(parsed.detail.rstrip("�"))


@given(U64, U64, U32, st.binary(min_size=16, max_size=16), CODES)
def test_the_others_come_back(one: int, other: int, epoch: int, proof: bytes, code: str) -> None:
    fields = packets.Cookie(one, other, epoch, proof)
    assert packets.parse_cookie(packets.cookie(packets.OPEN, fields)) == fields
    assert packets.parse_hello(packets.hello(one)) == packets.Hello(one)
    assert packets.parse(packets.close(one, 0, code)) == packets.Close(code)
    assert packets.parse(packets.ping(3, one, 9, 500)) == packets.Ping(3, 9, 500)
    assert packets.kind_of(packets.lost(other)) == (packets.LOST, other)
    assert len(packets.cookie(packets.COOKIE, fields)) <= len(packets.hello(one)), "an amplifier"


@given(st.binary(max_size=120), st.sampled_from(sorted(packets.OF_CONNECTION | {0xFF})))
def test_garbage_is_malformed_and_nothing_else(garbage: bytes, kind: int) -> None:
    for packet in (garbage, bytes([kind]) + garbage):
        for parse in (packets.parse, packets.parse_cookie, packets.parse_hello, packets.kind_of):
            try:
                parse(packet)
            except RemoteError as error:
                assert error.code == "malformed"


@pytest.mark.parametrize("seed", range(20))
def test_garbage_never_breaks_a_connection(seed: int) -> None:
    """Well-formed heads with random fields: the connection goes on or ends, raises nothing and holds little."""
    rng, budget = random.Random(seed), Budget(1_000_000)
    connection = Connection(
        1, 2, 0.0, initiator=False, admit=lambda kind, topic, size: Accept(), budget=budget, options=Options()
    )
    now = 0.0
    for _ in range(300):

        def small() -> int:
            return rng.randrange(8) if rng.random() < 0.7 else rng.getrandbits(32)

        head = rng.choice([
            packets.data_head(rng.randrange(65536), 1, small(), small(), small(), small()),
            packets.ack(1, packets.Ack(small(), 0.0, small(), 1 << 20, [(0, 1 + small() % 8)])),
            packets.reset(1, packets.Reset(0, small(), small(), small(), "failed", "")),
            packets.ping(0, 1, small()),
        ])  # fmt: skip
        connection.receive(head + rng.randbytes(rng.randrange(30)), now)
        connection.receive(head, now)
        connection.receive(head[: rng.randrange(packets.PREFIX_BYTES, len(head))], now)
        now += rng.random() * 0.1
        timer_s = connection.next_timer()
        if timer_s is not None and timer_s <= now:
            connection.handle_timer(now)
        while connection.packets_to_send(now):
            pass
        connection.events()
        timer_s = connection.next_timer()
        assert timer_s is None or timer_s > now
        assert 0 <= budget.held_bytes <= budget.bytes_max
    connection.close()
    assert not budget.held_bytes


# --- handshake and pacing ---


def test_a_cookie_is_good_for_its_address_ids_and_time_alone() -> None:
    doorman = Doorman(b"s" * 32)
    cookie = doorman.answer(packets.Hello(5), ("10.0.0.1", 1), 6, 100.0)
    assert doorman.admits(cookie, ("10.0.0.1", 1), 100.0 + BULK_COOKIE_EPOCH_S)
    assert not doorman.admits(cookie, ("10.0.0.1", 1), 100.0 + 2 * BULK_COOKIE_EPOCH_S)
    assert not doorman.admits(cookie, ("10.0.0.1", 2), 100.0)
    assert not doorman.admits(cookie, ("10.0.0.2", 1), 100.0)
    assert not doorman.admits(packets.Cookie(4, 6, cookie.epoch, cookie.proof), ("10.0.0.1", 1), 100.0)
    assert not doorman.admits(packets.Cookie(5, 7, cookie.epoch, cookie.proof), ("10.0.0.1", 1), 100.0)
    assert not Doorman(b"t" * 32).admits(cookie, ("10.0.0.1", 1), 100.0)


@given(st.floats(1e3, 1e9), st.integers(500, 9000), st.floats(0, 1e6))
def test_a_pacer_keeps_its_rate_and_never_waits_for_nothing(rate: float, packet: int, began_s: float) -> None:
    pacer, now, sent = Pacer(), began_s, 0
    for _ in range(200):
        allowed = pacer.allowance(rate, packet, now)
        if allowed < packet:
            ready_s = pacer.ready_s(packet)
            assert ready_s > now
            now = ready_s
            continue
        pacer.sent(packet)
        sent += packet
    assert sent <= (now - began_s) * rate * 1.001 + 12 * packet + rate * 0.017
