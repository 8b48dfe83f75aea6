"""Keys of many pages read in few messages: quick, complete, and bounded whatever strangers ask."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Collection

import msgspec
import pytest

from p2pkv import messages
from p2pkv.core.pages import PageName, place_of_page
from p2pkv.core.records import content_hash
from p2pkv.errors import IncompleteError, P2pkvError, RemoteError
from p2pkv.limits import (
    RUN_BYTES_MAX,
    RUN_LONG_BYTES_MAX,
    RUN_RECORDS_MAX,
    RUNS_ASKED_MAX,
    RUNS_BYTES_MAX,
    RUNS_RECORDS_MAX,
)
from p2pkv.outcomes import BatchChange, Record
from p2pkv.peer import Peer
from p2pkv.storage.interface import DropVersion, RangeQuery
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.opening import Found, Openings, Requests, Tell
from p2pkv.swarm.sources import Opening
from p2pkv.testing import SimSwarm
from tests.pages.checker import one_page, values
from tests.pages.test_counting import make
from tests.pages.test_splits import numbers

RECORDS = 600


def _ignore(page: PageName, opening: Opening) -> None:
    """Nothing is told before the end."""


async def first_value_s(records: AsyncIterator[Record]) -> float:
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    async for _ in records:
        break
    return loop.time() - began_s


def met(swarm: SimSwarm, reader: int) -> Peer:
    """A peer that has read the key before."""
    peer = swarm.peers[reader]
    assert sorted(swarm.run(values(peer.get("k")))) == numbers(0, RECORDS)
    return peer


def test_a_read_of_many_pages_takes_few_messages_and_its_first_value_is_there_soon() -> None:
    with SimSwarm(20, seed=1) as swarm:
        make(swarm, RECORDS)
        peer = met(swarm, 3)
        assert len(peer.node.writer.tree(b"k").leaves()) == 256
        called, sent = peer.node.bulk.service.counters["called"], peer.node.counters()["requests_sent"]
        assert swarm.run(first_value_s(peer.get("k"))) < 0.75, "a few round trips of 100 ms at most"
        assert peer.node.bulk.service.counters["called"] - called < 6 * len(swarm.peers)
        assert peer.node.counters()["requests_sent"] - sent < 3 * len(swarm.peers), "a ping each among them"


@pytest.mark.parametrize("seed", [2])
def test_neither_loss_nor_the_dead_keep_a_reader_waiting(seed: int) -> None:
    with SimSwarm(20, seed=seed) as swarm:
        make(swarm, RECORDS)
        peer = met(swarm, 3)
        swarm.network.weather.loss = 0.05
        assert swarm.run(first_value_s(peer.get("k"))) < 1.5
        swarm.network.weather.loss = 0.0
        for index in (19, 18, 17, 16):
            swarm.kill(index)
        assert swarm.run(first_value_s(peer.get("k"))) < 1.5
        assert swarm.run(values(peer.get("k"))) == numbers(0, RECORDS)
        assert swarm.run(values(peer.get("k", reverse=True))) == numbers(0, RECORDS)[::-1]


def test_a_reader_that_proves_to_be_cut_off_says_so_though_all_pages_seemed_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = Openings.open

    async def open_cut_off(of: Openings, requests: Requests, filling: Collection[PageName], tell: Tell) -> Found:
        for page, opening in (await opened(of, requests, filling, _ignore)).items():
            tell(page, opening)
        raise IncompleteError("cut off", "look at the network")

    with SimSwarm(20, seed=2) as swarm:
        make(swarm, RECORDS)
        peer = met(swarm, 3)
        monkeypatch.setattr(Openings, "open", open_cut_off)
        with pytest.raises(IncompleteError, match="cut off"):
            swarm.run(values(peer.get("k")))


def test_where_most_answer_within_milliseconds_the_dead_are_not_waited_for_longer() -> None:
    with SimSwarm(20, seed=1, delay_s=(0.0005, 0.001)) as swarm:
        make(swarm, RECORDS)
        peer = met(swarm, 3)
        for index in (19, 18, 17, 16, 15):
            swarm.kill(index)
        assert swarm.run(first_value_s(peer.get("k"))) < 0.2
        assert swarm.run(values(peer.get("k"))) == numbers(0, RECORDS)


def test_a_peer_that_dies_while_it_is_read_from_costs_nothing_but_time() -> None:
    with SimSwarm(20, seed=4) as swarm:
        make(swarm, RECORDS)
        peer = met(swarm, 3)

        async def read() -> list[bytes | None]:
            got: list[bytes | None] = []
            async for record in peer.get("k"):
                got.append(record.value)
                if len(got) == 100:
                    swarm.kill(19)
                    swarm.kill(12)
            return got

        assert swarm.run(read()) == numbers(0, RECORDS)


def test_a_reader_that_stops_in_the_middle_ends_its_reads() -> None:
    with SimSwarm(20, seed=3) as swarm:
        make(swarm, 300)
        peer = swarm.peers[3]

        async def read() -> None:
            reading = asyncio.create_task(values(peer.get("k")))
            while not peer.node.sources._runs._tasks:
                await asyncio.sleep(0.001)
            await peer.stop()
            with pytest.raises(P2pkvError):
                await asyncio.wait_for(reading, 60)

        swarm.run(read())


def test_what_was_committed_in_a_batch_is_read_though_its_page_is_opened_with_others() -> None:
    with SimSwarm(20, seed=5) as swarm:
        make(swarm, RECORDS)
        peer = met(swarm, 3)
        changes = [BatchChange(key="k", value=b"together", name=f"batch {number}") for number in range(10)]
        swarm.run(swarm.peers[1].put_batch(changes))
        got = swarm.run(values(peer.get("k")))
        assert got.count(b"together") == 10
        assert [value for value in got if value != b"together"] == numbers(0, RECORDS)


def test_replicas_that_lack_records_or_have_more_are_united() -> None:
    with SimSwarm(20, seed=6) as swarm:
        make(swarm, RECORDS)
        peer = met(swarm, 3)
        swarm.run(lose(swarm, random.Random(6)))
        assert swarm.run(values(peer.get("k"))) == numbers(0, RECORDS)


async def lose(swarm: SimSwarm, rng: random.Random) -> None:
    """One replica of each record forgets it."""
    seen: set[bytes] = set()
    for peer in swarm.peers:
        store = peer.node.store
        for page in await store.pages(limit=10_000):
            for version in (await store.read(RangeQuery(page.place))).versions:
                if version.body in seen or rng.random() < 0.5:
                    continue
                seen.add(version.body)
                await store.commit([DropVersion(page.place, *version.identity, content_hash(version))])


# --- what a stranger can do ---


def ask(swarm: SimSwarm, requests: list[messages.FindRecords]) -> list[messages.FindRecordsReply]:
    asker, asked = swarm.peers[0].node, swarm.peers[1].node
    contact = Contact(asked.identity.node_id, *asked.server.bound[0])
    return swarm.run(asker.calls.call(contact, messages.FIND_RUNS, messages.FindRuns(requests))).replies


def test_an_answer_has_a_bound_whatever_is_asked() -> None:
    with SimSwarm(2, seed=1) as swarm:
        one_page(swarm.peers)
        swarm.run(values_of(swarm.peers[1].put_many("k", [bytes(1000)] * 780)))
        place = place_of_page(b"k", b"")
        whole = messages.FindRecords(place, limit=1 << 40)
        (alone,) = ask(swarm, [whole])
        assert alone.more
        assert RUN_LONG_BYTES_MAX / 2 < sum(len(version.body) for version in alone.versions) <= RUN_LONG_BYTES_MAX
        (run,) = ask(swarm, [msgspec.structs.replace(whole, limit=RUN_RECORDS_MAX)])
        assert run.more
        assert RUN_BYTES_MAX / 2 < sum(len(version.body) for version in run.versions) <= RUN_BYTES_MAX
        many = ask(swarm, [whole] * RUNS_ASKED_MAX)
        assert sum(len(version.body) for reply in many for version in reply.versions) <= RUNS_BYTES_MAX + RUN_BYTES_MAX
        picking = messages.FindRecords(place, prefix=b"none begins so", limit=10)
        assert len(ask(swarm, [picking] * RUNS_ASKED_MAX)) == RUNS_RECORDS_MAX // 256
        short = messages.FindRecords(place, limit=0, digest_only=True)
        assert len(ask(swarm, [short] * RUNS_ASKED_MAX)) == RUNS_ASKED_MAX


async def values_of(outcomes: AsyncIterator[object]) -> None:
    async for _ in outcomes:
        pass


@pytest.mark.parametrize(
    "requests",
    [
        [],
        [messages.FindRecords(bytes(20))] * (RUNS_ASKED_MAX + 1),
        [messages.FindRecords(bytes(20)), messages.FindRecords(bytes(19))],
        [messages.FindRecords(b"")],
    ],
)
def test_a_malformed_question_is_refused(requests: list[messages.FindRecords]) -> None:
    with SimSwarm(2, seed=1) as swarm, pytest.raises(RemoteError, match="malformed"):
        ask(swarm, requests)


def _none(replies: list[messages.FindRecordsReply]) -> list[messages.FindRecordsReply]:
    return []


def _too_many(replies: list[messages.FindRecordsReply]) -> list[messages.FindRecordsReply]:
    return replies * 200


def _only_one(replies: list[messages.FindRecordsReply]) -> list[messages.FindRecordsReply]:
    return replies[:1]


def _endless(replies: list[messages.FindRecordsReply]) -> list[messages.FindRecordsReply]:
    return [messages.FindRecordsReply([], True, reply.digest, 0) for reply in replies]


def _empty(replies: list[messages.FindRecordsReply]) -> list[messages.FindRecordsReply]:
    return [messages.FindRecordsReply([], False, bytes(16), 0) for _ in replies]


def _none_of_mine(replies: list[messages.FindRecordsReply]) -> list[messages.FindRecordsReply]:
    return [messages.FindRecordsReply([], False, reply.digest, 0, mine=False) for reply in replies]


@pytest.mark.parametrize("fault", [_none, _too_many, _only_one, _endless, _empty, _none_of_mine])
def test_a_peer_that_answers_nonsense_takes_nothing_from_a_read(fault: object) -> None:
    with SimSwarm(20, seed=7) as swarm:
        make(swarm, 300)
        peer = swarm.peers[3]
        assert swarm.run(values(peer.get("k"))) == numbers(0, 300)
        for liar in swarm.peers[8:10]:
            honest = liar.node.replica.on_find_runs

            async def answer(request: messages.FindRuns, honest: object = honest) -> messages.FindRunsReply:
                reply = await honest(request)  # type: ignore[operator]
                return messages.FindRunsReply(fault(reply.replies))  # type: ignore[operator]

            liar.node.calls.register(messages.FIND_RUNS, answer)
        assert swarm.run(values(peer.get("k"))) == numbers(0, 300)
