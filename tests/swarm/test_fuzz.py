"""Real datagrams, damaged in every way, at every entrance of whole peers: nothing breaks, stalls or grows.

The corpus is what peers say to each other while they work. Requests come from addresses whose cookies hold, so they
reach the handlers and not just the parser; answers are damaged on their way, so they reach whoever waits for them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from p2pkv import messages, wire
from p2pkv.core.drafts import Draft
from p2pkv.core.pages import place_of_page
from p2pkv.errors import P2pkvError, RemoteError
from p2pkv.limits import HANDLERS_RUNNING_MAX
from p2pkv.peer import Peer
from p2pkv.simulation.swarm import SimSwarm
from p2pkv.swarm.environment import Address

PEERS = 4
PAGES = (b"", b"0", b"f3")
LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
ROUNDS = 20_000 if LONG else 1500
OPERATIONS = 400 if LONG else 40
SEEDS = range(20) if LONG else range(2)
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    1 << 63,
    1.5,
    float("nan"),
    "",
    "text",
    b"",
    b"\xff" * 21,
    [],
    [[]],
    {},
    {"value": 1},
    bytes(3000),
)


@dataclass
class Tap:
    """Stands between the peers and their network."""

    swarm: SimSwarm
    seen: list[tuple[bytes, Address, Address]] = field(default_factory=list)
    damage: random.Random | None = None  # what goes by is damaged while this is set

    def __post_init__(self) -> None:
        self._send = self.swarm.network.send
        self.swarm.network.send = self.send  # type: ignore[method-assign]

    def send(self, data: bytes, source: Address, target: Address) -> None:
        if self.damage is None:
            self.seen.append((data, source, target))
        elif self.damage.random() < 0.3:
            data = damaged(data, self.damage)
        self._send(data, source, target)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The datagram with bytes changed, cut off or put in, or with a field of another type."""
    way = rng.randrange(6)
    at = rng.randrange(max(1, len(data)))
    if way == 0:
        return data[:at]
    if way == 1:
        return data[:at] + rng.randbytes(rng.randrange(1, 40)) + data[at:]
    if way == 2:
        return bytes([rng.choice((0, 1, 2, 3, 8, 15))]) + data[1:]
    if way == 3:
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    return retyped(data, rng)


def retyped(data: bytes, rng: random.Random) -> bytes:
    """A frame whose body or extension has an odd value somewhere."""
    try:
        frame = wire.parse_frame(data)
        body = msgspec.msgpack.decode(frame.body)
    except (RemoteError, msgspec.MsgspecError):
        return data
    extension: Any = msgspec.to_builtins(frame.extension, builtin_types=(bytes,)) if frame.extension else None
    if extension and rng.random() < 0.2:
        extension = with_odd(extension, rng)
    else:
        body = with_odd(body, rng)
    tail = msgspec.msgpack.encode(extension) if extension else b""
    mark = len(tail).to_bytes(2, "big") + bytes((wire.TRAILER_MARK,)) if tail and len(tail) < 1 << 16 else b""
    return data[: wire.HEAD_BYTES] + msgspec.msgpack.encode(body) + tail + mark


def with_odd(value: Any, rng: random.Random) -> Any:
    """The value with something at some depth replaced, left out or said twice."""
    if not isinstance(value, list) or not value or rng.random() < 0.2:
        return rng.choice(ODD)
    at = rng.randrange(len(value))
    if rng.random() < 0.15:
        return value[:at] + value[at + rng.randrange(2) :] + value[at : at + 1]
    return [*value[:at], with_odd(value[at], rng), *value[at + 1 :]]


async def work(peer: Peer, number: int) -> int:
    """Something of everything that peers ask of each other; how much of it succeeded. Errors must be ours."""
    key = f"key {number % 7}"
    operations = (
        peer.put(key, b"v" * (number % 900)),
        peer.put(key, b"once", name=f"once {number}", once=True),
        peer.put(key, number.to_bytes(4, "big") * 5000),
        read(peer, key),
        peer.count(key),
        peer.where(key),
        peer.delete(key, name=f"none {number}"),
    )
    done = 0
    for operation in operations:
        try:
            async with asyncio.timeout(120):
                await operation
            done += 1
        except (P2pkvError, RemoteError):
            pass
    return done


async def read(peer: Peer, key: str) -> list[bytes | None]:
    return [record.value async for record in peer.get(key)]


@pytest.fixture(params=SEEDS)
def tap(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[Tap]:
    """A swarm that has worked a little, and nothing that broke in its loop or was logged as our own fault."""
    caplog.set_level(logging.ERROR)
    broken: list[dict[str, Any]] = []
    with SimSwarm(PEERS, seed=request.param, delay_s=(0.001, 0.002)) as swarm:
        swarm.loop.set_exception_handler(lambda _, context: broken.append(context))
        tap = Tap(swarm)
        swarm.run_for(seconds=10)
        for number, peer in enumerate(swarm.peers):
            assert swarm.run(work(peer, number)) == 7
        yield tap
        tap.damage = None
        swarm.run_for(minutes=2)
        check_health(swarm)
    assert broken == []
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def check_health(swarm: SimSwarm) -> None:
    for peer in swarm.peers:
        protocol = peer.node.server.protocol
        assert protocol.counters["handlers_failed"] == 0
        assert protocol._answerer.running == {}
        assert protocol._outstanding == {}
        assert {contact.id for contact in peer.node.server.contacts()} <= {p.node.identity.node_id for p in swarm.peers}
    swarm.run(swarm.peers[1].put("afterwards", b"all is well", name="health"))
    assert swarm.run(read(swarm.peers[2], "afterwards")) == [b"all is well"]


@pytest.mark.fuzz
def test_damaged_requests_reach_no_bug_and_leave_nothing_behind(tap: Tap) -> None:
    rng = random.Random(len(tap.seen))
    requests = [entry for entry in tap.seen if entry[0][0] == wire.REQUEST]
    for number in range(ROUNDS):
        data, source, target = rng.choice(requests)
        fresh = data[:1] + rng.randbytes(wire.MESSAGE_ID_BYTES) + data[wire.HEAD_BYTES :]
        tap.swarm.loop.call_soon(tap.swarm.network._deliver, damaged(fresh, rng), source, target)
        if number % 100 == 0:
            tap.swarm.run_for(seconds=0.1)
    for peer in tap.swarm.peers:
        assert len(peer.node.server.protocol._answerer.running) <= HANDLERS_RUNNING_MAX


@pytest.mark.fuzz
def test_peers_that_get_damaged_answers_say_so_and_go_on(tap: Tap) -> None:
    tap.damage = random.Random(len(tap.seen))
    for number in range(OPERATIONS):
        tap.swarm.run(work(tap.swarm.peers[number % PEERS], number))


@pytest.mark.fuzz
def test_damaged_calls_reach_no_bug(tap: Tap) -> None:
    """What bulk transfer carries comes in no datagram of the corpus: it is damaged before it is sent."""
    rng, victim = random.Random(len(tap.seen)), tap.swarm.peers[0]
    bodies = genuine_calls(victim)
    for number in range(ROUNDS):
        method, body = rng.choice(bodies)
        if number % 2:
            body = msgspec.msgpack.encode(with_odd(msgspec.msgpack.decode(body), rng))
        else:
            body = bytes([body[0]]) + damaged(body, rng)[1:]
        try:
            tap.swarm.run(victim.node.bulk.service.on_call(method, memoryview(body)))
        except RemoteError as error:
            assert error.code != "failed", (method, body)


def genuine_calls(peer: Peer) -> list[tuple[bytes, bytes]]:
    """A well-made request of every method that is answered by bulk transfer."""
    writer = peer.node.writer
    drafts = [Draft(name=b"n%d" % number, flags=0, body=b"body") for number in range(3)]
    versions = writer.sign_many(b"fuzzed", drafts)
    requests: dict[bytes, Any] = {
        b"p2pkv_store_records": messages.StoreRecords(b"fuzzed", versions, force=True, depths=bytes(3)),
        b"p2pkv_find_runs": messages.FindRuns([messages.FindRecords(place_of_page(b"fuzzed", page)) for page in PAGES]),
        b"p2pkv_find_newer": messages.FindNewer(
            [
                messages.KnownNames(
                    place_of_page(b"fuzzed", page), [v.name for v in versions], bytes(16 * len(versions))
                )
                for page in PAGES
            ]
        ),
        b"p2pkv_holds": messages.Holds(bytes(10 * 20)),
    }
    assert set(requests) == set(peer.node.calls.methods()), "a method that is not fuzzed"
    return [(method, wire.encode(request)) for method, request in requests.items()]
