"""Keys of many pages in a simulated swarm: real peers, an independent witness, faults in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from p2pkv import messages
from p2pkv.core.pages import place_of_page
from p2pkv.core.records import HASH_BYTES
from p2pkv.errors import IncompleteError, RefusedError
from p2pkv.outcomes import PutOutcome
from p2pkv.peer import Peer
from p2pkv.testing import SimSwarm
from tests.pages.checker import Witness, bound, complete, pages_of, trickling, values
from tests.seeds import seeds


def numbers(start: int, count: int) -> list[bytes]:
    return [b"%06d" % number for number in range(start, start + count)]


async def leftovers(swarm: SimSwarm) -> int:
    """Records that still lie in split pages."""
    total = 0
    for peer in swarm.peers:
        for page in await peer.node.store.pages(limit=10_000):
            holding = await peer.node.replica.holdings.of(page.place)
            total += page.total - 1 if holding.split else 0
    return total


def settle(swarm: SimSwarm) -> None:
    for _ in range(90):
        if swarm.run(leftovers(swarm)) == 0:
            return
        swarm.run_for(seconds=10)
    raise AssertionError("split pages still hold records after 15 minutes")


def test_a_key_that_outgrows_its_page_splits_and_every_order_is_complete() -> None:
    with SimSwarm(12, seed=3) as swarm:
        bound(swarm.peers, 40)
        expected = numbers(0, 600)
        witness = Witness()
        swarm.run(witness.put_many(swarm.peers[0], "k", expected))
        assert len(witness.acknowledged) == 600
        for reader in (swarm.peers[0], swarm.peers[7]):
            assert swarm.run(values(reader.get("k"))) == expected
            assert swarm.run(values(reader.get("k", reverse=True))) == expected[::-1]
            assert swarm.run(reader.count("k")) == 600
        assert pages_of(swarm.peers[7], "k") > 16
        settle(swarm)
        assert swarm.run(values(swarm.peers[5].get("k"))) == expected
        assert swarm.run(swarm.peers[5].count("k")) == 600


@pytest.mark.soak
def test_pages_that_a_long_batch_would_fill_split_before_they_are_full() -> None:
    for records, pages in ((800, 17), (1300, 273)):  # none of 16 would hold more than 100
        with SimSwarm(12, seed=5) as swarm:
            bound(swarm.peers, 100)
            expected = numbers(0, records)
            witness = Witness()
            swarm.run(witness.put_many(swarm.peers[0], "k", expected))
            assert len(witness.acknowledged) == records
            assert swarm.run(values(swarm.peers[7].get("k"))) == expected
            assert pages_of(swarm.peers[7], "k") == pages
            settle(swarm)
            assert swarm.run(values(swarm.peers[5].get("k"))) == expected


def test_a_batch_that_can_be_read_ahead_moves_nothing_however_many_it_brings() -> None:
    """Beside the same that comes bit by bit, which has to move what it brought before the splits."""
    moved: dict[bool, int] = {}
    for ahead in (True, False):
        with SimSwarm(12, seed=5) as swarm:
            bound(swarm.peers, 100)
            expected = numbers(0, 1300)
            source = expected if ahead else trickling(expected)
            assert all(swarm.run(reached(swarm.peers[0].put_many("k", source))))
            settle(swarm)
            assert swarm.run(values(swarm.peers[7].get("k"))) == expected
            assert pages_of(swarm.peers[7], "k") == 273
            moved[ahead] = sum(peer.node.counters()["records_moved"] for peer in swarm.peers)
    assert moved[False] > 1000
    assert moved[True] == 0


async def reached(outcomes: AsyncIterator[PutOutcome]) -> list[bool]:
    return [outcome.reached async for outcome in outcomes]


async def look_below(swarm: SimSwarm) -> None:
    """Ask every peer for newer versions of a record that is on its way."""
    for peer in swarm.peers:
        asked = messages.KnownNames(place_of_page(b"k", b"0"), [b"name"], bytes(HASH_BYTES), b"")
        await peer.node.newer_here.on_find_newer(messages.FindNewer([asked]))


def test_moving_gives_way_to_those_who_read_but_not_for_ever() -> None:
    left: dict[bool, list[int]] = {}
    for busy in (False, True):
        with SimSwarm(12, seed=4) as swarm:
            bound(swarm.peers, 2500)
            swarm.run(Witness().put_many(swarm.peers[0], "k", numbers(0, 1000)))
            bound(swarm.peers, 50)
            swarm.run(swarm.peers[1].put("k", b"one too many"))
            left[busy] = [swarm.run(leftovers(swarm))]
            for _ in range(24 if busy else 7):
                if busy:
                    swarm.run(look_below(swarm))
                swarm.run_for(seconds=1)
                left[busy].append(swarm.run(leftovers(swarm)))

    idle, read = left[False], left[True]
    assert idle[0] == read[0]
    assert idle[0] - idle[7] > 4 * (read[0] - read[7]), "whoever reads goes first"
    assert read[24] < read[4], "but not for ever"


@pytest.mark.parametrize("seed", seeds([2], [1]))
def test_writers_and_readers_beside_splits_lose_and_double_nothing(seed: int) -> None:
    with SimSwarm(14, seed=seed, loss=0.03) as swarm:
        bound(swarm.peers, 24)
        witness = Witness()

        async def write(peer: Peer, number: int) -> None:
            for step in range(12):
                await witness.put_many(peer, "k", numbers(10_000 * number + 100 * step, 10))
                await witness.put(peer, "k", b"single %d %d" % (number, step))
                await asyncio.sleep(0.5)

        async def read(peer: Peer, *, reverse: bool) -> None:
            for _ in range(8):
                before = len(witness.acknowledged)
                witness.judge(await complete(peer, "k", reverse=reverse), before)
                await asyncio.sleep(0.7)

        async def everything() -> None:
            writers = [write(swarm.peers[n], n) for n in range(3)]
            await asyncio.gather(*writers, read(swarm.peers[5], reverse=False), read(swarm.peers[6], reverse=True))

        swarm.run(everything())
        assert len(witness.acknowledged) > 350
        settle(swarm)
        got = swarm.run(complete(swarm.peers[13], "k"))
        witness.judge(got)
        assert swarm.run(swarm.peers[12].count("k")) == len(got)
        assert pages_of(swarm.peers[13], "k") > 16


def test_peers_that_die_in_the_middle_of_a_split_take_nothing_with_them() -> None:
    with SimSwarm(16, seed=9) as swarm:
        bound(swarm.peers, 30)
        witness = Witness()
        swarm.run(witness.put_many(swarm.peers[0], "k", numbers(0, 25)))
        near = swarm.peers[0].node.neighbourhood.nearest(place_of_page(b"k", b""))
        nearest = [i for i, peer in enumerate(swarm.peers) if peer.node.identity.node_id in {c.id for c in near[:2]}]
        nearest = [index for index in nearest if index > 1]

        async def write() -> None:
            for step in range(10):
                await witness.put_many(swarm.peers[0], "k", numbers(100 * (step + 1), 20))

        async def die() -> None:
            await asyncio.sleep(0.6)
            for index in nearest:
                swarm.kill(index)

        async def both() -> None:
            await asyncio.gather(write(), die())

        swarm.run(both())
        witness.judge(swarm.run(complete(swarm.peers[1], "k")))
        for index in nearest:
            swarm.revive(index)
        swarm.run_for(minutes=10)
        got = swarm.run(complete(swarm.peers[1], "k"))
        witness.judge(got)
        assert swarm.run(swarm.peers[1].count("k")) == len(got)


def test_a_replica_that_missed_the_split_learns_of_it_and_its_records_move_on() -> None:
    with SimSwarm(12, seed=5) as swarm:
        bound(swarm.peers, 20)
        witness = Witness()
        swarm.run(witness.put_many(swarm.peers[0], "k", numbers(0, 9)))
        swarm.run_for(seconds=5)
        place = place_of_page(b"k", b"")
        near = {c.id for c in swarm.peers[0].node.neighbourhood.nearest(place)}
        away = next(i for i, peer in enumerate(swarm.peers) if i and peer.node.identity.node_id in near)
        swarm.kill(away)
        swarm.run(witness.put_many(swarm.peers[0], "k", numbers(100, 100)))
        swarm.revive(away)
        asleep = swarm.peers[away].node
        assert not swarm.run(asleep.replica.holdings.of(place)).split
        swarm.run_for(minutes=1)
        for reader in swarm.peers[:3]:
            witness.judge(swarm.run(complete(reader, "k")))
        swarm.run(swarm.peers[away].put("k", b"from the one that slept"))
        assert b"from the one that slept" in swarm.run(complete(swarm.peers[1], "k"))
        swarm.run_for(minutes=20)
        swarm.run(asleep.repair())
        for reader in swarm.peers:
            swarm.run(complete(reader, "k"))
        swarm.run_for(minutes=2)
        assert swarm.run(asleep.replica.holdings.of(place)).split
        settle(swarm)


def test_a_cursor_goes_on_where_it_was_while_the_key_splits() -> None:
    with SimSwarm(12, seed=8) as swarm:
        bound(swarm.peers, 50)
        first, second = numbers(0, 40), numbers(1000, 300)
        swarm.run(Witness().put_many(swarm.peers[0], "k", first))

        async def some(cursor: str | None, limit: int) -> tuple[list[bytes | None], str | None]:
            got: list[bytes | None] = []
            async for record in swarm.peers[3].get("k", after=cursor, limit=limit):
                got.append(record.value)
                cursor = record.cursor
            return got, cursor

        got, cursor = swarm.run(some(None, 15))
        assert got == first[:15]
        swarm.run(Witness().put_many(swarm.peers[0], "k", second))
        seen = list(got)
        while got:
            got, cursor = swarm.run(some(cursor, 33))
            seen += got
        assert seen == first + second
        assert pages_of(swarm.peers[3], "k") > 1


@pytest.mark.parametrize("reverse", [False, True])
def test_cursors_of_the_order_of_names_join_into_the_whole_across_pages(reverse: bool) -> None:
    """A cursor holds the record's clock too, which says nothing of where the record stands among names."""
    with SimSwarm(12, seed=14) as swarm:
        bound(swarm.peers, 20)

        async def put() -> list[str]:
            names = [f"n{number * 37 % 200:03}" for number in range(200)]
            await asyncio.gather(*(swarm.peers[0].put("k", b"v", name=name) for name in names))
            return sorted(names, reverse=reverse)

        async def read() -> list[str]:
            seen: list[str] = []
            cursor: str | None = None
            while True:
                before = len(seen)
                async for record in swarm.peers[5].get("k", order="name", reverse=reverse, after=cursor, limit=9):
                    seen.append(record.name)
                    cursor = record.cursor
                if len(seen) == before:
                    return seen

        names = swarm.run(put())
        assert swarm.run(read()) == names
        assert pages_of(swarm.peers[5], "k") > 1


def test_named_records_are_replaced_deleted_and_read_by_name_across_pages() -> None:
    with SimSwarm(12, seed=4) as swarm:
        bound(swarm.peers, 30)
        writer, reader = swarm.peers[0], swarm.peers[9]

        async def work() -> None:
            await asyncio.gather(*(writer.put("k", b"old", name=f"n{number:03}") for number in range(90)))
            await asyncio.gather(*(reader.put("k", b"new", name=f"n{number:03}") for number in range(0, 90, 2)))
            for number in range(0, 90, 3):
                assert await writer.delete("k", name=f"n{number:03}") == 1

        swarm.run(work())
        expected = {f"n{n:03}": b"old" if n % 2 else b"new" for n in range(90) if n % 3}

        async def state(order: str) -> list[tuple[str, bytes | None]]:
            return [(record.name, record.value) async for record in reader.get("k", order=order)]  # type: ignore[arg-type]

        assert swarm.run(state("name")) == sorted(expected.items())
        assert dict(swarm.run(state("time"))) == expected
        assert swarm.run(values(reader.get("k", name="n004"))) == [b"new"]
        assert swarm.run(values(reader.get("k", name="n003"))) == []
        assert swarm.run(reader.count("k", prefix="n01")) == sum(name.startswith("n01") for name in expected)
        assert [name for name, _ in swarm.run(state("name"))] == sorted(expected)
        settle(swarm)
        assert swarm.run(state("name")) == sorted(expected.items())
        assert swarm.run(writer.delete("k")) == len(expected)
        assert swarm.run(values(reader.get("k"))) == []
        assert swarm.run(reader.count("k")) == 0


def test_write_once_and_compare_and_set_hold_while_their_pages_split() -> None:
    with SimSwarm(12, seed=6) as swarm:
        bound(swarm.peers, 20)
        swarm.run(swarm.peers[0].put("k", b"first", name="once", once=True))
        version = swarm.run(swarm.peers[0].put("k", b"0", name="counter")).version
        swarm.run(Witness().put_many(swarm.peers[1], "k", numbers(0, 200)))

        async def increment(peer: Peer) -> None:
            while True:
                [record] = [record async for record in peer.get("k", name="counter")]
                try:
                    text = b"%d" % (int(record.value or b"0") + 1)
                    await peer.put("k", text, name="counter", if_version=record.version)
                    return
                except (RefusedError, IncompleteError):
                    await asyncio.sleep(0.05)

        async def race() -> None:
            await asyncio.gather(
                *(increment(peer) for peer in swarm.peers[2:7]),
                Witness().put_many(swarm.peers[1], "k", numbers(1000, 200)),
            )

        swarm.run(race())
        assert swarm.run(values(swarm.peers[9].get("k", name="counter"))) == [b"5"]
        for peer in (swarm.peers[3], swarm.peers[8]):
            with pytest.raises(RefusedError):
                swarm.run(peer.put("k", b"second", name="once", once=True))
            with pytest.raises(RefusedError):
                swarm.run(peer.put("k", b"late", name="counter", if_version=version))
        assert swarm.run(values(swarm.peers[5].get("k", name="once"))) == [b"first"]


def test_a_batch_cut_off_in_the_middle_is_put_again_whole_without_doubles() -> None:
    with SimSwarm(12, seed=7) as swarm:
        bound(swarm.peers, 40)

        async def put(peer: Peer) -> None:
            for number in range(100):
                await peer.put("k", b"%d" % number, name=f"n{number}")

        async def cut() -> None:
            task = asyncio.create_task(put(swarm.peers[0]))
            await asyncio.sleep(1.0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await put(swarm.peers[1])

        swarm.run(cut())
        assert sorted(swarm.run(values(swarm.peers[4].get("k")))) == sorted(b"%d" % number for number in range(100))


def test_an_incomplete_answer_names_the_pages_that_could_not_be_read() -> None:
    with SimSwarm(30, seed=2, k=3) as swarm:
        bound(swarm.peers, 30)
        swarm.run(Witness().put_many(swarm.peers[0], "k", numbers(0, 300)))
        settle(swarm)
        reader = swarm.peers[29]
        assert swarm.run(values(reader.get("k"))) == numbers(0, 300)
        for index in range(1, 13):
            swarm.kill(index)
        got: list[bytes | None] = []

        async def read() -> None:
            async for record in reader.get("k"):
                got.append(record.value)

        with pytest.raises(IncompleteError, match=r"page [0-9a-f]"):
            swarm.run(read())
        assert got == numbers(0, 300)[: len(got)], "what was given out before is in order and without gaps"


@pytest.mark.parametrize("records", [1, 200])
def test_peers_that_stand_in_for_silent_replicas_make_no_short_answer_that_says_complete(records: int) -> None:
    """A lookup passes silent replicas by and asks the next peers, which hold nothing: that is no empty key."""
    with SimSwarm(30, seed=3, k=3) as swarm:
        bound(swarm.peers, 40)
        swarm.run(Witness().put_many(swarm.peers[0], "k", numbers(0, records)))
        settle(swarm)
        near = {contact.id for contact in swarm.peers[29].node.neighbourhood.nearest(place_of_page(b"k", b""))}
        holders = [index for index, peer in enumerate(swarm.peers) if peer.node.identity.node_id in near]
        assert 29 not in holders
        for index in holders:
            swarm.kill(index)

        async def ask() -> list[bytes | None]:
            async with asyncio.timeout(3):  # before anybody takes the silent ones for gone
                return await values(swarm.peers[29].get("k"))

        with suppress(IncompleteError, TimeoutError):
            assert swarm.run(ask()) == numbers(0, records)
        for index in holders:
            swarm.revive(index)
        swarm.run_for(minutes=5)
        assert swarm.run(complete(swarm.peers[29], "k")) == numbers(0, records)


def test_who_holds_a_key_of_many_pages_and_how_many_records_each_peer_lists() -> None:
    with SimSwarm(20, seed=12) as swarm:
        bound(swarm.peers, 30)
        swarm.run(Witness().put_many(swarm.peers[0], "k", numbers(0, 200)))
        settle(swarm)
        infos = swarm.run(swarm.peers[3].where("k"))
        assert len(infos) == len({info.node for info in infos}) > 8
        assert all(info.holds == (not info.reason.startswith("0 of")) for info in infos)
        assert sum(info.holds for info in infos) >= 8

        async def listed(peer: Peer) -> list[tuple[bytes, int]]:
            return [item async for item in peer.keys("")]

        lists = [swarm.run(listed(peer)) for peer in swarm.peers]
        assert all([key for key, _ in keys] == [b"k"] for keys in lists if keys), "a key of many pages is one key"
        assert sum(count for keys in lists for _, count in keys) >= 200 * 8


def test_repair_brings_splits_and_records_to_all_their_replicas() -> None:
    with SimSwarm(12, seed=13, loss=0.02) as swarm:
        bound(swarm.peers, 30)
        witness = Witness()
        swarm.run(witness.put_many(swarm.peers[0], "k", numbers(0, 150)))
        swarm.run_for(minutes=3)
        for peer in swarm.peers:
            report = swarm.run(peer.node.repair())
            assert report["records_short"] == 0
        witness.judge(swarm.run(complete(swarm.peers[6], "k")))
