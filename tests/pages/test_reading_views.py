"""Keys of many pages read while peers differ about who the replicas are: all pages together, and nothing missing."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from p2pkv.core.pages import place_of_page
from p2pkv.core.records import content_hash
from p2pkv.ids import Place, distance, place_of_key
from p2pkv.limits import CONTACT_FAILURES_MAX, K_DEFAULT
from p2pkv.storage.interface import DropVersion, PutVersion, RangeQuery
from p2pkv.testing import SimSwarm
from tests.pages.checker import Witness, values
from tests.pages.test_counting import make
from tests.pages.test_reading_together import first_value_s
from tests.pages.test_splits import numbers
from tests.seeds import seeds

RECORDS = 600
PEERS = 20
READER, WRITER = 3, 4


def nearest(swarm: SimSwarm, place: bytes) -> list[int]:
    """The peers by their distance from a place."""
    return sorted(range(PEERS), key=lambda index: distance(swarm.peers[index].node.identity.node_id, Place(place)))


# --- the dead ---


@pytest.mark.parametrize("since_s", seeds([25], [0]))
def test_pages_are_opened_together_whoever_knows_of_the_dead(since_s: float) -> None:
    with SimSwarm(PEERS, seed=1) as swarm:
        make(swarm, RECORDS)
        reader = swarm.peers[READER]
        assert swarm.run(values(reader.get("k"))) == numbers(0, RECORDS)
        for index in range(PEERS - 7, PEERS):
            swarm.kill(index)
        swarm.run_for(seconds=since_s)
        asked = reader.node.counters()["requests_sent"]
        assert swarm.run(first_value_s(reader.get("k"))) < 2, "a few round trips of 100 ms, and one patience"
        assert reader.node.counters()["requests_sent"] - asked < 256, "no lookup for each of the 256 pages"
        assert swarm.run(values(reader.get("k"))) == numbers(0, RECORDS)


def test_pages_that_three_replicas_are_left_of_are_opened_with_all_others() -> None:
    with SimSwarm(PEERS, seed=1) as swarm:
        make(swarm, RECORDS)
        reader = swarm.peers[READER]
        assert swarm.run(values(reader.get("k"))) == numbers(0, RECORDS)
        near = [index for index in nearest(swarm, place_of_page(b"k", b"00")) if index not in (0, READER)]
        for index in [*near[:5], *near[-2:]]:
            swarm.kill(index)
        asked = reader.node.counters()["requests_sent"]
        assert swarm.run(first_value_s(reader.get("k"))) < 1.2, "three round trips of 100 ms, and one doubt"
        assert reader.node.counters()["requests_sent"] - asked < 1000, "lookups of those pages take four times as many"
        assert swarm.run(values(reader.get("k"))) == numbers(0, RECORDS)


# --- those whom some take for dead ---


def test_what_was_acknowledged_by_others_in_the_place_of_replicas_is_read_by_who_hears_these() -> None:
    """Three peers are cut off from all but the reader. So others keep their records, and the reader hears both."""
    with SimSwarm(PEERS, seed=1) as swarm:
        make(swarm, RECORDS)
        reader, writer = swarm.peers[READER], swarm.peers[WRITER]
        assert swarm.run(values(reader.get("k"))) == numbers(0, RECORDS)
        assert swarm.run(values(writer.get("k"))) == numbers(0, RECORDS)
        replicas = [nearest(swarm, place_of_page(b"k", page)) for page in writer.node.writer.tree(b"k").leaves()]
        cut = next(three for three in (near[:3] for near in replicas) if not {READER, WRITER} & {*three})
        assert sum({*cut} <= {*near[:K_DEFAULT]} for near in replicas) > 32, "many pages have all three as replicas"
        swarm.partition([cut], but=[READER])
        swarm.run(miss(swarm, cut))
        later = numbers(RECORDS, RECORDS)

        async def put() -> None:
            assert all([outcome.reached async for outcome in writer.put_many("k", later)])

        swarm.run(put())
        swarm.run(forget(swarm, {*later}, cut))
        assert swarm.run(values(reader.get("k"))) == numbers(0, 2 * RECORDS)


async def miss(swarm: SimSwarm, cut: list[int]) -> None:
    """Let all but the reader ask for these in vain until they have forgotten them."""
    gone = [swarm.peers[index].node for index in cut]
    others = [peer for index, peer in enumerate(swarm.peers) if index not in {READER, *cut}]
    tables = [peer.node.server.protocol for peer in others]
    for _ in range(CONTACT_FAILURES_MAX):
        calls = [
            table.call_ping(table.contact_for(node.identity.node_id, node.server.bound[0]))
            for table in tables
            for node in gone
        ]
        assert not any(happened for happened, _ in await asyncio.gather(*calls))
    ids = {node.identity.node_id for node in gone}
    assert not any(ids & {contact.id for contact in table.router.contacts()} for table in tables)


async def forget(swarm: SimSwarm, new: set[bytes], cut: list[int]) -> None:
    """All but a write quorum of those who keep a new record lose it: first those keep it who stand in for others."""
    holders: dict[tuple[Place, bytes], list[int]] = {}
    for index, peer in enumerate(swarm.peers):
        for page in await peer.node.store.pages(limit=10_000):
            for version in (await peer.node.store.read(RangeQuery(page.place))).versions:
                if version.body in new:
                    holders.setdefault((page.place, version.body), []).append(index)
    for (place, body), kept_by in holders.items():
        assert not set(kept_by) & set(cut)
        replicas = nearest(swarm, place)[:K_DEFAULT]
        kept_by.sort(key=lambda index: (index in replicas, -replicas.index(index) if index in replicas else 0))
        for index in kept_by[K_DEFAULT // 2 + 1 :]:
            store = swarm.peers[index].node.store
            for version in (await store.read(RangeQuery(place))).versions:
                if version.body == body:
                    await store.commit([DropVersion(place, *version.identity, content_hash(version))])


def test_a_page_that_three_replicas_are_left_of_is_read_in_long_runs() -> None:
    """Others in the place of the dead hold nothing yet: what the three agree on is asked of nobody by name."""
    with SimSwarm(20, seed=3) as swarm:
        swarm.run_for(seconds=30)
        expected = numbers(0, 1200)
        swarm.run(Witness().put_many(swarm.peers[0], "k", expected))
        swarm.run_for(seconds=30)
        place = place_of_key(b"k")
        near = sorted(swarm.up, key=lambda index: distance(swarm.peers[index].left.identity.node_id, place))
        for index in [*near[:5], *near[-2:]]:
            swarm.kill(index)
        reader = swarm.peers[near[14]]
        began_s, asked = swarm.now_s, reader.node.counters()["requests_sent"]
        assert swarm.run(values(reader.get("k"))) == expected
        assert swarm.now_s - began_s < 8, "page by page in 30 records each it took half a minute"
        assert reader.node.counters()["requests_sent"] - asked < 100, "1,200 names of eight peers are 150 requests"
        assert reader.node.counters()["records_mended"] == 0, "who has just come fetches its whole share by itself"


def test_a_record_that_one_replica_made_up_is_not_told() -> None:
    """The others hold less than it does, and that is known of them: nobody is asked by name."""
    with SimSwarm(PEERS, seed=1) as swarm:
        swarm.run_for(seconds=30)
        swarm.run(Witness().put_many(swarm.peers[0], "k", numbers(0, 3)))
        place = place_of_key(b"k")
        store = swarm.peers[nearest(swarm, place)[0]].node.store

        async def make_up() -> None:
            standing = (await store.read(RangeQuery(place))).versions[0]
            other = msgspec.structs.replace(standing, clock=standing.clock + 1, name=b"invented")
            await store.commit([PutVersion(place, b"k", other)])

        swarm.run(make_up())
        for reader in (READER, nearest(swarm, place)[0]):
            assert swarm.run(values(swarm.peers[reader].get("k"))) == numbers(0, 3)
