"""Watching in virtual time: every acknowledged put is told once, by a record of its own, whatever befalls."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from p2pkv import messages
from p2pkv.core import watching as core_watching
from p2pkv.core.drafts import Draft
from p2pkv.core.records import Version
from p2pkv.core.replication import read_quorum
from p2pkv.errors import P2pkvError, RemoteError
from p2pkv.ids import distance, place_of_key
from p2pkv.limits import WATCH_LEASE_S, WATCH_LEASE_S_MAX, WATCH_SPARE_LEASES
from p2pkv.outcomes import Record
from p2pkv.peer import Peer
from p2pkv.simulation.simulation import host_of
from p2pkv.swarm import leases, watching
from p2pkv.testing import Seat, SimPeer, SimSwarm
from tests.seeds import seeds

KEY = "watched"
PLACE = place_of_key(KEY.encode())


@dataclass
class Journal:
    """What was acknowledged to writers, kept apart from everything that is tested."""

    puts: dict[str, bytes] = field(default_factory=dict)
    unclear: set[str] = field(default_factory=set)  # not acknowledged: they may be told or not

    async def put(self, peer: Peer, number: int) -> None:
        value = b"update %d" % number
        name = f"update-{number}"
        try:
            await peer.put(KEY, value, name=name)
        except P2pkvError:
            self.unclear.add(name)
        else:
            self.puts[name] = value

    async def write(self, peers: Callable[[int], Peer], numbers: Sequence[int], rate: float) -> None:
        """Put at a steady rate, whatever the answers take."""
        async with asyncio.TaskGroup() as group:
            for number in numbers:
                group.create_task(self.put(peers(number), number))
                await asyncio.sleep(1 / rate)


@dataclass
class Listener:
    """A user of `watch` who writes down what comes."""

    told: list[Record] = field(default_factory=list)
    cursor: str | None = None

    async def listen(self, peer: Peer, *, pause_s: float = 0.0) -> None:
        async with aclosing(_watch(peer, self.cursor)) as records:
            async for record in records:
                self.told.append(record)
                self.cursor = record.cursor
                if pause_s:
                    await asyncio.sleep(pause_s)

    @asynccontextmanager
    async def listening(self, peer: Peer, *, ready: bool = True, **options: Any) -> AsyncIterator[None]:
        """`ready`: first wait until the watch has begun; what was put before need not be told."""
        task = asyncio.create_task(self.listen(peer, **options))
        try:
            while ready and not all(watch.begun for watch in peer.node.watching.watches or [_NOT_YET]):
                assert not task.done(), task.exception()
                await asyncio.sleep(0.01)
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def caught_up(self, journal: Journal, within_s: float) -> None:
        """Wait until everything acknowledged was told."""
        async with asyncio.timeout(within_s):
            while not journal.puts.keys() <= {record.name for record in self.told}:
                await asyncio.sleep(0.1)

    def check(self, journal: Journal) -> None:
        names = Counter(record.name for record in self.told)
        assert not journal.puts.keys() - names.keys(), "missed"
        assert not [name for name, count in names.items() if count > 1], "doubled"
        assert names.keys() <= journal.puts.keys() | journal.unclear, "invented"
        assert all(record.value == journal.puts.get(record.name, record.value) for record in self.told)


_NOT_YET = SimpleNamespace(begun=False)


def _watch(peer: Peer, after: str | None = None) -> AsyncGenerator[Record]:
    watched = peer.watch(KEY, after=after)
    assert isinstance(watched, AsyncGenerator)
    return watched


def nearest(swarm: SimSwarm, but: Sequence[int] = ()) -> list[int]:
    """Peers that run, nearest to the key first."""
    near = sorted(swarm.up, key=lambda index: distance(swarm.peers[index].left.identity.node_id, PLACE))
    return [index for index in near if index not in but]


def a_thousand_a_second(seed: int, updates: int, *, watch_at: int, deaths: int = 0) -> None:
    """Puts from all over the swarm under 5 % loss, while replicas of the key die and return.

    `watch_at`: the watcher's place among the peers, nearest to the key first.
    """

    async def befall(swarm: SimSwarm, victims: Sequence[int]) -> None:
        for index in victims:
            await asyncio.sleep(0.5 * updates / 1000 / len(victims))
            await swarm.crash_soon(index)
            await asyncio.sleep(0.3)
            await swarm.restart_soon(index)

    async def main(swarm: SimSwarm) -> None:
        journal, listener = Journal(), Listener()
        watcher = nearest(swarm)[watch_at]
        victims = nearest(swarm, but=[watcher])[:deaths]
        writers = nearest(swarm, but=victims)
        async with listener.listening(swarm.peers[watcher]), asyncio.TaskGroup() as group:
            group.create_task(befall(swarm, victims))
            writer_of = writers.__getitem__
            await journal.write(lambda n: swarm.peers[writer_of(n % len(writers))], range(updates), rate=1000)
            await listener.caught_up(journal, 5 if not deaths else 30)
        listener.check(journal)
        assert len(journal.puts) == updates

    with SimSwarm(20, seed=seed, loss=0.05, duplication=0.02) as swarm:
        swarm.run(main(swarm))


@pytest.mark.parametrize("watch_at", seeds([-1], [0]), ids=["stranger", "replica"])
def test_a_thousand_updates_a_second_under_loss(watch_at: int) -> None:
    a_thousand_a_second(1, 1500, watch_at=watch_at)


def test_a_thousand_updates_a_second_under_loss_while_replicas_die() -> None:
    a_thousand_a_second(2, 1000, watch_at=-1, deaths=2)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("deaths", [0, 4])
def test_ten_seconds_of_a_thousand_updates_a_second(seed: int, deaths: int) -> None:
    """The key's page splits in the middle of it."""
    a_thousand_a_second(100 + seed, 10_000, watch_at=-(seed % 2), deaths=deaths)


def test_updates_come_at_once_and_without_reading() -> None:
    async def main(swarm: SimSwarm) -> None:
        journal, listener = Journal(), Listener()
        async with listener.listening(swarm.peers[nearest(swarm)[-1]]):
            await asyncio.sleep(10)
            for number in range(20):
                await journal.put(swarm.peers[number % 16], number)
                await listener.caught_up(journal, 0.2)  # 2 ways of 50 ms at most, one of them done

    with SimSwarm(16, seed=2) as swarm:
        swarm.run(main(swarm))


@pytest.mark.parametrize("seed", seeds([1], [0, 2, 3]))
def test_replicas_die_and_newcomers_take_their_places(seed: int) -> None:
    async def main(swarm: SimSwarm) -> None:
        journal, listener = Journal(), Listener()
        watcher, writers = nearest(swarm)[-1], nearest(swarm)[-6:-1]
        async with listener.listening(swarm.peers[watcher]), asyncio.TaskGroup() as group:
            group.create_task(journal.write(lambda number: swarm.peers[writers[number % 5]], range(400), rate=10))
            for index in nearest(swarm, but=[watcher, *writers])[:3]:
                await asyncio.sleep(8)
                await swarm.crash_soon(index)
                await asyncio.sleep(3)
                await swarm.restart_soon(index, home_lost=seed % 2 == 1)
        async with listener.listening(swarm.peers[watcher]):
            await listener.caught_up(journal, 90)
        listener.check(journal)

    with SimSwarm(24, seed=seed, loss=0.05) as swarm:
        swarm.run(main(swarm))


def test_a_watch_resumes_at_other_peers_where_it_was_killed() -> None:
    async def main(swarm: SimSwarm) -> None:
        journal, listener = Journal(), Listener()
        async with asyncio.TaskGroup() as group:
            async with listener.listening(swarm.peers[0]):  # a cursor before the first put
                await journal.put(swarm.peers[1], 100_000)
                await listener.caught_up(journal, 5)
            group.create_task(journal.write(lambda number: swarm.peers[5 + number % 10], range(1200), rate=40))
            for turn in range(12):
                async with listener.listening(swarm.peers[turn % 5], ready=False):
                    await asyncio.sleep(turn / 8)
                await asyncio.sleep(0.3)
        async with listener.listening(swarm.peers[3]):
            await listener.caught_up(journal, 10)
        listener.check(journal)

    with SimSwarm(16, seed=3, loss=0.05) as swarm:
        swarm.run(main(swarm))


def test_a_watcher_cut_off_hears_what_it_missed() -> None:
    async def main(swarm: SimSwarm) -> None:
        journal, listener = Journal(), Listener()
        watcher = nearest(swarm)[-1]
        async with listener.listening(swarm.peers[watcher]):
            for turn in range(3):
                swarm.partition([[watcher]])
                numbers = range(turn * 50, turn * 50 + 50)
                await journal.write(lambda number: swarm.peers[nearest(swarm)[number % 8]], numbers, rate=5)
                swarm.heal()
                await listener.caught_up(journal, 30)
        listener.check(journal)

    with SimSwarm(16, seed=4) as swarm:
        swarm.run(main(swarm))


def test_a_writer_with_a_slow_clock_is_heard() -> None:
    async def main(swarm: SimSwarm) -> None:
        journal, listener = Journal(), Listener()
        async with listener.listening(swarm.peers[0]):
            for number in range(40):
                await journal.put(swarm.peers[5 + number % 2], number)
            await listener.caught_up(journal, 1)
        listener.check(journal)

    def make_peer(seat: Seat) -> SimPeer:
        if seat.address[0] != host_of(5):
            return SimPeer(seat)
        return SimPeer(replace(seat, env=replace(seat.env, now_s=lambda: seat.env.now_s() - 200)))

    with SimSwarm(12, seed=5, make_peer=make_peer) as swarm:
        swarm.run(main(swarm))


def test_a_slow_consumer_holds_little_in_memory_and_misses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "WATCH_INBOX_MAX", 8)

    async def main(swarm: SimSwarm) -> None:
        journal, listener = Journal(), Listener()
        peer = swarm.peers[nearest(swarm)[-1]]
        async with listener.listening(peer, pause_s=0.05):
            await journal.write(lambda number: swarm.peers[number % 16], range(300), rate=100)
            (watch,) = peer.node.watching.watches
            assert len(watch.inbox.versions) <= 8
            await listener.caught_up(journal, 60)
        listener.check(journal)

    with SimSwarm(16, seed=6, loss=0.02) as swarm:
        swarm.run(main(swarm))


class SlowReader:
    """Reads, and does not come to the point before it is told so."""

    def __init__(self, reader: watching.KeyReader) -> None:
        self.reader = reader
        self.may_go_on = asyncio.Event()

    async def read(self, key: bytes, **options: Any) -> AsyncGenerator[Version, None]:
        await self.may_go_on.wait()
        async with aclosing(self.reader.read(key, **options)) as versions:
            async for version in versions:
                yield version


def test_pushes_are_told_while_what_was_lost_is_read() -> None:
    async def main(swarm: SimSwarm) -> None:
        journal, listener = Journal(), Listener()
        peer = swarm.peers[nearest(swarm)[-1]]
        async with listener.listening(peer):
            (watch,) = peer.node.watching.watches
            watch._reader = slow = SlowReader(watch._reader)
            watch.inbox.lose()
            for number in range(20):
                await journal.put(swarm.peers[number % 16], number)
                await listener.caught_up(journal, 0.2)
            assert watch._reading is not None, "the read goes on"
            slow.may_go_on.set()
            await asyncio.sleep(1)
            assert watch._reading is None
        listener.check(journal)

    with SimSwarm(16, seed=7) as swarm:
        swarm.run(main(swarm))


def test_a_watch_killed_before_it_has_read_what_was_lost_misses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """More is told behind it than a cursor can name: of that some may be told twice."""
    monkeypatch.setattr(core_watching, "WATCH_MARKS_MAX", 8)

    async def main(swarm: SimSwarm) -> None:
        journal, before, lost, listener = Journal(), Journal(), Journal(), Listener()
        peer = swarm.peers[nearest(swarm)[-1]]
        async with listener.listening(peer):
            for number in range(40):
                await before.put(swarm.peers[number % 16], number)
            await listener.caught_up(before, 5)
            (watch,) = peer.node.watching.watches
            watch._reader = SlowReader(watch._reader)
            with monkeypatch.context() as patch:
                patch.setattr(watch.inbox, "put", lambda *_: True)
                for number in range(40, 60):
                    await lost.put(swarm.peers[number % 16], number)
                await asyncio.sleep(1)  # all replicas have pushed it
            watch.inbox.lose()
            for number in range(60, 80):
                await journal.put(swarm.peers[number % 16], number)
            await listener.caught_up(journal, 5)
            assert not {record.name for record in listener.told} & lost.puts.keys()
        async with listener.listening(swarm.peers[nearest(swarm)[-2]]):
            await listener.caught_up(lost, 5)
            await asyncio.sleep(5)
        names = Counter(record.name for record in listener.told)
        assert names.keys() == before.puts.keys() | lost.puts.keys() | journal.puts.keys()
        assert all(names[name] == 1 for name in lost.puts)
        assert sum(names.values()) - len(names) <= 20 - 8 + 8, "what no cursor had room for, before and behind"

    with SimSwarm(16, seed=9) as swarm:
        swarm.run(main(swarm))


def test_a_replica_whose_queue_overflows_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_QUEUE_MAX", 4)

    async def main(swarm: SimSwarm) -> None:
        journal, listener = Journal(), Listener()
        async with listener.listening(swarm.peers[nearest(swarm)[-1]]):
            await journal.write(lambda number: swarm.peers[number % 16], range(300), rate=500)
            await listener.caught_up(journal, 10)
        listener.check(journal)
        assert sum(peer.node.counters().get("pushes_lost", 0) for peer in swarm.peers) > 0

    with SimSwarm(16, seed=7) as swarm:
        swarm.run(main(swarm))


def test_records_that_are_replaced_and_deleted() -> None:
    """The last version of each is told; a record never goes back in time, and a deleted one does not come again."""

    async def main(swarm: SimSwarm) -> None:
        listener, rng = Listener(), random.Random(8)
        last: dict[str, bytes | None] = {}

        async def change(name: str) -> None:
            for number in range(25):
                peer = swarm.peers[rng.randrange(16)]
                last[name] = b"%d" % number if rng.random() < 0.7 else None
                if last[name] is None:
                    await peer.delete(KEY, name=name)
                else:
                    await peer.put(KEY, last[name] or b"", name=name)

        async with listener.listening(swarm.peers[nearest(swarm)[-1]]):
            async with asyncio.TaskGroup() as group:
                for number in range(8):
                    group.create_task(change(f"name-{number}"))
            await asyncio.sleep(5)
        for name, value in last.items():
            told = [record for record in listener.told if record.name == name]
            assert len({record.version for record in told}) == len(told), "doubled"
            assert [record.time for record in told] == sorted(record.time for record in told)
            assert value is None or told[-1].value == value

    with SimSwarm(16, seed=8, loss=0.05) as swarm:
        swarm.run(main(swarm))


def test_a_forged_push_is_not_told() -> None:
    async def main(swarm: SimSwarm) -> None:
        journal, listener = Journal(), Listener()
        peer, writer = swarm.peers[nearest(swarm)[-1]], swarm.peers[nearest(swarm)[3]]
        async with listener.listening(peer):
            (watch,) = peer.node.watching.watches
            genuine = writer.node.writer.sign(KEY.encode(), Draft(b"update-0", 0, body=b"update 0", size_bytes=8))
            forged = msgspec.structs.replace(genuine, body=b"update X")
            watch.take([forged])
            await asyncio.sleep(1)
            assert not listener.told
            await journal.put(writer, 0)
            await listener.caught_up(journal, 1)
        listener.check(journal)

    with SimSwarm(12, seed=9) as swarm:
        swarm.run(main(swarm))


def test_leases_end_with_the_watch_and_by_themselves() -> None:
    async def main(swarm: SimSwarm) -> None:
        def held() -> int:
            return sum(len(peer.node.leases) for peer in swarm.peers)

        listener, journal = Listener(), Journal()
        watcher = nearest(swarm)[-1]
        async with listener.listening(swarm.peers[watcher]):
            assert held() == read_quorum(8) + WATCH_SPARE_LEASES
        await asyncio.sleep(1)
        assert held() == 0
        async with listener.listening(swarm.peers[watcher]):
            swarm.kill(watcher)
            await asyncio.sleep(WATCH_LEASE_S + 1)
            await journal.put(swarm.peers[nearest(swarm)[0]], 1)
            await asyncio.sleep(1)
            assert held() == 0

    with SimSwarm(14, seed=10) as swarm:
        swarm.run(main(swarm))


def test_one_sender_cannot_take_all_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASES_PER_SENDER_MAX", 5)

    async def main(swarm: SimSwarm) -> None:
        asker, replica = swarm.peers[0].node, swarm.peers[1].node
        protocol = asker.server.protocol
        contact = next(c for c in asker.server.contacts() if c.id == replica.identity.node_id)

        async def ask(number: int, lease_ms: int = 20_000) -> messages.WatchReply:
            return await protocol.call(contact, messages.WATCH, messages.Watch(PLACE, b"%8d" % number, lease_ms))

        assert not (await ask(0)).unbroken
        assert (await ask(0)).unbroken, "it stood"
        for number in range(1, 5):
            await ask(number)
        with pytest.raises(RemoteError, match="too many"):
            await ask(5)
        await ask(0, lease_ms=0)
        assert (await ask(5, 1 << 40)).lease_ms <= 1000 * WATCH_LEASE_S_MAX
        await asyncio.sleep(WATCH_LEASE_S_MAX + 1)
        await asyncio.gather(*(ask(number) for number in range(10, 15)))
        assert len(replica.leases) == 5

    with SimSwarm(3, seed=11) as swarm:
        swarm.run(main(swarm))


def test_a_watch_ends_when_its_peer_stops() -> None:
    async def main(swarm: SimSwarm) -> None:
        task = asyncio.create_task(Listener().listen(swarm.peers[2]))
        await asyncio.sleep(1)
        await swarm.leave_soon(2)
        async with asyncio.timeout(5):
            await task

    with SimSwarm(4, seed=12) as swarm:
        swarm.run(main(swarm))


def test_a_watch_of_a_key_that_nobody_can_read_says_so() -> None:
    async def main(swarm: SimSwarm) -> None:
        watcher = nearest(swarm)[-1]
        swarm.partition([[watcher]])
        async with asyncio.timeout(60):
            with pytest.raises(P2pkvError):
                await Listener().listen(swarm.peers[watcher])

    with SimSwarm(12, seed=13) as swarm:
        swarm.run(main(swarm))


@pytest.mark.parametrize("seed", seeds([2], [0, 1]))
def test_pages_split_while_they_are_watched(seed: int) -> None:
    """Records move from page to page, replicas die, the watch is killed and resumes elsewhere."""

    async def main(swarm: SimSwarm) -> None:
        for peer in swarm.peers:
            peer.node.page_bound.records = 40
        journal, listener = Journal(), Listener()
        watchers, victims = nearest(swarm)[-3:], nearest(swarm)[:2]
        writers = nearest(swarm, but=[*watchers, *victims])
        async with listener.listening(swarm.peers[watchers[0]]):
            await journal.put(swarm.peers[writers[0]], 100_000)
            await listener.caught_up(journal, 5)
        async with asyncio.TaskGroup() as group:
            group.create_task(journal.write(lambda number: swarm.peers[writers[number % 10]], range(600), rate=30))
            async with listener.listening(swarm.peers[watchers[0]]):
                await asyncio.sleep(8)
                await swarm.crash_soon(victims[0])
            async with listener.listening(swarm.peers[watchers[1]]):
                await swarm.restart_soon(victims[0])
                await asyncio.sleep(8)
        async with listener.listening(swarm.peers[watchers[2]]):
            await listener.caught_up(journal, 60)
            await asyncio.sleep(60)  # moves go on
        listener.check(journal)
        assert sum(peer.node.mover.pages_split for peer in swarm.peers)

    with SimSwarm(20, seed=20 + seed, loss=0.03) as swarm:
        swarm.run(main(swarm))
