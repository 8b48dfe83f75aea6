"""Whole transfers over a simulated path: complete and equal whatever the network does."""

from __future__ import annotations

import random
from typing import Any

import pytest

from p2pkv.core.bulk.batch import Options
from p2pkv.core.bulk.credit import Budget
from p2pkv.core.bulk.cubic import Cubic
from p2pkv.core.bulk.events import Cancelled
from p2pkv.core.bulk.model import PathModel
from p2pkv.limits import BULK_DEAD_S, BULK_IDLE_S, BULK_STALL_S, BULK_WINDOW_BYTES
from tests.core.bulk.link import World
from tests.core.bulk.rivals import Heedless
from tests.seeds import seeds

CONTROLLERS = pytest.mark.parametrize("congestion", [PathModel, Cubic])


def bytes_of(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def exchange(world: World, options: Options | None = None, size: int = 200_000, limit_s: float = 600.0) -> float:
    """Pushes and pulls in both directions at once; the seconds they took."""
    one, other = world.connect(options)
    data = {b"%d" % n: bytes_of(n, size) for n in range(3)}
    other.answer = lambda event: data[event.topic] if event.topic in data and not event.data else b"kept"
    pushed = [world.push(one, bytes_of(n + 10, size), b"push%d" % n) for n in range(3)]
    pulled = {world.pull(one, topic): topic for topic in data}
    back = world.push(other, bytes_of(20, size))
    took_s = world.run(lambda: len(one.replies) == 6 and len(other.replies) == 1, limit_s)
    assert [one.replies[n] for n in pushed] == [b"kept"] * 3
    assert {pulled[n]: one.replies[n] for n in pulled} == data
    assert {event.topic: event.data for event in other.requests if event.data} == {
        b"push%d" % n: bytes_of(n + 10, size) for n in range(3)
    }
    assert one.requests[0].data == bytes_of(20, size)
    assert other.replies[back] == b"200000"
    world.run_for(5)  # the last acks
    for end in (one, other):
        assert not end.connection.streams
        assert not end.connection.recovery.in_flight_bytes
    return took_s


@CONTROLLERS
@pytest.mark.parametrize("loss", [0.0, 0.01, 0.05, 0.3])
@pytest.mark.parametrize("delay_s", [0.0, 0.01, 0.3])
def test_everything_arrives_equal(congestion: Any, loss: float, delay_s: float) -> None:
    exchange(World(loss=loss, delay_s=delay_s), Options(congestion=congestion))


@pytest.mark.parametrize("seed", range(4))
def test_reordering_and_duplication_do_no_harm(seed: int) -> None:
    exchange(World(seed, jitter_s=0.02, duplication=0.2, loss=0.02))


def test_reordering_alone_is_not_taken_for_loss() -> None:
    steady, shaken = World(), World(jitter_s=0.01)
    assert exchange(shaken) < 2 * exchange(steady)
    assert shaken.there.carried_bytes < 1.5 * steady.there.carried_bytes


def test_bandwidth_steps_are_followed() -> None:
    world = World(rate=1e6, delay_s=0.02, queue_bytes=50_000)
    one, _ = world.connect()
    data = bytes_of(1, 1_000_000)
    world.push(one, data)
    alone_s = world.run(lambda: len(one.replies) == 1, 60)
    assert alone_s < 1.5
    world.there.rate = 5e6
    for _ in range(10):
        world.push(one, data)
    assert world.run(lambda: len(one.replies) == 11, 60) < 8, "the path became five times faster"
    world.there.rate = 2e5
    world.push(one, data)
    assert world.run(lambda: len(one.replies) == 12, 60) < 9, "the path became 25 times slower"


@pytest.mark.parametrize(("loss", "part"), [(0.0, 0.85), (0.01, 0.8), (0.05, 0.6)])
def test_a_long_transfer_uses_the_line(loss: float, part: float) -> None:
    world = World(rate=4e6, delay_s=0.01, queue_bytes=120_000, loss=loss)
    world.back.loss = 0.0
    one, _ = world.connect()
    data = bytes_of(1, 1_000_000)
    for _ in range(20):
        world.push(one, data)
    took_s = world.run(lambda: len(one.replies) == 20, 60)
    assert 20e6 / took_s > part * 4e6


def test_a_deep_queue_is_not_filled() -> None:
    """Buffer bloat: two seconds of queue stand ready, and a question still comes back soon."""
    world = World(rate=1e6, delay_s=0.02, queue_bytes=2_000_000)
    one, _ = world.connect()
    for _ in range(10):
        world.push(one, bytes_of(1, 1_000_000))
    world.run_for(3)
    world.there.queue_bytes_most = 0
    world.run_for(5)
    assert world.there.queue_bytes_most < 100_000


@pytest.mark.parametrize(("congestion", "least"), [(PathModel, 0.9), (Cubic, 0.7)])
def test_two_flows_share_alike(congestion: Any, least: float) -> None:
    """Jain's index of two flows that begin two seconds apart, over the time that they have together."""
    world = World(rate=2e6, delay_s=0.02, queue_bytes=80_000)
    options = Options(congestion=congestion)
    pairs = [world.connect(options)]
    for _ in range(30):
        world.push(pairs[0][0], bytes_of(1, 1_000_000))
    world.run_for(2)
    pairs.append(world.connect(options))
    for _ in range(30):
        world.push(pairs[1][0], bytes_of(1, 1_000_000))
    world.run_for(3)
    before = [one.connection.recovery.delivered_bytes for one, _ in pairs]
    world.run_for(15)
    rates = [one.connection.recovery.delivered_bytes - b for (one, _), b in zip(pairs, before, strict=True)]
    index = sum(rates) ** 2 / (2 * sum(rate * rate for rate in rates))
    assert index > least, rates
    assert sum(rates) > 0.8 * 15 * 2e6


@pytest.mark.parametrize("queue_bytes", [20_000, 80_000, 320_000])
@pytest.mark.parametrize("pair", [(PathModel, Cubic), (Cubic, PathModel)])
def test_a_flow_that_goes_by_losses_keeps_its_part(pair: tuple[Any, Any], queue_bytes: int) -> None:
    """Whoever comes first, and whatever the queue, a quarter of the path's product or four of them."""
    world = World(rate=2e6, delay_s=0.02, queue_bytes=queue_bytes)
    ends = []
    for congestion in pair:
        ends.append(world.connect(Options(congestion=congestion))[0])
        for _ in range(30):
            world.push(ends[-1], bytes_of(1, 1_000_000))
        world.run_for(2)
    world.run_for(2)
    before = [end.connection.recovery.delivered_bytes for end in ends]
    world.run_for(12)
    parts = [(end.connection.recovery.delivered_bytes - b) / 12 / 2e6 for end, b in zip(ends, before, strict=True)]
    assert min(parts) > 0.15, parts
    assert sum(parts) > 0.75, parts


@pytest.mark.parametrize("queue_bytes", seeds([20_000], [80_000, 320_000]))
@pytest.mark.parametrize("first", [True, False])
def test_a_flow_that_takes_no_notice_of_losses_does_not_take_all(first: bool, queue_bytes: int) -> None:
    """Whoever comes first: it keeps its part, and we get ours."""
    world = World(rate=2e6, delay_s=0.02, queue_bytes=queue_bytes)
    ends = []
    for congestion in (PathModel, Heedless) if first else (Heedless, PathModel):
        ends.append(world.connect(Options(congestion=congestion))[0])
        for _ in range(30):
            world.push(ends[-1], bytes_of(1, 1_000_000))
        world.run_for(2)
    world.run_for(3)
    before = [end.connection.recovery.delivered_bytes for end in ends]
    world.run_for(12)
    parts = [(end.connection.recovery.delivered_bytes - b) / 12 / 2e6 for end, b in zip(ends, before, strict=True)]
    assert min(parts) > 0.1, parts  # this rival never measures the delay anew, and a deep queue is against it
    assert sum(parts) > 0.75, parts


def test_a_short_question_passes_by_megabytes() -> None:
    world = World(rate=1e6, delay_s=0.01)
    one, other = world.connect()
    other.answer = lambda event: b"short" if event.topic == b"short" else b"kept"
    for _ in range(8):
        world.push(one, bytes_of(1, 1_000_000))
    world.run_for(1)
    number = world.pull(one, b"short")
    assert world.run(lambda: number in one.replies, 60) < 0.2


def test_large_messages_take_turns() -> None:
    world = World(rate=1e6, delay_s=0.01)
    one, _ = world.connect()
    numbers = [world.push(one, bytes_of(n, 500_000)) for n in range(4)]
    world.run_for(1.2)
    assert not one.replies, "one overtook the others"
    assert world.run(lambda: len(one.replies) == len(numbers), 10) < 2


def test_a_receiver_that_does_not_read_is_not_flooded() -> None:
    """Its owner leaves requests unanswered: no more is sent than it granted, and it goes on as they are answered."""
    world = World(rate=50e6, delay_s=0.001, queue_bytes=1_000_000)
    one, other = world.connect()
    other.answer = lambda event: None
    data = bytes_of(1, 1_000_000)
    numbers = [world.push(one, data) for _ in range(50)]
    world.run_for(15)
    assert world.there.carried_bytes < BULK_WINDOW_BYTES + 4_000_000
    assert not one.failed
    other.answer = lambda event: b"late"
    for event in other.requests[:]:
        other.connection.streams.reply(event.stream, b"late")
    world.turn(other)
    world.run(lambda: len(one.replies) == len(numbers), 60)


def test_memory_for_all_peers_together_is_bounded() -> None:
    """Beyond the budget a push is refused as busy, and what was held is given back."""
    world, budget = World(rate=10e6), Budget(2_500_000)
    one, other = world.connect(budget=budget)
    other.answer = lambda event: None
    numbers = [world.push(one, bytes_of(1, 1_000_000)) for _ in range(4)]
    world.run_for(3)
    assert sorted(one.failed.values()) == ["busy", "busy"]
    assert budget.held_bytes <= 2_500_000
    for event in other.requests:
        other.connection.streams.reply(event.stream, b"kept")
    world.turn(other)
    world.run(lambda: len(one.replies) + len(one.failed) == len(numbers), 10)
    world.run_for(3)
    assert not budget.held_bytes


def test_a_peer_that_vanishes_is_noticed() -> None:
    world = World(rate=1e6)
    one, other = world.connect()
    number = world.push(one, bytes_of(1, 1_000_000))
    world.run_for(0.3)
    other.gone = True
    took_s = world.run(lambda: one.closed is not None, 60)
    assert (one.closed, one.failed) == ("silent", {number: "silent"})
    assert took_s < BULK_DEAD_S + 1


def test_half_a_request_of_a_vanished_peer_is_dropped() -> None:
    world, budget = World(rate=1e6), Budget()
    one, other = world.connect(budget=budget)
    world.push(one, bytes_of(1, 1_000_000))
    world.run_for(0.3)
    assert budget.held_bytes
    one.gone = True
    world.run(lambda: other.closed is not None, BULK_STALL_S + BULK_IDLE_S + BULK_DEAD_S + 5)
    assert not budget.held_bytes


def test_an_idle_connection_ends_at_both_sides() -> None:
    world = World()
    one, other = world.connect()
    world.push(one, b"x")
    world.run(lambda: one.closed is not None and other.closed is not None, 2 * BULK_IDLE_S)
    assert not one.failed
    assert world.turns < 1000


def test_cancelling_stops_the_bytes_and_tells_the_peer() -> None:
    world = World(rate=1e6)
    one, other = world.connect()
    other.answer = lambda event: None
    number = world.push(one, bytes_of(1, 1_000_000))
    whole = world.push(one, b"short")
    world.run(lambda: bool(other.requests), 5)
    one.connection.streams.cancel(number)
    one.connection.streams.cancel(whole)
    world.turn(one)
    world.run_for(0.2)
    sent = world.there.carried_bytes
    world.run_for(2)
    assert world.there.carried_bytes - sent < 1000
    assert [event for event in other.events if isinstance(event, Cancelled)]
    assert not one.connection.streams
    assert not other.connection.streams


def test_larger_packets_are_found_and_given_up() -> None:
    """A path that carries 9,000 bytes is found to; when it narrows, the transfer goes on with small packets."""
    world = World(rate=20e6, delay_s=0.005, queue_bytes=500_000, packet_bytes_max=9000)
    one, _ = world.connect(Options(packet_bytes_max=65_000))
    for _ in range(20):
        world.push(one, bytes_of(1, 1_000_000))
    world.run_for(0.5)
    assert one.connection.mtu.packet_bytes == 8972
    world.there.packet_bytes_max = 1300
    world.run(lambda: len(one.replies) == 20, 60)
    assert one.connection.mtu.packet_bytes == 1200
