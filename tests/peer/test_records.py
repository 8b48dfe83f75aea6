"""Records on a swarm of real peers over loopback: what a user of `Peer` notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from p2pkv.errors import IncompleteError, InvalidError, NotFoundError, RefusedError
from p2pkv.peer import Peer
from p2pkv.testing import Swarm

PEERS = 12  # more than k, so that a get is no local hit


@pytest.fixture(params=["memory", "disk"])
async def swarm(request: pytest.FixtureRequest) -> AsyncIterator[Swarm]:
    async with Swarm(PEERS, store=request.param) as swarm:
        yield swarm


@pytest.fixture
async def small() -> AsyncIterator[Swarm]:
    async with Swarm(PEERS, store="memory") as swarm:
        yield swarm


async def values(peer: Peer, key: str, **options: object) -> list[bytes | None]:
    return [record.value async for record in peer.get(key, **options)]


async def test_a_put_on_one_peer_is_read_on_every_other(swarm: Swarm) -> None:
    outcome = await swarm.peers[1].put("sensor/7", b"21.4")
    assert (outcome.asked, outcome.needed) == (8, 5)
    assert outcome.stored >= 5
    for peer in swarm.peers:
        assert await values(peer, "sensor/7") == [b"21.4"]


async def test_many_records_come_back_exactly_and_in_order(swarm: Swarm) -> None:
    expected = [f"value {number}".encode() for number in range(1000)]
    outcomes = [outcome async for outcome in swarm.peers[2].put_many("many", expected)]
    assert all(outcome.reached for outcome in outcomes)
    assert await values(swarm.peers[7], "many") == expected
    assert await values(swarm.peers[5], "many", reverse=True, limit=10) == expected[:-11:-1]
    assert await swarm.peers[3].count("many") == 1000


async def test_a_cursor_resumes_behind_its_record(small: Swarm) -> None:
    expected = [str(number).encode() for number in range(30)]
    async for outcome in small.peers[0].put_many("k", expected):
        assert outcome.reached
    first = [record async for record in small.peers[4].get("k", limit=11)]
    rest = await values(small.peers[9], "k", after=first[-1].cursor)
    assert [record.value for record in first] + rest == expected


async def test_a_span_of_time_begins_at_once_and_ends_before_its_end(small: Swarm) -> None:
    for value in (b"0", b"1", b"2", b"3"):
        await small.peers[0].put("k", value)
        await asyncio.sleep(0.002)  # clocks count milliseconds
    times = [record.time async for record in small.peers[4].get("k")]
    assert await values(small.peers[4], "k", since_s=times[1]) == [b"1", b"2", b"3"]
    assert await values(small.peers[4], "k", until_s=times[1]) == [b"0"]
    assert await values(small.peers[4], "k", since_s=times[1], until_s=times[3]) == [b"1", b"2"]
    assert await values(small.peers[4], "k", since_s=times[1], until_s=times[3], reverse=True) == [b"2", b"1"]
    assert await values(small.peers[4], "k", since_s=times[0], until_s=times[3], limit=1, reverse=True) == [b"2"]
    assert await values(small.peers[4], "k", since_s=0, until_s=1e12) == [b"0", b"1", b"2", b"3"]
    assert await values(small.peers[4], "k", since_s=1e12) == []
    first = [record.cursor async for record in small.peers[4].get("k", limit=1)]
    assert await values(small.peers[4], "k", after=first[0], since_s=times[0], until_s=times[2]) == [b"1"]
    with pytest.raises(InvalidError):
        await values(small.peers[4], "k", since_s=times[0], order="name")


async def test_a_named_record_is_replaced_and_moves_to_the_end(small: Swarm) -> None:
    await small.peers[0].put("k", b"a1", name="a")
    await small.peers[1].put("k", b"b1", name="b")
    await small.peers[2].put("k", b"a2", name="a")
    assert await values(small.peers[3], "k") == [b"b1", b"a2"]
    assert await values(small.peers[3], "k", order="name") == [b"a2", b"b1"]
    assert await values(small.peers[3], "k", name="a") == [b"a2"]
    assert await values(small.peers[3], "k", prefix="b") == [b"b1"]


async def test_what_is_deleted_is_gone_everywhere(swarm: Swarm) -> None:
    for name in ("a", "b", "c"):
        await swarm.peers[0].put("k", name.encode(), name=name)
    assert await swarm.peers[5].delete("k", name="b") == 1
    assert await values(swarm.peers[8], "k") == [b"a", b"c"]
    assert await swarm.peers[6].delete("k") == 2
    assert await values(swarm.peers[8], "k") == []
    assert await swarm.peers[8].count("k") == 0
    assert await swarm.peers[5].delete("k") == 0


async def test_an_absent_key_is_empty_and_complete(small: Swarm) -> None:
    assert await values(small.peers[4], "nothing here") == []
    assert await small.peers[4].count("nothing here") == 0


async def test_only_its_author_replaces_or_deletes_an_own_record(small: Swarm) -> None:
    alice, bob = small.peers[0], small.peers[1]
    await alice.put("k", b"shared", name="x")
    await alice.put("k", b"mine", name="x", own=True)
    assert await values(bob, "k") == [b"mine"]
    with pytest.raises(RefusedError):
        await bob.put("k", b"bob's", name="x")
    with pytest.raises(RefusedError):
        await bob.delete("k", name="x")
    await alice.put("k", b"mine still", name="x", own=True)
    assert await values(bob, "k") == [b"mine still"]
    assert await alice.delete("k", name="x") == 1
    assert await values(bob, "k") == []


async def test_write_once_is_once(swarm: Swarm) -> None:
    await swarm.peers[0].put("k", b"first", name="x", once=True)
    for attempt in (
        swarm.peers[1].put("k", b"second", name="x", once=True),
        swarm.peers[2].put("k", b"third", name="x"),
        swarm.peers[3].delete("k", name="x"),
    ):
        with pytest.raises(RefusedError):
            await attempt
    assert await values(swarm.peers[4], "k") == [b"first"]


async def test_deleting_a_key_leaves_what_cannot_be_deleted_and_says_so(small: Swarm) -> None:
    await small.peers[0].put("k", b"for ever", name="x", once=True)
    await small.peers[0].put("k", b"alice's", name="y", own=True)
    for number in range(5):
        await small.peers[0].put("k", b"%d" % number)
    with pytest.raises(RefusedError, match="5 records were deleted, 2 stay: record x is write-once; record y belongs"):
        await small.peers[1].delete("k")
    assert sorted(await values(small.peers[2], "k")) == [b"alice's", b"for ever"]


async def test_of_racing_write_once_puts_one_is_told_yes(small: Swarm) -> None:
    puts = [peer.put("race", str(n).encode(), name="x", once=True) for n, peer in enumerate(small.peers)]
    results = await asyncio.gather(*puts, return_exceptions=True)
    winners = [n for n, result in enumerate(results) if not isinstance(result, BaseException)]
    assert len(winners) == 1
    assert all(isinstance(r, RefusedError | IncompleteError) for n, r in enumerate(results) if n not in winners)
    assert await values(small.peers[0], "race") == [str(winners[0]).encode()]


async def test_compare_and_set_counts_every_increment_once(small: Swarm) -> None:
    await small.peers[0].put("counter", b"0", name="n")

    async def increment(peer: Peer) -> None:
        while True:
            [record] = [record async for record in peer.get("counter", name="n")]
            try:
                value = str(int(record.value or b"") + 1).encode()
                await peer.put("counter", value, name="n", if_version=record.version)
                return
            except (RefusedError, IncompleteError):
                continue

    await asyncio.gather(*(increment(peer) for peer in small.peers[:5]))
    assert await values(small.peers[11], "counter") == [b"5"]


async def test_compare_and_set_tells_the_current_version(small: Swarm) -> None:
    old = await small.peers[0].put("k", b"1", name="n")
    new = await small.peers[0].put("k", b"2", name="n")
    with pytest.raises(RefusedError) as refused:
        await small.peers[1].put("k", b"3", name="n", if_version=old.version)
    assert refused.value.current == new.version
    with pytest.raises(NotFoundError):
        await small.peers[1].put("k", b"3", name="absent", if_version=old.version)


async def test_a_record_with_a_time_to_live_goes(small: Swarm) -> None:
    await small.peers[0].put("k", b"short", ttl_s=0.3)
    await small.peers[0].put("k", b"long", ttl_s=3600)
    async with asyncio.timeout(10):
        while await values(small.peers[3], "k") != [b"long"]:
            await asyncio.sleep(0.05)
    assert await small.peers[3].count("k") == 1


async def test_long_values_travel_as_chunks_beside_short_ones(swarm: Swarm) -> None:
    long = bytes(range(256)) * 20_000
    await swarm.peers[0].put("k", b"short")
    await swarm.peers[1].put("k", long)
    assert await values(swarm.peers[6], "k") == [b"short", long]


async def test_values_that_end_with_an_error_are_put_as_far_as_they_came(small: Swarm) -> None:
    async def source() -> AsyncIterator[bytes]:
        for number in range(1300):
            yield b"%04d" % number
        raise OSError("the pipe broke")

    outcomes = []
    with pytest.raises(OSError, match="the pipe broke"):
        async for outcome in small.peers[1].put_many("broken", source()):
            outcomes.append(outcome.reached)
    assert outcomes == [True] * 1300
    assert await values(small.peers[2], "broken") == [b"%04d" % number for number in range(1300)]


async def test_acks_all_and_one(small: Swarm) -> None:
    everyone = await small.peers[0].put("k", b"v", acks="all")
    assert everyone.stored == everyone.needed == 8
    one = await small.peers[0].put("k", b"w", acks="1")
    assert one.needed == 1


async def test_records_survive_a_minority_of_dead_replicas(swarm: Swarm) -> None:
    expected = [str(number).encode() for number in range(50)]
    async for outcome in swarm.peers[0].put_many("k", expected, acks="all"):
        assert outcome.reached
    for peer in swarm.peers[-3:]:
        await peer.stop(graceful=False)
    assert await values(swarm.peers[1], "k") == expected
    outcome = await swarm.peers[1].put("k", b"after")
    assert outcome.reached
    assert await values(swarm.peers[2], "k") == [*expected, b"after"]
    del swarm.peers[-3:]


async def test_too_few_live_replicas_are_told_and_not_hidden(small: Swarm) -> None:
    await small.peers[0].put("k", b"v", acks="all")
    for peer in small.peers[2:]:
        await peer.stop(graceful=False)
    with pytest.raises(IncompleteError) as failed:
        await small.peers[0].put("k", b"w")
    assert failed.value.outcome is not None
    assert failed.value.outcome.stored < failed.value.outcome.needed
    assert failed.value.outcome.failures
    del small.peers[2:]


@pytest.mark.parametrize("key", ["", "k" * 1025, b"\0p2pkv/folder/x"])
async def test_bad_keys_are_refused_here(small: Swarm, key: str | bytes) -> None:
    with pytest.raises(InvalidError):
        await small.peers[0].put(key, b"v")


async def test_any_bytes_make_a_key_and_a_value(small: Swarm) -> None:
    key = bytes(range(256)) * 4
    await small.peers[0].put(key, b"\0\xff\n")
    assert [record.value async for record in small.peers[1].get(key)] == [b"\0\xff\n"]
    assert await values(small.peers[1], "k" * 1024) == []


async def test_an_ephemeral_peer_reads_and_writes_and_keeps_nothing(small: Swarm) -> None:
    guest = Peer(listen=["127.0.0.1:0"], bootstrap=[small.peers[0].address], ephemeral=True)
    async with guest:
        await guest.wait_connected()
        outcome = await guest.put("guest", b"was here")
        assert outcome.asked == 8
        assert await values(guest, "guest") == [b"was here"]
        assert (await guest.status()).records == 0
    assert await values(small.peers[5], "guest") == [b"was here"]
    known = {info.node for peer in small.peers for info in await peer.peers()}
    assert guest.node.identity.node_id.hex() not in known
