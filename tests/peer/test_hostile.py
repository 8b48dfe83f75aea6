"""What a stranger who speaks the protocol well cannot do to a peer's records."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from p2pkv import messages, wire
from p2pkv.core.clock import clock_of
from p2pkv.core.records import Flag, Version, signed_bytes
from p2pkv.errors import RemoteError
from p2pkv.ids import place_of_key
from p2pkv.limits import (
    BALLOT_MAX,
    BODY_BYTES_MAX,
    CLOCK_DRIFT_S_MAX,
    META_BYTES_MAX,
    NAME_BYTES_MAX,
    RPC_PAYLOAD_BYTES_MAX,
)
from p2pkv.peer import Peer
from p2pkv.swarm.contact import Sender
from p2pkv.swarm.identity import Identity
from p2pkv.testing import Swarm

KEY = b"k"
SENDER = Sender(bytes(20), ("127.0.0.1", 9), None)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with Swarm(2, store="memory") as swarm:
        yield swarm.peers[0]


def version(
    peer: Peer, name: bytes, identity: Identity | None = None, *, age_s: float = 0, **fields: object
) -> Version:
    identity = identity or peer.node.identity
    clock = clock_of(peer.node.env.now_s() - age_s)
    unsigned = msgspec.structs.replace(Version(name, clock, identity.public_key, 0, 0, 0, b""), **fields)
    return msgspec.structs.replace(unsigned, signature=identity.sign(signed_bytes(KEY, unsigned)))


async def store(peer: Peer, *versions: Version) -> messages.StoreRecordsReply:
    return await peer.node.replica.on_store(SENDER, messages.StoreRecords(KEY, list(versions), force=True))


def handler(peer: Peer, method: wire.Method[Any, Any]) -> Any:
    """What answers a method at a peer."""
    return peer.node.server.protocol._answerer.services[method.name].handler


async def prepare(peer: Peer, ballot: tuple[int, bytes]) -> messages.Promise:
    promise: messages.Promise = await handler(peer, messages.PREPARE)(SENDER, messages.Prepare(KEY, b"n", ballot))
    return promise


async def test_a_batch_of_stale_versions_gets_an_answer_that_fits(peer: Peer) -> None:
    names = [b"n%d" % number for number in range(20)]
    for name in names:
        await store(peer, version(peer, name, body=bytes(BODY_BYTES_MAX), size_bytes=BODY_BYTES_MAX))
    reply = await store(peer, *(version(peer, name, age_s=60, flags=int(Flag.TOMBSTONE)) for name in names))
    assert [result.code for result in reply.results] == [messages.STALE] * len(names)
    assert reply.results[0].current is not None, "as many of those that stand as fit"
    assert len(wire.encode(reply)) <= RPC_PAYLOAD_BYTES_MAX


async def test_no_name_can_be_filled_until_it_cannot_be_read(peer: Peer) -> None:
    name = b"n" * NAME_BYTES_MAX
    for number in range(8):
        owner = Identity(bytes([number]) * 32)
        await store(peer, version(peer, name, owner, flags=int(Flag.OWN | Flag.TOMBSTONE), meta=bytes(META_BYTES_MAX)))
    reply = await peer.node.replica.find_names(messages.FindNames(place_of_key(KEY), [name]))
    assert reply.versions
    assert len(wire.encode(reply)) <= RPC_PAYLOAD_BYTES_MAX


async def test_a_stock_value_of_no_stock_type_is_refused_and_the_key_stays_readable(peer: Peer) -> None:
    await peer.put("k", b"good")
    reply = await store(peer, Version(b"", 1 << 50, b"", int(Flag.STOCK), 0, 1, b"\xc0"))
    assert reply.results[0].code == messages.REFUSED
    assert [record.value async for record in peer.get("k")] == [b"good"]


async def test_no_ballot_shuts_out_all_later_ones(peer: Peer) -> None:
    assert not (await prepare(peer, (BALLOT_MAX, b"\xff" * 20))).granted
    assert (await prepare(peer, (1, bytes(20)))).granted
    await peer.put("k", b"v", name="n", once=True)


async def test_no_version_from_the_future_enters_a_register(peer: Peer) -> None:
    proposed = messages.Propose(KEY, (1, bytes(20)), version(peer, b"n", age_s=-2 * CLOCK_DRIFT_S_MAX))
    with pytest.raises(RemoteError, match="clock"):
        await handler(peer, messages.PROPOSE)(SENDER, proposed)
