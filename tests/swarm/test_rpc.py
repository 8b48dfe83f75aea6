"""Calls and answers: resends with one id, one handling of each, bounds, typed errors, and nothing left behind."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from p2pkv import wire
from p2pkv.errors import RemoteError, SilentError
from p2pkv.limits import (
    AMPLIFICATION_MAX,
    COOKIE_EPOCH_S,
    HANDLERS_RUNNING_MAX,
    RPC_ANSWERS_CACHED_MAX,
    RPC_DEADLINE_S,
    RPC_OUTSTANDING_PER_CONTACT_MAX,
    RPC_PAYLOAD_BYTES_MAX,
    RPC_RESENDS_MAX,
    RPC_WORKING_S_MAX,
)
from p2pkv.swarm.answers import Answers
from p2pkv.swarm.contact import Contact, Sender
from p2pkv.swarm.server import PeerServer
from tests.swarm.rig import PORT, Rig

A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"


class Text(Struct, array_like=True, frozen=True):
    data: bytes
    count: int = 0


ECHO = wire.Method("echo", Text, Text, needs_cookie=True)
OPEN_ECHO = wire.Method("open_echo", Text, Text, needs_cookie=False)


class Pair:
    """Two servers that know each other; `other` answers ECHO as `handler` says and counts how often."""

    def __init__(self, net: Rig) -> None:
        self.net = net
        self.one, self.other = net.ours(A), net.ours(B)
        self.contact: Contact = net.meet(self.one, self.other)
        self.handled: list[Text] = []
        self.senders: list[Sender] = []
        self.gate: asyncio.Event | None = None
        for method in (ECHO, OPEN_ECHO):
            self.other.protocol.register(method, self.handle)

    def handle(self, sender: Sender, request: Text) -> Any:
        self.handled.append(request)
        self.senders.append(sender)
        return request if self.gate is None else self._wait(request)

    async def _wait(self, request: Text) -> Text:
        assert self.gate is not None
        await self.gate.wait()
        return request

    async def call(self, data: bytes = b"hello", **options: Any) -> Text:
        return await self.one.protocol.call(self.contact, ECHO, Text(data), **options)

    def counters(self, server: PeerServer) -> Any:
        return server.protocol.counters


@pytest.fixture
def pair(net: Rig) -> Pair:
    return Pair(net)


def test_a_call_comes_back_with_its_types(pair: Pair) -> None:
    assert pair.net.run(pair.call(b"\x00\xff")) == Text(b"\x00\xff")
    assert pair.senders[0].node_id == pair.one.node.id
    assert pair.senders[0].address == pair.one.bound[0]


@pytest.mark.parametrize("waits", [False, True])
def test_lost_answers_are_sent_again_and_the_handler_runs_once(pair: Pair, waits: bool) -> None:
    if waits:
        pair.gate = asyncio.Event()
        pair.gate.set()
    pair.net.network.weather.loss = 0.3
    for number in range(20):
        assert pair.net.run(pair.call(bytes([number]))).data == bytes([number])
    assert [request.data for request in pair.handled] == [bytes([number]) for number in range(20)]
    assert pair.counters(pair.one)["requests_resent"] > 5
    assert pair.counters(pair.other)["requests_repeated"] > 0


def test_a_repeated_request_does_not_start_a_running_handler_again(pair: Pair) -> None:
    pair.gate = asyncio.Event()

    async def slow() -> Text:
        call = asyncio.create_task(pair.call())
        await asyncio.sleep(2)
        assert pair.gate is not None
        pair.gate.set()
        return await call

    assert pair.net.run(slow()) == Text(b"hello")
    assert pair.counters(pair.one)["requests_resent"] > 2
    assert len(pair.handled) == 1


@pytest.mark.parametrize(("slow_s", "done"), [(20.0, True), (RPC_WORKING_S_MAX + RPC_DEADLINE_S + 1.0, False)])
def test_who_is_at_work_is_not_silent_but_is_not_waited_for_for_ever(pair: Pair, slow_s: float, done: bool) -> None:
    pair.gate = asyncio.Event()

    async def slow() -> Text | str:
        call = asyncio.create_task(pair.call())
        await asyncio.sleep(slow_s)
        assert pair.gate is not None
        pair.gate.set()
        try:
            return await call
        except SilentError:
            return "given up"

    assert pair.net.run(slow()) == (Text(b"hello") if done else "given up")
    assert pair.counters(pair.one)["answers_awaited"] > 2
    assert pair.counters(pair.one)["silences"] == (not done)
    assert len(pair.handled) == 1


def test_silence_ends_with_the_deadline(pair: Pair) -> None:
    pair.net.network.silence(B)
    for deadline_s in (None, 0.5):
        began_s = pair.net.now_s
        with pytest.raises(SilentError):
            pair.net.run(pair.call(deadline_s=deadline_s))
        assert pair.net.now_s - began_s <= (deadline_s or RPC_DEADLINE_S) + 0.001
    assert pair.counters(pair.one)["requests_resent"] <= 2 * RPC_RESENDS_MAX
    assert pair.one.protocol._outstanding == {}


def test_a_resent_request_is_no_sample_of_the_round_trip(pair: Pair) -> None:
    for _ in range(20):
        pair.net.run(pair.call())
    assert pair.contact.rtt.srtt_s == pytest.approx(0.03, rel=0.3)
    pair.gate = asyncio.Event()

    async def slow() -> None:
        call = asyncio.create_task(pair.call())
        await asyncio.sleep(1)
        assert pair.gate is not None
        pair.gate.set()
        await call

    pair.net.run(slow())
    assert pair.contact.rtt.srtt_s == pytest.approx(0.03, rel=0.3)
    assert pair.contact.rtt.rto_s > 0.1, "but the time-out backs off until the next sample"
    pair.gate = None
    pair.net.run(pair.call())
    assert pair.contact.rtt.rto_s < 0.1


def test_a_handler_refuses_by_a_typed_error(pair: Pair) -> None:
    def refuse(sender: Sender, request: Text) -> Text:
        raise RemoteError("quota", "no room")

    async def refuse_later(sender: Sender, request: Text) -> Text:
        await asyncio.sleep(0.01)
        raise RemoteError("quota", "no room")

    for handler in (refuse, refuse_later):
        pair.other.protocol.register(ECHO, handler)
        with pytest.raises(RemoteError, match="quota: no room"):
            pair.net.run(pair.call())


def test_an_answer_too_long_is_our_own_fault(pair: Pair) -> None:
    pair.other.protocol.register(ECHO, lambda sender, request: Text(bytes(RPC_PAYLOAD_BYTES_MAX)))
    with pytest.raises(RemoteError, match="failed"):
        pair.net.run(pair.call())
    with pytest.raises(ValueError, match="fit"):
        pair.net.run(pair.call(bytes(RPC_PAYLOAD_BYTES_MAX)))


def test_the_longest_request_and_answer_fit(pair: Pair) -> None:
    data = bytes(RPC_PAYLOAD_BYTES_MAX - 16)
    assert pair.net.run(pair.call(data)) == Text(data)


def test_an_answer_of_another_type_is_misbehaviour(pair: Pair) -> None:
    pair.other.protocol.register(ECHO, lambda sender, request: 5)  # type: ignore[arg-type,return-value]
    with pytest.raises(RemoteError) as caught:
        pair.net.run(pair.call())
    assert caught.value.code == "misbehaved"


def test_arguments_of_another_type_are_malformed(pair: Pair) -> None:
    wrong = wire.Method("echo", wire.StunArgs, Text)
    with pytest.raises(RemoteError) as caught:
        pair.net.run(pair.one.protocol.call(pair.contact, wrong, wire.StunArgs()))
    assert caught.value.code == "malformed"
    assert pair.handled == []


def test_calls_beyond_the_contacts_bound_wait_their_turn(pair: Pair) -> None:
    pair.gate = asyncio.Event()
    count = RPC_OUTSTANDING_PER_CONTACT_MAX + 40
    most = 0

    async def many() -> list[Text]:
        nonlocal most
        calls = [asyncio.create_task(pair.call(bytes([number]))) for number in range(count)]
        await asyncio.sleep(0.5)
        most = len(pair.one.protocol._outstanding)
        calls[70].cancel()  # one that waits, and one under way
        calls[3].cancel()
        assert pair.gate is not None
        pair.gate.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        return [result for result in results if isinstance(result, Text)]

    assert len(pair.net.run(many())) == count - 2
    assert most == RPC_OUTSTANDING_PER_CONTACT_MAX
    assert (pair.contact.outstanding, len(pair.contact.waiting), pair.one.protocol._outstanding) == (0, 0, {})


def test_handlers_beyond_the_bound_are_busy(pair: Pair) -> None:
    running = pair.other.protocol._answerer.running
    gate: asyncio.Future[None] = pair.net.loop.create_future()

    async def wait() -> None:
        await gate

    async def fill() -> None:
        for number in range(HANDLERS_RUNNING_MAX):
            running["fill", number] = asyncio.ensure_future(wait())  # type: ignore[index]
        pair.gate = asyncio.Event()
        pair.gate.set()
        try:
            await pair.call()
        finally:
            gate.set_result(None)
            running.clear()

    with pytest.raises(RemoteError, match="busy"):
        pair.net.run(fill())


def test_closing_ends_what_is_under_way(net: Rig) -> None:
    pair = Pair(net)
    pair.gate = asyncio.Event()

    async def close() -> Any:
        call = asyncio.create_task(pair.call())
        await asyncio.sleep(0.1)
        await pair.other.close()
        await pair.one.close()
        return await asyncio.gather(call, return_exceptions=True)

    assert isinstance(net.run(close())[0], SilentError)


# --- addresses that are not proven ---


def request_of(node_id: bytes, method: str, args: object, cookie: bytes = b"", id_: bytes = bytes(20)) -> bytes:
    extension = wire.Extension(wire.VERSION, node_id, 0, cookie)
    return wire.request_frame(id_, wire.request_body(method, args), wire.trailer(extension))


def test_a_method_that_needs_a_cookie_gets_one_first(net: Rig) -> None:
    pair = Pair(net)
    stranger = net.socket(C)
    stranger.transport.sendto(request_of(bytes(20), "echo", Text(b"x")), (B, PORT))
    net.sleep(0.1)
    frame = wire.parse_frame(stranger.got[0][0])
    assert (frame.kind, wire.parse_fault(frame.body).code) == (wire.ERROR, "cookie")
    assert pair.handled == []
    assert frame.extension is not None
    cookie = frame.extension.cookie_for_you
    stranger.transport.sendto(request_of(bytes(20), "echo", Text(b"x"), cookie, b"2" * 20), (B, PORT))
    net.sleep(0.1)
    assert len(pair.handled) == 1
    other = net.socket("10.0.0.9")
    other.transport.sendto(request_of(bytes(20), "echo", Text(b"x"), cookie, b"3" * 20), (B, PORT))
    net.sleep(0.1)
    assert len(pair.handled) == 1, "a cookie holds for its own address alone"


def test_a_cookie_that_ran_out_is_renewed_unseen(pair: Pair) -> None:
    pair.net.run(pair.call())
    pair.net.sleep(3 * COOKIE_EPOCH_S)
    assert pair.net.run(pair.call()) == Text(b"hello")
    assert len(pair.handled) == 2


def test_a_stranger_is_called_as_easily(pair: Pair) -> None:
    third = pair.net.ours(C)

    async def call() -> Contact:
        contact = third.protocol.contact_for(pair.other.node.id, pair.other.bound[0])
        assert await third.protocol.call(contact, ECHO, Text(b"x")) == Text(b"x")
        return contact

    contact = pair.net.run(call())
    assert contact.verified
    assert third.contacts() == [contact]


@pytest.mark.parametrize("size", [10, 300, 5000])
def test_no_answer_to_a_forged_sender_is_longer_than_three_requests(net: Rig, size: int) -> None:
    pair = Pair(net)
    pair.other.protocol.register(OPEN_ECHO, lambda sender, request: Text(bytes(size)))
    victim = net.socket(C)
    for cookie in (b"", b"forged!!"):
        request = request_of(bytes(20), "open_echo", Text(b""), cookie, (cookie or b"x").ljust(20))
        victim.transport.sendto(request, (B, PORT))
        net.sleep(20)
        assert sum(len(data) for data, _ in victim.got) <= AMPLIFICATION_MAX * len(request)
        victim.got.clear()


def test_a_forged_sender_writes_nothing_as_a_stock_peer_either(net: Rig) -> None:
    ours, forged = net.ours(A), net.socket(C)
    stored: list[bytes] = []

    async def keep(place: bytes, value: object) -> bool:
        stored.append(place)
        return True

    ours.protocol.stock_store = keep
    body = msgspec.msgpack.encode(["store", [bytes(20), b"p" * 20, b"value"]])
    forged.transport.sendto(b"\x00" + bytes(20) + body, (A, PORT))
    net.sleep(20)
    assert forged.got, "it is asked whether it is there"
    assert not stored


def test_a_known_contact_is_no_target_for_long_answers(net: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(net)
    net.run(pair.call())
    pair.other.protocol.register(OPEN_ECHO, lambda sender, request: Text(bytes(5000)))
    contact = pair.other.contacts()[0]
    answered: list[int] = []
    endpoint = pair.other.protocol.transport
    monkeypatch.setattr(endpoint, "sendto", lambda data, address: answered.append(len(data)))
    request = request_of(contact.id, "open_echo", Text(b""), b"", b"4" * 20)
    net.loop.call_soon(net.network._deliver, request, contact.address, (B, PORT))
    net.sleep(1)
    assert answered
    assert sum(answered) <= AMPLIFICATION_MAX * len(request)


def test_a_short_repetition_does_not_bring_a_long_answer_again(net: Rig) -> None:
    pair = Pair(net)
    pair.other.protocol.register(OPEN_ECHO, lambda sender, request: Text(bytes(1000)))
    victim = net.socket(C)
    extension = wire.Extension(wire.VERSION, bytes(20), wire.EPHEMERAL, padding=bytes(400))
    padded = wire.request_frame(bytes(20), wire.request_body("open_echo", Text(b"")), wire.trailer(extension))
    for datagram in (padded, *[b"\x00" + bytes(20) + b"\xc0"] * 5):
        victim.transport.sendto(datagram, (B, PORT))
    net.sleep(1)
    assert len(victim.got) == 1


# --- memory and garbage ---


def test_the_answers_kept_are_bounded() -> None:
    answers = Answers()
    for number in range(2 * RPC_ANSWERS_CACHED_MAX):
        answers.keep(((A, number), bytes(20)), bytes(100), 0.0)
    assert len(answers) == RPC_ANSWERS_CACHED_MAX
    assert answers.size_bytes == 100 * RPC_ANSWERS_CACHED_MAX
    assert answers.get(((A, 2 * RPC_ANSWERS_CACHED_MAX - 1), bytes(20)), 1.0) == bytes(100)
    assert answers.get(((A, 2 * RPC_ANSWERS_CACHED_MAX - 1), bytes(20)), 60.0) is None


def test_the_same_id_from_another_address_is_another_question(pair: Pair) -> None:
    one, two = pair.net.socket(C), pair.net.socket("10.0.0.9")
    for socket, data in ((one, b"1"), (two, b"2")):
        socket.transport.sendto(request_of(bytes(20), "open_echo", Text(data)), (B, PORT))
    pair.net.sleep(0.1)
    assert sorted(request.data for request in pair.handled) == [b"1", b"2"]


FIRST_BYTES = [b"\x00", b"\x01", b"\x02", b"\x08", b"\x10", b"\xff", b""]


@pytest.mark.fuzz
@given(
    st.lists(
        st.tuples(st.sampled_from([b"\x00", b"\x01", b"\x02", b"\x08", b"\x10", b"\xff", b""]), st.binary(max_size=200))
    )
)
def test_garbage_neither_raises_nor_stays(datagrams: list[tuple[bytes, bytes]]) -> None:
    net = Rig()
    pair = Pair(net)
    protocol = pair.other.protocol
    valid = request_of(bytes(20), "open_echo", Text(b"x"))

    async def throw() -> None:
        for number, (kind, rest) in enumerate(datagrams):
            protocol.datagram_received(kind + rest, ("10.9.9.9", 1 + number))
            damaged = bytearray(valid)
            for offset, byte in enumerate(rest[:5]):
                damaged[byte % len(valid)] = rest[-1 - offset]
            protocol.datagram_received(bytes(damaged), ("10.9.9.9", 1 + number, 0, 0))
        await asyncio.sleep(10)

    net.run(throw())
    assert net.broken == []
    assert protocol._outstanding == {}
    assert len(protocol._answerer.answers) <= 2 * len(datagrams) + 1 + len(pair.one.contacts())
    assert len(protocol._answerer.running) == protocol._introductions.under_way == len(protocol._tasks) == 0
    assert len(pair.other.contacts()) == 1
    assert net.run(pair.call()) == Text(b"hello")
    net.close()


# --- without tasks ---


def test_a_handler_that_waits_goes_on_where_it_stood(pair: Pair) -> None:
    pair.gate = asyncio.Event()

    async def call_and_open() -> Text:
        call = asyncio.create_task(pair.call(b"later"))
        await asyncio.sleep(0.5)
        assert len(pair.other.protocol._answerer.running) == 1
        assert pair.gate is not None
        pair.gate.set()
        return await call

    assert pair.net.run(call_and_open()) == Text(b"later")
    assert len(pair.handled) == 1


def test_an_outcome_comes_by_a_function_and_a_cancelled_call_has_none(pair: Pair) -> None:
    protocol, contact = pair.one.protocol, pair.contact
    outcomes: list[tuple[object, RemoteError | None]] = []
    body = wire.request_body(ECHO.name, Text(b"hello"))

    def begin() -> Any:
        return protocol.begin_encoded(contact, body, wire.decoder_of(Text), lambda *outcome: outcomes.append(outcome))

    async def two_calls() -> None:
        assert begin() is not None
        begin().cancel()
        assert contact.outstanding == 1
        await asyncio.sleep(1)

    pair.net.run(two_calls())
    assert outcomes == [(Text(b"hello"), None)]
    assert (contact.outstanding, len(protocol._outstanding)) == (0, 0)
    contact.cookie = b""
    assert begin() is None, "without its cookie a request has to wait for one"


def test_a_resend_is_not_late_because_another_call_was_due_first(pair: Pair) -> None:
    """All calls share one timer: what is added while it fires must not push back what is due before."""
    pair.net.network.silence(B)
    protocol, contact = pair.one.protocol, pair.contact
    far = Contact(b"f" * 20, C, 9)
    far.rtt.observe(0.4)

    async def silences() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        calls = [protocol.ping_contact(c, deadline_s=s) for c, s in ((far, 3.0), (contact, 0.5))]
        ended: list[float] = []

        async def one(call: Any) -> None:
            with pytest.raises(SilentError):
                await call
            ended.append(loop.time() - began_s)

        await asyncio.gather(*map(one, calls))
        return ended[0], ended[1]

    near_s, far_s = pair.net.run(silences())
    assert near_s == pytest.approx(0.5, abs=0.02)
    assert far_s == pytest.approx(3.0, abs=0.02)
