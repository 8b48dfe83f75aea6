"""Typed methods by bulk transfer: long messages arrive whole, refusals travel, and strangers' bytes do no harm."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from p2pkv import messages, wire
from p2pkv.errors import RemoteError, SilentError
from p2pkv.limits import BULK_REPLY_BYTES_MAX, STORED_CHUNK_BYTES_MAX
from p2pkv.swarm.bulk_calls import BulkCalls
from p2pkv.swarm.contact import Contact
from tests.swarm.test_bulk import Peer, simulate


class Words(msgspec.Struct, array_like=True):
    words: list[bytes]


ECHO = wire.Method("echo", Words, Words)
COUNT = wire.Method("count", Words, messages.HoldsReply)


class Desk:
    """What a peer answers."""

    def __init__(self, peer: Peer) -> None:
        self.calls = BulkCalls(peer.service)
        self.contact = Contact(bytes(20), *peer.address)
        self.heard: list[list[bytes]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def echo(self, request: Words) -> Words:
        self.heard.append(request.words)
        await self.gate.wait()
        if request.words == [b"refuse"]:
            raise RemoteError("quota", "full")
        if request.words == [b"fail"]:
            raise ZeroDivisionError
        return Words(request.words * (200 if request.words[0] == b"too much" else 1))


def words(count: int) -> list[bytes]:
    return [b"%06d" % number * 40 for number in range(count)]


def test_long_messages_arrive_whole_over_a_bad_network() -> None:
    async def story(one: Peer, other: Peer, network: Any) -> None:
        asker, desk = Desk(one), Desk(other)
        desk.calls.register(ECHO, desk.echo)
        sent = [words(count) for count in (1, 30, 1000, 4000)]
        replies = await asyncio.gather(*(asker.calls.call(desk.contact, ECHO, Words(some)) for some in sent))
        assert [reply.words for reply in replies] == sent
        assert sorted(map(len, desk.heard)) == [1, 30, 1000, 4000], "a request was worked on twice"

    simulate(story, loss=0.1, duplication=0.1, delay_s=(0.001, 0.03))


def test_refusals_and_bugs_reach_the_caller_as_errors() -> None:
    async def story(one: Peer, other: Peer, network: Any) -> None:
        asker, desk = Desk(one), Desk(other)
        desk.calls.register(ECHO, desk.echo)
        for said, code in (([b"refuse"], "quota"), ([b"fail"], "failed"), ([b"too much", bytes(10_000)], "failed")):
            with pytest.raises(RemoteError) as refused:
                await asker.calls.call(desk.contact, ECHO, Words(said))
            assert refused.value.code == code
        with pytest.raises(RemoteError) as unknown:
            await asker.calls.call(desk.contact, COUNT, Words([b"x"]))
        assert unknown.value.code == "unknown-method"
        assert (await asker.calls.call(desk.contact, ECHO, Words([b"well"]))).words == [b"well"]

    simulate(story)


@pytest.mark.parametrize("body", [b"\xc1", b"\x91", b"\x91\xc4\x05ab", bytes(50), b"\x91\x91\x01"])
def test_a_request_that_is_none_is_refused(body: bytes) -> None:
    async def story(one: Peer, other: Peer, network: Any) -> None:
        desk = Desk(other)
        desk.calls.register(ECHO, desk.echo)
        with pytest.raises(RemoteError) as refused:
            await one.service.call(other.address, b"echo", body, deadline_s=10)
        assert refused.value.code == "malformed"
        assert not desk.heard

    simulate(story)


def test_an_answer_of_another_type_is_misbehaviour() -> None:
    async def story(one: Peer, other: Peer, network: Any) -> None:
        asker, desk = Desk(one), Desk(other)

        async def garbage(method: bytes, body: memoryview) -> bytes:
            return b"\xc1 no msgpack"

        other.service.on_call = garbage
        with pytest.raises(RemoteError) as refused:
            await asker.calls.call(desk.contact, ECHO, Words([b"x"]))
        assert refused.value.code == "misbehaved"

    simulate(story)


def test_a_call_is_no_longer_than_a_chunk() -> None:
    async def story(one: Peer, other: Peer, network: Any) -> None:
        asker, desk = Desk(one), Desk(other)
        desk.calls.register(ECHO, desk.echo)
        room = min(STORED_CHUNK_BYTES_MAX, BULK_REPLY_BYTES_MAX) - 8
        reply = await asker.calls.call(desk.contact, ECHO, Words([bytes(room)]))
        assert len(reply.words[0]) == room

    simulate(story)


def test_a_peer_at_work_is_waited_for_and_a_dead_one_is_not() -> None:
    async def story(one: Peer, other: Peer, network: Any) -> None:
        asker, desk = Desk(one), Desk(other)
        desk.calls.register(ECHO, desk.echo)
        loop = asyncio.get_running_loop()
        desk.gate.clear()
        call = asyncio.ensure_future(asker.calls.call(desk.contact, ECHO, Words([b"slow"])))
        await asyncio.sleep(15)
        assert not call.done(), "given up while the peer was at work"
        desk.gate.set()
        assert (await call).words == [b"slow"]
        desk.gate.clear()
        call = asyncio.ensure_future(asker.calls.call(desk.contact, ECHO, Words([b"dies"])))
        await asyncio.sleep(1)
        network.silence("10.0.0.2")
        began_s = loop.time()
        with pytest.raises(SilentError):
            await call
        assert loop.time() - began_s < 15

    simulate(story)


def test_nobody_there_is_silence() -> None:
    async def story(one: Peer, other: Peer, network: Any) -> None:
        asker = Desk(one)
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(SilentError):
            await asker.calls.call(Contact(bytes(20), "10.0.0.9", 1), ECHO, Words([b"x"]))
        assert asyncio.get_running_loop().time() - began_s < 15

    simulate(story)
