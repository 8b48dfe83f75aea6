"""What a replica says of its pages follows what is written, without reading them again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pkv.core.pages import split_marker
from p2pkv.storage.interface import PutVersion, RangeQuery, RangeResult, Write
from p2pkv.storage.memory import MemoryStore
from p2pkv.swarm.environment import Environment
from p2pkv.swarm.holdings import Holdings, PageBound
from p2pkv.swarm.inventory import StoreInventory
from p2pkv.swarm.neighbourhood import Neighbourhood
from p2pkv.swarm.summaries import Summaries, Summary, Voices
from p2pkv.testing import SimSwarm
from tests.pages.checker import Witness
from tests.pages.test_splits import bound, numbers
from tests.storage.samples import NOW_S, PLACE, PLACES, Clock, put, series, version, writes

UNSURE = (b"", 0)


class OfOneMind(Neighbourhood):
    """This peer is a replica of every page, and all agree who the others are."""

    def __init__(self) -> None:
        """Knows of nobody."""

    def view(self, place: object) -> tuple[bytes, list[object]]:  # type: ignore[override]
        return b"view", []

    def differing(self, place: object, view: bytes) -> list[object]:  # type: ignore[override]
        return []

    def speaks_for(self, place: object) -> bool:
        return True


class WatchedStore(MemoryStore):
    """Counts the readings of pages, and may write right behind one."""

    reads = 0
    behind_read: Sequence[Write] = ()

    async def read(self, query: RangeQuery) -> RangeResult:
        self.reads += query.limit > 1
        result = await super().read(query)
        if self.behind_read:
            written, self.behind_read = self.behind_read, ()
            await self.commit(written)
        return result


class Rig:
    """A replica's summaries beside its store."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = WatchedStore(self.clock)
        inventory = StoreInventory(self.store)
        self.store.watcher = inventory
        self.summaries = self.fresh()
        inventory.on_changed = self.summaries.on_changed

    def fresh(self) -> Summaries:
        """Such as know nothing of what was written."""
        return Summaries(Holdings(self.store, PageBound()), OfOneMind(), Environment(now_s=self.clock))

    async def said(self) -> list[Summary]:
        return [await self.summaries.of(place, b"view") for place in PLACES]

    async def read_anew(self) -> list[Summary]:
        summaries = self.fresh()
        return [await summaries.of(place, b"view") for place in PLACES]


commits = st.lists(writes, min_size=1, max_size=4)


@given(st.lists(st.tuples(commits, st.booleans(), st.booleans()), max_size=12))
def test_whatever_is_written_it_says_what_the_whole_page_comes_to(steps: list[tuple[list[Write], bool, bool]]) -> None:
    async def play() -> None:
        rig = Rig()
        for commit, asked, later in steps:
            await rig.store.commit(commit)
            rig.clock.now_s += 0.001 * later  # then some have expired
            if asked:
                assert await rig.said() == await rig.read_anew()
        assert await rig.said() == await rig.read_anew()

    asyncio.run(play())


def test_a_page_that_it_has_known_from_its_first_record_on_is_never_read() -> None:
    async def play() -> None:
        rig = Rig()
        versions = series(30)
        for number in (2, 0, 1):  # in whatever order they come
            await rig.store.commit([put(v) for v in versions[number * 10 : (number + 1) * 10]])
        digest, live = await rig.summaries.of(PLACE, b"view")
        assert live == 30
        await rig.store.commit([put(version(versions[3].name, versions[-1].clock + 1, body=b"another"))])
        changed = await rig.summaries.of(PLACE, b"view")
        assert changed[1] == 30
        assert changed[0] != digest
        assert rig.store.reads == 0

    asyncio.run(play())


def test_for_a_page_that_splits_it_does_not_speak() -> None:
    async def play() -> None:
        rig = Rig()
        await rig.store.commit([put(version())])
        assert (await rig.summaries.of(PLACE, b"view"))[1] == 1
        await rig.store.commit([PutVersion(PLACE, b"key", split_marker(b""))])
        assert await rig.summaries.of(PLACE, b"view") == UNSURE

    asyncio.run(play())


def test_records_that_were_lost_count_no_more() -> None:
    async def play() -> None:
        rig = Rig()
        await rig.store.commit([put(v) for v in series(5)])
        assert (await rig.summaries.of(PLACE, b"view"))[1] == 5
        rig.store.watcher.lost_records()
        await rig.summaries.of(PLACE, b"view")
        assert rig.store.reads == 1, "nobody knows which were lost, so the page is read"

    asyncio.run(play())


def test_one_that_had_expired_takes_nothing_with_it_when_it_is_replaced() -> None:
    async def play() -> None:
        rig = Rig()
        await rig.store.commit([put(version(clock=1, expires_s=NOW_S)), put(version(b"another"))])
        assert (await rig.summaries.of(PLACE, b"view"))[1] == 1
        await rig.store.commit([put(version(clock=2))])
        assert (await rig.summaries.of(PLACE, b"view"))[1] == 2

    asyncio.run(play())


def test_what_is_written_while_a_page_is_read_is_not_forgotten() -> None:
    async def play() -> None:
        rig = Rig()
        await rig.store.commit([put(version())])
        rig.summaries.on_changed(None, ())
        rig.store.behind_read = [put(version(b"meanwhile"))]
        await rig.summaries.of(PLACE, b"view")
        assert (await rig.summaries.of(PLACE, b"view"))[1] == 2

    asyncio.run(play())


@pytest.mark.parametrize(
    ("said", "count"),
    [
        ("aaaa", 2),
        ("aaab", None),
        ("aaabba", 2),  # b lag
        ("aaacca", None),  # c have more: it may be acknowledged, by others in the place of some of these
        ("aaabbb--", None),
        ("aaa----a", 2),
        ("--------", None),
    ],
)
def test_a_quorum_of_one_mind_is_enough_unless_somebody_has_more(said: str, count: int | None) -> None:
    summaries = {"a": (b"a" * 16, 2), "b": (b"b" * 16, 1), "c": (b"c" * 16, 3), "-": UNSURE}
    assert Voices(PLACE, b"view", [summaries[voice] for voice in said]).agreed(4) == count


def test_behind_puts_that_not_all_have_yet_a_count_asks_the_others_and_reads_no_page() -> None:
    with SimSwarm(20, seed=5, loss=0.05) as swarm:
        bound(swarm.peers, 24)
        swarm.run(Witness().put_many(swarm.peers[0], "k", numbers(0, 600)))
        assert swarm.run(swarm.peers[0].count("k")) == 600  # learns what is split
        swarm.run(Witness().put_many(swarm.peers[0], "k", numbers(600, 100)))
        before = swarm.peers[0].node.counters()["requests_sent"]
        assert swarm.run(swarm.peers[0].count("k")) == 700
        requests = swarm.peers[0].node.counters()["requests_sent"] - before
        assert 19 < requests < 3 * 19, "of 256 pages"
