"""Atomic batches in a simulated swarm: what users see of one, step by step."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from p2pkv.core.atomic import Verdict, decision_key
from p2pkv.core.pages import place_of_page
from p2pkv.core.records import DECISION_NAME
from p2pkv.errors import IncompleteError, InvalidError, RefusedError
from p2pkv.outcomes import BatchChange, BatchOutcome
from p2pkv.swarm.collecting import ended_before
from p2pkv.testing import SimPeer, SimSwarm
from tests.atomic.observer import waiting
from tests.pages.checker import bound, pages_of

CHANGES = [BatchChange("a", b"new", name="x"), BatchChange("a", b"new", name="y"), BatchChange("b", b"new", name="x")]


async def values(peer: SimPeer, key: str, **options: object) -> dict[str, bytes | None]:
    return {record.name: record.value async for record in peer.get(key, **options)}  # type: ignore[arg-type]


class Halted:
    """A writer of a batch that stops before or behind its decision, until it is let go."""

    def __init__(self, swarm: SimSwarm, peer: SimPeer, *, decided: bool) -> None:
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()
        self._swarm, self._peer, self._decided = swarm, peer, decided
        self._decide: Callable[[bytes, Verdict], Awaitable[Verdict]] = peer.node.decisions.decide
        peer.node.decisions.decide = self._halting  # type: ignore[method-assign, assignment]

    async def _halting(self, batch: bytes, wish: Verdict) -> Verdict:
        verdict = await self._decide(batch, wish) if self._decided else None
        self.reached.set()
        await self.go_on.wait()
        return verdict or await self._decide(batch, wish)

    def begin(self, changes: list[BatchChange]) -> asyncio.Task[BatchOutcome]:
        """Put a batch, up to where it stops."""

        async def put() -> asyncio.Task[BatchOutcome]:
            task = asyncio.get_running_loop().create_task(self._peer.put_batch(changes))
            await self.reached.wait()
            return task

        return self._swarm.run(put())

    def let_go(self) -> None:
        self._peer.node.decisions.decide = self._decide  # type: ignore[method-assign, assignment]
        self.go_on.set()


async def ended(task: asyncio.Task[BatchOutcome]) -> BatchOutcome:
    return await task


async def cancelled(task: asyncio.Task[BatchOutcome]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def test_a_batch_of_several_keys_is_seen_everywhere_when_it_is_done() -> None:
    with SimSwarm(12, seed=1) as swarm:
        writer, reader = swarm.peers[0], swarm.peers[7]
        swarm.run(writer.put("b", b"old", name="x"))
        changes = [*CHANGES, BatchChange("c", b"4" * 5000, name="long"), BatchChange("c", b"unnamed")]
        outcome = swarm.run(writer.put_batch(changes))
        assert [record.key for record in outcome.records] == [b"a", b"a", b"b", b"c", b"c"]
        assert all(record.outcome.reached for record in outcome.records)
        assert swarm.run(values(reader, "a")) == {"x": b"new", "y": b"new"}
        assert swarm.run(values(reader, "b", name="x")) == {"x": b"new"}
        assert sorted(swarm.run(values(reader, "c")).values(), key=str) == [b"4" * 5000, b"unnamed"]
        assert swarm.run(reader.count("a")) == 2
        versions = {record.outcome.name: record.outcome.version for record in outcome.records}

        async def version_of(name: str) -> str:
            return await anext(record.version async for record in reader.get("a", name=name))

        assert swarm.run(version_of("y")) == versions["y"]
        assert swarm.run(waiting(swarm, swarm.up)) == 0


def test_what_is_not_decided_is_seen_by_nobody_in_no_way() -> None:
    with SimSwarm(12, seed=2) as swarm:
        swarm.run(swarm.peers[1].put("a", b"old", name="x"))
        halted = Halted(swarm, swarm.peers[0], decided=False)
        task = halted.begin(CHANGES)
        assert swarm.run(waiting(swarm, swarm.up)) > 8
        for reader in swarm.peers[:8]:
            assert swarm.run(values(reader, "a")) == {"x": b"old"}
            assert swarm.run(values(reader, "a", order="name", reverse=True)) == {"x": b"old"}
            assert swarm.run(values(reader, "a", name="y")) == {}
            assert swarm.run(values(reader, "a", prefix="y")) == {}
            assert swarm.run(values(reader, "b")) == {}
            assert swarm.run(reader.count("a")) == 1
            assert swarm.run(reader.count("b")) == 0
            assert swarm.run(reader.node.replica.stock_find(place_of_page(b"b", b""))) is None
            assert not swarm.run(reader.node.records.exists(b"b"))
        halted.let_go()
        swarm.run(ended(task))
        for reader in swarm.peers[:8]:
            assert swarm.run(values(reader, "a")) == {"x": b"new", "y": b"new"}
            assert swarm.run(reader.count("a")) == 2
            assert swarm.run(reader.count("b")) == 1


@pytest.mark.parametrize("first_look", ["get", "name", "reverse", "count", "exists", "prefix"])
def test_what_is_decided_is_seen_whole_though_its_writer_has_gone(first_look: str) -> None:
    with SimSwarm(12, seed=3) as swarm:
        swarm.run(swarm.peers[1].put("a", b"old", name="x"))
        task = Halted(swarm, swarm.peers[11], decided=True).begin(CHANGES)
        swarm.run(cancelled(task))
        swarm.crash(11)
        reader = swarm.peers[5]
        match first_look:
            case "get":
                assert swarm.run(values(reader, "b")) == {"x": b"new"}
            case "name":
                assert swarm.run(values(reader, "b", name="x")) == {"x": b"new"}
            case "reverse":
                assert swarm.run(values(reader, "a", reverse=True)) == {"x": b"new", "y": b"new"}
            case "count":
                assert swarm.run(reader.count("a")) == 2
            case "exists":
                assert swarm.run(reader.node.records.exists(b"b"))
            case _:
                assert swarm.run(values(reader, "a", prefix="y")) == {"y": b"new"}
        for other in swarm.peers[:4]:
            assert swarm.run(values(other, "a")) == {"x": b"new", "y": b"new"}
            assert swarm.run(values(other, "b")) == {"x": b"new"}


def test_a_batch_that_is_refused_leaves_nothing() -> None:
    with SimSwarm(12, seed=4) as swarm:
        owner, writer = swarm.peers[3], swarm.peers[0]
        swarm.run(owner.put("b", b"mine", name="x", own=True))
        swarm.run(owner.put("c", b"for ever", name="x", once=True))
        for key, why in (("b", "belongs to"), ("c", "write-once")):
            changes = [BatchChange("a", b"new", name="x"), BatchChange(key, b"new", name="x")]
            with pytest.raises(RefusedError, match=f"nothing of the batch was stored.*1 of 2.*{key}/x.*{why}"):
                swarm.run(writer.put_batch(changes))
            assert swarm.run(values(swarm.peers[6], "a")) == {}
        assert swarm.run(values(swarm.peers[6], "b")) == {"x": b"mine"}
        swarm.run_for(minutes=2)
        assert swarm.run(waiting(swarm, swarm.up)) == 0
        assert swarm.run(values(swarm.peers[6], "a")) == {}


def test_a_batch_that_too_few_replicas_take_leaves_nothing() -> None:
    with SimSwarm(8, seed=5) as swarm:
        for index in range(2, 7):
            swarm.kill(index)
        with pytest.raises(IncompleteError, match="nothing of the batch was stored"):
            swarm.run(swarm.peers[0].put_batch(CHANGES))
        for index in range(2, 7):
            swarm.revive(index)
        swarm.run_for(minutes=5)
        assert swarm.run(values(swarm.peers[4], "a")) == {}
        assert swarm.run(waiting(swarm, swarm.up)) == 0


def test_a_writer_that_is_too_slow_is_refused_and_nothing_shows() -> None:
    with SimSwarm(12, seed=6) as swarm:
        halted = Halted(swarm, swarm.peers[0], decided=False)
        task = halted.begin(CHANGES)
        swarm.run_for(minutes=3)
        assert swarm.run(waiting(swarm, range(1, 12))) == 0
        halted.let_go()
        with pytest.raises(RefusedError, match="took too long"):
            swarm.run(ended(task))
        for reader in swarm.peers[:5]:
            assert swarm.run(values(reader, "a")) == {}


def test_replicas_finish_what_a_writer_left_decided_without_any_reader() -> None:
    with SimSwarm(12, seed=7) as swarm:
        task = Halted(swarm, swarm.peers[11], decided=True).begin(CHANGES)
        swarm.run(cancelled(task))
        swarm.crash(11)
        swarm.run_for(minutes=2)
        assert swarm.run(waiting(swarm, swarm.up)) == 0
        assert swarm.run(values(swarm.peers[2], "a")) == {"x": b"new", "y": b"new"}


def test_a_replica_that_was_away_neither_hides_nor_brings_back_anything() -> None:
    with SimSwarm(12, seed=8) as swarm:
        halted = Halted(swarm, swarm.peers[0], decided=False)
        task = halted.begin(CHANGES)
        holders = [index for index in range(1, 12) if swarm.run(waiting(swarm, [index]))]
        away = holders[0]
        swarm.kill(away)
        halted.let_go()
        swarm.run(ended(task))
        swarm.run(swarm.peers[0].delete("a", name="x"))
        swarm.revive(away)
        swarm.run_for(minutes=15)
        assert swarm.run(waiting(swarm, swarm.up)) == 0
        for index in (away, 3, 9):
            assert swarm.run(values(swarm.peers[index], "a")) == {"y": b"new"}


def test_deletions_own_records_and_times_to_live_go_in_a_batch() -> None:
    with SimSwarm(12, seed=9) as swarm:
        writer, reader = swarm.peers[0], swarm.peers[5]
        swarm.run(reader.put("a", b"shared", name="x"))
        swarm.run(writer.put("a", b"going", name="gone"))
        changes = [
            BatchChange("a", b"mine", name="x", own=True),
            BatchChange("a", name="gone", delete=True),
            BatchChange("a", name="never there", delete=True),
            BatchChange("a", b"short", name="brief", ttl_s=60),
        ]
        outcome = swarm.run(writer.put_batch(changes))
        assert [record.deleted for record in outcome.records] == [False, True, True, False]
        assert swarm.run(values(reader, "a")) == {"x": b"mine", "brief": b"short"}
        assert swarm.run(reader.count("a")) == 2
        with pytest.raises(RefusedError):
            swarm.run(reader.put("a", b"not yours", name="x"))
        swarm.run_for(seconds=70)
        assert swarm.run(values(reader, "a")) == {"x": b"mine"}


def test_only_its_author_deletes_an_own_record_in_a_batch() -> None:
    with SimSwarm(12, seed=10) as swarm:
        swarm.run(swarm.peers[5].put("b", b"mine", name="x", own=True))
        changes = [BatchChange("a", b"new", name="x"), BatchChange("b", name="x", delete=True)]
        with pytest.raises(RefusedError, match="belongs to"):
            swarm.run(swarm.peers[0].put_batch(changes))
        assert swarm.run(values(swarm.peers[3], "a")) == {}
        assert swarm.run(values(swarm.peers[3], "b")) == {"x": b"mine"}


def test_a_batch_replaces_what_a_clock_ahead_has_written() -> None:
    with SimSwarm(12, seed=11) as swarm:
        ahead = swarm.peers[4]
        ahead.node.replica.clock.observe(int((ahead.env.now_s() + 200) * 1000) << 16, ahead.env.now_s())
        swarm.run(ahead.put("a", b"from the future", name="x"))
        swarm.run(swarm.peers[0].put_batch(CHANGES))
        assert swarm.run(values(swarm.peers[7], "a")) == {"x": b"new", "y": b"new"}


def test_compare_and_set_sees_a_batch_that_is_decided_and_not_applied() -> None:
    with SimSwarm(12, seed=12) as swarm:
        former = swarm.run(swarm.peers[1].put("a", b"old", name="x")).version
        swarm.run(cancelled(Halted(swarm, swarm.peers[0], decided=True).begin(CHANGES)))
        with pytest.raises(RefusedError):
            swarm.run(swarm.peers[2].put("a", b"stale", name="x", if_version=former))
        assert swarm.run(values(swarm.peers[3], "a")) == {"x": b"new", "y": b"new"}


@pytest.mark.parametrize("decided", [True, False])
def test_a_watch_tells_each_record_once_and_not_before_it_is_committed(decided: bool) -> None:
    told: list[tuple[str, bytes | None]] = []

    async def watch(peer: SimPeer) -> None:
        async for record in peer.watch("a"):
            told.append((record.name, record.value))

    with SimSwarm(12, seed=13) as swarm:
        swarm.run(swarm.peers[1].put("a", b"old", name="x"))

        async def begin() -> asyncio.Task[None]:
            return asyncio.get_running_loop().create_task(watch(swarm.peers[6]))

        watching = swarm.run(begin())
        swarm.run_for(seconds=5)
        halted = Halted(swarm, swarm.peers[0], decided=decided)
        task = halted.begin(CHANGES)
        swarm.run_for(seconds=5)
        assert decided or told == []
        halted.let_go()
        swarm.run(ended(task))
        swarm.run_for(minutes=4)
        assert sorted(told) == [("x", b"new"), ("y", b"new")]
        watching.cancel()
        swarm.run(asyncio.wait([watching]))


def test_a_key_of_many_pages_is_counted_right_while_a_batch_waits() -> None:
    async def many(peer: SimPeer) -> None:
        async for _ in peer.put_many("k", [b"%d" % number for number in range(500)]):
            pass

    with SimSwarm(14, seed=14) as swarm:
        bound(swarm.peers, 40)
        swarm.run(many(swarm.peers[0]))
        swarm.run_for(minutes=3)
        halted = Halted(swarm, swarm.peers[0], decided=False)
        task = halted.begin([BatchChange("k", b"new", name=f"n{number}") for number in range(60)])
        assert swarm.run(swarm.peers[5].count("k")) == 500
        assert pages_of(swarm.peers[5], "k") > 16
        halted.let_go()
        swarm.run(ended(task))
        assert swarm.run(swarm.peers[5].count("k")) == 560
        assert len(swarm.run(values(swarm.peers[6], "k"))) == 560


def test_an_upkeep_brings_what_waits_to_newcomers() -> None:
    """All who took the pending versions but three go; those who come in their place know of the batch."""
    with SimSwarm(16, seed=15) as swarm:
        halted = Halted(swarm, swarm.peers[0], decided=True)
        task = halted.begin([BatchChange("a", b"new", name="x")])
        swarm.run(cancelled(task))
        holders = [index for index in range(1, 16) if swarm.run(waiting(swarm, [index]))]
        for index in holders[:3]:
            swarm.crash(index)
            swarm.run_for(seconds=40)
        reader = next(index for index in swarm.up if index not in holders)
        assert swarm.run(values(swarm.peers[reader], "a")) == {"x": b"new"}


def test_what_makes_no_sense_is_refused_before_anything_is_sent() -> None:
    with SimSwarm(3, seed=16) as swarm:
        put = swarm.peers[0].put_batch
        with pytest.raises(InvalidError, match="majority"):
            swarm.run(put(CHANGES, acks="1"))
        for changes in (
            [],
            [BatchChange("a", b"1", name="x"), BatchChange("a", b"2", name="x")],
            [BatchChange("a", b"1", name="x", delete=True)],
            [BatchChange("a", delete=True)],
            [BatchChange("", b"1", name="x")],
            [BatchChange("\0p2pkv/batch/1", b"1", name="x")],
            [BatchChange("a", b"1", name="x", ttl_s=-1.0)],
            [BatchChange("a", b"", name=str(number)) for number in range(1001)],
        ):
            with pytest.raises(InvalidError):
                swarm.run(put(changes))
        assert swarm.run(waiting(swarm, swarm.up)) == 0


def test_a_decision_is_kept_for_60_days_and_then_forgotten() -> None:
    with SimSwarm(12, seed=17) as swarm:
        outcome = swarm.run(swarm.peers[0].put_batch(CHANGES))
        key = decision_key(bytes.fromhex(outcome.batch))
        (decision,) = swarm.run(swarm.peers[3].node.records.reader.read_name_raw(key, DECISION_NAME))
        day_s = 86_400.0
        assert decision.expires_ms / 1000 == pytest.approx(decision.time_s + 60 * day_s, abs=1)
        assert not ended_before(decision, decision.time_s + 59 * day_s)
        assert ended_before(decision, decision.time_s + 61 * day_s)
        swarm.run(swarm.peers[0].put("a", b"for ever", name="once", once=True, ttl_s=60))
        (once,) = swarm.run(swarm.peers[3].node.records.read_name(b"a", b"once"))
        assert not ended_before(once, once.time_s + 1000 * day_s)


def test_a_writer_whose_clock_is_minutes_behind_is_not_taken_for_gone() -> None:
    with SimSwarm(12, seed=18) as swarm:
        writer = swarm.peers[0].node
        writer.writer._env = dataclasses.replace(writer.env, now_s=lambda: swarm.peers[1].env.now_s() - 240)
        halted = Halted(swarm, swarm.peers[0], decided=False)
        task = halted.begin(CHANGES)
        swarm.run_for(seconds=40)
        halted.let_go()
        swarm.run(ended(task))
        assert swarm.run(values(swarm.peers[4], "a")) == {"x": b"new", "y": b"new"}
