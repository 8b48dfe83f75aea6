"""Keys read while their split pages still hold records: quick, complete, and nothing of what was replaced below."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence

import msgspec
import pytest

from p2pkv import messages
from p2pkv.core.pages import ROOT, children_of, path_of, place_of_page
from p2pkv.core.records import Version, content_hash
from p2pkv.errors import RemoteError
from p2pkv.ids import Place
from p2pkv.limits import NEWER_BYTES_MAX, NEWER_NAMES_ASKED_MAX, NEWER_PAGES_ASKED_MAX, SPLIT_LEFTOVERS_MAX
from p2pkv.outcomes import Order
from p2pkv.peer import Peer
from p2pkv.storage.interface import DropVersion, PutVersion, RangeQuery
from p2pkv.swarm import key_reading, leftovers
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.leftovers import Leftovers
from p2pkv.swarm.replica import Replica
from p2pkv.testing import SimSwarm
from tests.pages.checker import Witness, bound, one_page, values
from tests.pages.test_reading_together import first_value_s
from tests.pages.test_splits import numbers
from tests.seeds import seeds

KEY = b"k"
PLACE = place_of_page(KEY, ROOT)
READER = 9
ORDERS: list[tuple[Order, bool]] = [("time", False), ("time", True), ("name", False), ("name", True)]


def hold_still(swarm: SimSwarm) -> None:
    """Nothing is moved on: whatever lies in a split page stays there."""
    bound(swarm.peers, 100_000)
    for peer in swarm.peers:
        swarm.run(peer.node.mover.close())


def split(swarm: SimSwarm) -> None:
    assert swarm.run(swarm.peers[0].node.writer.establish(KEY, ROOT))


def replicas(swarm: SimSwarm, place: Place) -> list[Peer]:
    return [peer for peer in swarm.peers if peer.node.neighbourhood.keeps(place)]


async def held(peer: Peer, place: Place = PLACE) -> list[Version]:
    query = RangeQuery(place, limit=100_000, bytes_max=1 << 30, dead=True)
    return [version for version in (await peer.node.store.read(query)).versions if version.author]


async def drop(peer: Peer, place: Place, versions: Sequence[Version]) -> None:
    await peer.node.store.commit([DropVersion(place, *v.identity, content_hash(v)) for v in versions])


async def move_half(swarm: SimSwarm, rng: random.Random) -> None:
    """Half of the root's records lie in the children, too, and each of its replicas has dropped some of these."""
    root = replicas(swarm, PLACE)
    moved = [version for version in await held(root[0]) if rng.random() < 0.5]
    tallies = await swarm.peers[0].node.writer.store_batch(KEY, moved, "all")
    assert all(tally.reached for tally in tallies)
    for peer in root:
        await drop(peer, PLACE, [version for version in moved if rng.random() < 0.7])


def asked(peer: Peer) -> int:
    return peer.node.bulk.service.counters["called"] + peer.node.counters()["requests_sent"]


async def state(peer: Peer, order: Order, *, reverse: bool) -> list[tuple[str, bytes | None]]:
    return [(record.name, record.value) async for record in peer.get("k", order=order, reverse=reverse)]


# --- quick ---


def test_a_page_of_many_leftovers_is_read_in_few_questions_and_its_first_value_is_there_soon() -> None:
    with SimSwarm(20, seed=1) as swarm:
        hold_still(swarm)
        expected = numbers(0, 2000)
        swarm.run(Witness().put_many(swarm.peers[0], "k", expected))
        split(swarm)
        swarm.run(move_half(swarm, random.Random(1)))
        reader = swarm.peers[READER]
        swarm.network.weather.delay_s = (0.001, 0.002)
        swarm.run(first_value_s(reader.get("k")))  # meets the swarm
        assert swarm.run(first_value_s(reader.get("k"))) < 0.2, "some forty round trips of 3 ms"
        assert len(reader.node.writer.tree(KEY).leaves()) == 16
        before = asked(reader)
        assert swarm.run(values(reader.get("k"))) == expected
        assert asked(reader) - before < 32 * len(swarm.peers), "not one for every few names"


@pytest.mark.parametrize("direction", ORDERS)
def test_the_first_value_of_a_page_that_was_just_split_does_not_wait_for_all_that_it_holds(
    direction: tuple[Order, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    order, reverse = direction
    handed = list[int]()
    find_runs = Replica.find_runs

    async def noting(self: Replica, requests: Sequence[messages.FindRecords]) -> list[messages.FindRecordsReply]:
        replies = await find_runs(self, requests)
        handed.extend(len(reply.versions) for reply in replies)
        return replies

    monkeypatch.setattr(Replica, "find_runs", noting)
    with SimSwarm(20, seed=4) as swarm:
        hold_still(swarm)
        split(swarm)
        expected = numbers(0, 1600)
        swarm.run(Witness().put_many(swarm.peers[0], "k", expected))
        for page in children_of(ROOT)[:4]:  # 400 records, and all of them are on their way
            assert swarm.run(swarm.peers[0].node.writer.establish(KEY, page))
        reader = swarm.peers[READER]
        swarm.network.weather.delay_s = (0.001, 0.002)
        handed.clear()
        swarm.run(first_value_s(reader.get("k", order=order, reverse=reverse)))
        assert sum(handed) < 400, "a few of each page, by each of a quorum"
        assert len(reader.node.writer.tree(KEY).noticed) == 5
        there = swarm.run(state(reader, order, reverse=reverse))
        assert sorted(value or b"" for _, value in there) == expected
        if order == "name":
            assert there == sorted(there, reverse=reverse)


@pytest.mark.parametrize("direction", ORDERS)
def test_a_split_page_below_a_split_page_holds_nobody_up(direction: tuple[Order, bool]) -> None:
    """All of them hold much, so one must be read up to where the one above it was, and no further."""
    order, reverse = direction
    with SimSwarm(12, seed=6) as swarm:
        hold_still(swarm)
        swarm.run(Witness().put_many(swarm.peers[0], "k", numbers(0, 300)))
        split(swarm)
        swarm.run(Witness().put_many(swarm.peers[0], "k", numbers(300, 600)))
        for page in children_of(ROOT)[:8]:
            assert swarm.run(swarm.peers[0].node.writer.establish(KEY, page))
        swarm.run(Witness().put_many(swarm.peers[0], "k", numbers(900, 300)))
        whole = swarm.run(state(swarm.peers[0], order, reverse=reverse))
        assert sorted(value or b"" for _, value in whole) == numbers(0, 1200)
        for limit in (1, 5, 20, 60, 500):
            reader = swarm.peers[1 + limit % 11]
            some = swarm.run(values(reader.get("k", order=order, reverse=reverse, limit=limit)))
            assert some == [value for _, value in whole[:limit]]


@pytest.mark.parametrize("direction", ORDERS)
def test_newer_versions_further_on_hold_nobody_up(direction: tuple[Order, bool]) -> None:
    """What a split page holds was replaced below, as often as not: the new versions stand behind all that it holds."""
    order, reverse = direction

    async def put(swarm: SimSwarm, what: bytes, numbers: Sequence[int]) -> None:
        peer = swarm.peers[0]
        await asyncio.gather(*(peer.put("k", what + b" %d" % number, name=f"{number:04d}") for number in numbers))

    with SimSwarm(12, seed=7) as swarm:
        hold_still(swarm)
        swarm.run(put(swarm, b"old", range(500)))
        split(swarm)
        swarm.run(put(swarm, b"new", range(0, 500, 2)))
        expected = {f"{number:04d}": b"%s %d" % (b"old" if number % 2 else b"new", number) for number in range(500)}
        whole = swarm.run(state(swarm.peers[0], order, reverse=reverse))
        assert len(whole) == 500
        assert dict(whole) == expected
        for limit in (1, 5, 20, 60, 400):
            reader = swarm.peers[1 + limit % 11]
            some = swarm.run(values(reader.get("k", order=order, reverse=reverse, limit=limit)))
            assert some == [value for _, value in whole[:limit]]


def test_what_stands_behind_the_marker_of_a_split_page_is_the_first_of_it() -> None:
    with SimSwarm(12, seed=5) as swarm:
        hold_still(swarm)
        swarm.run(Witness().put_many(swarm.peers[0], "k", numbers(0, 20)))
        split(swarm)
        (reply,) = swarm.run(replicas(swarm, PLACE)[0].node.replica.find_runs([messages.FindRecords(PLACE, limit=1)]))
        assert reply.split
        assert reply.more
        assert [version.body for version in reply.versions] == numbers(0, 1)


def test_a_replica_that_fails_in_the_middle_of_its_share_is_replaced() -> None:
    with SimSwarm(20, seed=3) as swarm:
        hold_still(swarm)
        expected = numbers(0, 1500)
        swarm.run(Witness().put_many(swarm.peers[0], "k", expected))
        split(swarm)
        swarm.run(move_half(swarm, random.Random(3)))
        for failing in replicas(swarm, PLACE)[:4]:
            honest = failing.node.replica.on_find_runs

            async def answer(request: messages.FindRuns, honest: object = honest) -> messages.FindRunsReply:
                if any(asked.place == PLACE and asked.after is not None for asked in request.requests):
                    raise RemoteError("failed", "the disk")
                return await honest(request)  # type: ignore[operator,no-any-return]

            failing.node.calls.register(messages.FIND_RUNS, answer)
        assert swarm.run(values(swarm.peers[READER].get("k"))) == expected


@pytest.mark.parametrize("direction", seeds(ORDERS[:1], ORDERS[1:]))
def test_however_much_split_pages_hold_a_read_remembers_a_part_of_it(
    direction: tuple[Order, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    order, reverse = direction
    monkeypatch.setattr(leftovers, "SPLIT_LEFTOVERS_MAX", 100)
    monkeypatch.setattr(leftovers, "SPLIT_LEFTOVERS_ALL_MAX", 400)
    monkeypatch.setattr(leftovers, "SPLIT_OPENED_RECORDS", 20)
    monkeypatch.setattr(key_reading, "READ_BUFFERED_RECORDS_MAX", 400)
    remembered = list[int]()
    add = Leftovers.add

    def noting(self: Leftovers, version: Version) -> None:
        add(self, version)
        remembered.append(len(self))

    monkeypatch.setattr(Leftovers, "add", noting)
    with SimSwarm(10, seed=2) as swarm:
        hold_still(swarm)
        split(swarm)
        expected = numbers(0, 3200)
        swarm.run(Witness().put_many(swarm.peers[0], "k", expected))
        for page in children_of(ROOT):
            assert swarm.run(swarm.peers[0].node.writer.establish(KEY, page))
        got = swarm.run(values(swarm.peers[READER].get("k", order=order, reverse=reverse)))
        assert got == (expected[::-1] if reverse else expected)
        most = max(remembered)
        assert most == 3200 if direction == ("time", True) else 400 < most < 2000, "in reverse of time, all"


# --- right ---


def replaced(swarm: SimSwarm) -> dict[str, bytes]:
    """Records of which many were replaced or deleted below, though the split page has their old versions; what is
    newer lies at a bare majority of each child's replicas. Returns what stands."""
    hold_still(swarm)
    names = [f"n{number:03}" for number in range(240)]
    writer, other = swarm.peers[0], swarm.peers[1]

    async def put(peer: Peer, some: Sequence[str], value: bytes) -> None:
        await asyncio.gather(*(peer.put("k", value, name=name, acks="all") for name in some))

    swarm.run(put(writer, names, b"old"))
    split(swarm)
    swarm.run(put(other, names[::2], b"new"))

    async def delete() -> None:
        await asyncio.gather(*(writer.delete("k", name=name) for name in names[::3]))

    swarm.run(delete())
    swarm.run_for(seconds=5)
    rng = random.Random(1)
    for child in sorted({path_of(name.encode())[:1] for name in names}):
        place = place_of_page(KEY, child)
        for peer in rng.sample(replicas(swarm, place), 3):
            swarm.run(drop(peer, place, swarm.run(held(peer, place))))
    root = replicas(swarm, PLACE)
    assert {len(swarm.run(held(peer))) for peer in root} == {240}, "the old versions are all there"
    return {name: b"old" if n % 2 else b"new" for n, name in enumerate(names) if n % 3}


@pytest.fixture(scope="module")
def halfway() -> Iterator[tuple[SimSwarm, dict[str, bytes]]]:
    with SimSwarm(16, seed=4) as swarm:
        yield swarm, replaced(swarm)


@pytest.mark.parametrize(("order", "reverse"), ORDERS)
def test_what_was_replaced_or_deleted_below_does_not_come_back(
    halfway: tuple[SimSwarm, dict[str, bytes]], order: Order, reverse: bool
) -> None:
    swarm, expected = halfway
    got = swarm.run(state(swarm.peers[READER], order, reverse=reverse))
    assert len(got) == len(expected), "each once"
    assert dict(got) == expected
    if order == "name":
        assert [name for name, _ in got] == sorted(expected, reverse=reverse)


def test_nor_does_it_where_datagrams_are_lost_and_one_replica_is_dead() -> None:
    with SimSwarm(16, seed=5) as swarm:
        expected = replaced(swarm)
        swarm.network.weather.loss = 0.05
        holders = [swarm.peers.index(peer) for peer in replicas(swarm, PLACE)]
        swarm.kill(next(index for index in holders if index != READER))
        for order, reverse in ORDERS:
            got = swarm.run(state(swarm.peers[READER], order, reverse=reverse))
            assert (len(got), dict(got)) == (len(expected), expected)


@pytest.mark.parametrize("at_once", [SPLIT_LEFTOVERS_MAX, 10])
def test_an_older_version_in_a_child_gives_way_to_the_one_that_is_still_above(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica that had missed a replacement moved its old version on; the others have not come to theirs yet.

    So it is where the split page holds so much that it is read in parts, the newer versions last.
    """
    monkeypatch.setattr(leftovers, "SPLIT_LEFTOVERS_MAX", at_once)
    monkeypatch.setattr(leftovers, "SPLIT_OPENED_RECORDS", at_once)
    with SimSwarm(16, seed=6) as swarm:
        hold_still(swarm)
        names = [f"n{number:02}" for number in range(40)]
        root = replicas(swarm, PLACE)

        async def put(value: bytes) -> None:
            for name in names:
                await swarm.peers[0].put("k", value, name=name, acks="all")

        swarm.run(put(b"old"))
        old = swarm.run(held(root[0]))
        swarm.run(Witness().put_many(swarm.peers[0], "k", numbers(0, 40)))
        between = [version for version in swarm.run(held(root[0])) if version not in old]
        swarm.run(put(b"new"))
        new = [version for version in swarm.run(held(root[0])) if version not in between]

        async def turn_back(peer: Peer) -> None:
            await drop(peer, PLACE, new)
            await peer.node.store.commit([PutVersion(PLACE, KEY, version) for version in old])

        for peer in root[:3]:
            swarm.run(turn_back(peer))
        split(swarm)
        swarm.run(swarm.peers[0].node.writer.store_batch(KEY, old, "all"))
        for order, reverse in ORDERS:
            got = swarm.run(state(swarm.peers[READER], order, reverse=reverse))
            got = [(name, value) for name, value in got if name in names]
            assert sorted(got) == [(name, b"new") for name in names], (order, reverse)


def test_what_was_deleted_before_the_cursor_of_a_read_in_reverse_does_not_come_back() -> None:
    """The deletion is newer, so such a read has passed it; a replica that missed it still has the record."""
    with SimSwarm(16, seed=6) as swarm:
        hold_still(swarm)
        names = [f"n{number:02}" for number in range(20)]
        root = replicas(swarm, PLACE)

        async def put(some: Sequence[str]) -> None:
            for name in some:
                await swarm.peers[0].put("k", b"value", name=name, acks="all")

        async def delete(some: Sequence[str]) -> None:
            for name in some:
                await swarm.peers[0].delete("k", name=name)

        async def turn_back(peer: Peer, old: Sequence[Version]) -> None:
            await drop(peer, PLACE, await held(peer))
            await peer.node.store.commit([PutVersion(PLACE, KEY, version) for version in old])

        async def behind_the_first(peer: Peer) -> list[str]:
            (first,) = [record async for record in peer.get("k", reverse=True, limit=1)]
            return [record.name async for record in peer.get("k", reverse=True, after=first.cursor)]

        swarm.run(put(names))
        old = swarm.run(held(root[0]))
        swarm.run(delete(names[:10]))
        swarm.run_for(seconds=3)
        nearest = swarm.peers[READER].node.neighbourhood.nearest(PLACE)
        stale = {contact.id for contact in nearest[:3]}  # those who are asked first
        for peer in root:
            if peer.node.identity.node_id in stale:
                swarm.run(turn_back(peer, old))
        split(swarm)
        for reader in swarm.peers[8:]:
            assert swarm.run(behind_the_first(reader)) == names[18:9:-1]


# --- whoever is asked ---


def know_nothing_of_it(peers: Sequence[Peer]) -> None:
    async def answer(request: messages.FindNewer) -> messages.FindNewerReply:
        raise RemoteError("unknown-method", messages.FIND_NEWER.name)

    for peer in peers:
        peer.node.calls.register(messages.FIND_NEWER, answer)


@pytest.mark.parametrize("old", [slice(0, None), slice(0, None, 2)], ids=["all", "half"])
def test_peers_that_do_not_know_the_question_are_asked_by_name(old: slice) -> None:
    with SimSwarm(16, seed=7) as swarm:
        expected = replaced(swarm)
        know_nothing_of_it(swarm.peers[old])
        assert dict(swarm.run(state(swarm.peers[READER], "time", reverse=False))) == expected


def test_a_small_swarm_is_read_so_too() -> None:
    with SimSwarm(5, seed=8) as swarm:
        hold_still(swarm)
        expected = numbers(0, 300)
        swarm.run(Witness().put_many(swarm.peers[0], "k", expected))
        split(swarm)
        swarm.run(move_half(swarm, random.Random(8)))
        assert swarm.run(values(swarm.peers[4].get("k"))) == expected


Replies = list[messages.FindNamesReply]
FAULTS: dict[str, Callable[[Replies], Replies]] = {
    "none": lambda replies: [],
    "too many": lambda replies: replies * 300,
    "only one": lambda replies: replies[:1],
    "nothing answered": lambda replies: [messages.FindNamesReply([], 0) for _ in replies],
    "too much answered": lambda replies: [messages.FindNamesReply([], 1 << 40) for _ in replies],
    "no replica": lambda replies: [messages.FindNamesReply([], r.answered, mine=False) for r in replies],
    "batches that are none": lambda replies: [msgspec.structs.replace(r, batches=[b"x"]) for r in replies],
    "made up": lambda replies: [msgspec.structs.replace(r, versions=made_up()) for r in replies],
}


def made_up() -> list[Version]:
    return [Version(b"n%03d" % number, 1 << 62, bytes(32), 0, 0, 4, b"fake", b"", bytes(64)) for number in range(240)]


ALWAYS = ("none", "no replica", "made up")


@pytest.mark.parametrize("fault", seeds(ALWAYS, sorted(FAULTS.keys() - ALWAYS)))
def test_peers_that_answer_nonsense_take_nothing_from_a_read(fault: str) -> None:
    with SimSwarm(16, seed=10) as swarm:
        expected = replaced(swarm)
        for liar in swarm.peers[2:4]:
            honest = liar.node.newer_here.on_find_newer

            async def answer(request: messages.FindNewer, honest: object = honest) -> messages.FindNewerReply:
                reply = await honest(request)  # type: ignore[operator]
                return messages.FindNewerReply(FAULTS[fault](reply.replies))

            liar.node.calls.register(messages.FIND_NEWER, answer)
        assert dict(swarm.run(state(swarm.peers[READER], "time", reverse=False))) == expected


def ask(swarm: SimSwarm, pages: list[messages.KnownNames]) -> Replies:
    asker, answerer = swarm.peers[0].node, swarm.peers[1].node
    contact = Contact(answerer.identity.node_id, *answerer.server.bound[0])
    return swarm.run(asker.calls.call(contact, messages.FIND_NEWER, messages.FindNewer(pages))).replies


def question(versions: Sequence[Version], *, known: bool) -> messages.KnownNames:
    hashes = b"".join(content_hash(version) if known else bytes(16) for version in versions)
    return messages.KnownNames(PLACE, [version.name for version in versions], hashes)


def test_an_answer_has_a_bound_and_tells_nothing_that_is_known() -> None:
    with SimSwarm(2, seed=1) as swarm:
        one_page(swarm.peers)
        swarm.run(Witness().put_many(swarm.peers[1], "k", [b"%04d" % n + bytes(1000) for n in range(700)]))
        versions = swarm.run(held(swarm.peers[1]))
        (reply,) = ask(swarm, [question(versions, known=True)])
        assert (reply.answered, reply.versions) == (700, [])
        (reply,) = ask(swarm, [question(versions, known=False)] * 3)
        assert 300 < reply.answered < 700
        assert reply.versions == versions[: reply.answered]
        assert sum(len(version.body) for version in reply.versions) < NEWER_BYTES_MAX
        few = [question(versions[:100], known=False), question(versions, known=True)]
        assert [(r.answered, len(r.versions)) for r in ask(swarm, few)] == [(100, 100), (700, 0)]


@pytest.mark.parametrize(
    "pages",
    [
        [],
        [messages.KnownNames(PLACE, [b"n"], bytes(16))] * (NEWER_PAGES_ASKED_MAX + 1),
        [messages.KnownNames(PLACE, [b"n"] * (NEWER_NAMES_ASKED_MAX + 1), bytes(16 * (NEWER_NAMES_ASKED_MAX + 1)))],
        [messages.KnownNames(PLACE, [], b"")],
        [messages.KnownNames(PLACE, [b"n"], bytes(15))],
        [messages.KnownNames(bytes(19), [b"n"], bytes(16))],
        [messages.KnownNames(PLACE, [bytes(1025)], bytes(16))],
    ],
)
def test_a_malformed_question_is_refused(pages: list[messages.KnownNames]) -> None:
    with SimSwarm(2, seed=1) as swarm, pytest.raises(RemoteError, match="malformed"):
        ask(swarm, pages)
