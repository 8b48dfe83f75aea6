"""A path between connections in virtual time: rate, delay, a drop-tail queue, loss, reordering, duplication.

Everything follows from the seed. After every turn the world asserts what no connection may break: its next timer lies
ahead, so that nothing ever spins.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from p2pkv.core.bulk import messages, packets
from p2pkv.core.bulk.batch import Options
from p2pkv.core.bulk.connection import Connection
from p2pkv.core.bulk.credit import Budget
from p2pkv.core.bulk.events import Accept, Closed, Event, Failed, Replied, Requested

HEAD_BYTES = 28  # IP and UDP


@dataclass
class Path:
    """One direction. Its fields may be changed while it runs."""

    rate: float = 1.25e6  # bytes per second
    delay_s: float = 0.01
    queue_bytes: int = 60_000
    loss: float = 0.0
    jitter_s: float = 0.0  # up to so much later: packets overtake each other
    duplication: float = 0.0
    packet_bytes_max: int = 65_000
    free_s: float = 0.0
    dropped: int = 0
    carried_bytes: int = 0
    queue_bytes_most: int = 0

    def times(self, size: int, now: float, rng: random.Random) -> list[float]:
        """When a packet arrives: never, once or twice."""
        start_s = max(self.free_s, now)
        queued = int((start_s - now) * self.rate)
        if queued > self.queue_bytes or size > self.packet_bytes_max or rng.random() < self.loss:
            self.dropped += 1
            return []
        self.queue_bytes_most = max(self.queue_bytes_most, queued)
        self.carried_bytes += size
        self.free_s = start_s + (size + HEAD_BYTES) / self.rate
        count = 2 if rng.random() < self.duplication else 1
        return [self.free_s + self.delay_s + self.jitter_s * rng.random() for _ in range(count)]


class End:
    """A connection with what it was told."""

    def __init__(self, connection: Connection, path: Path) -> None:
        self.connection = connection
        self.path = path
        self.peer: End = self
        self.replies: dict[int, bytes] = {}
        self.failed: dict[int, str] = {}
        self.requests: list[Requested] = []
        self.events: list[Event] = []
        self.closed: str | None = None
        self.timer_s: float | None = None
        self.rings_s: float | None = None
        self.gone = False  # neither sends nor receives
        self.answer: Callable[[Requested], bytes | None] = lambda event: b"%d" % len(event.data)

    def take_events(self) -> None:
        streams = self.connection.streams
        for event in self.connection.events():
            self.events.append(event)
            if isinstance(event, Replied):
                self.replies[event.stream] = event.data
            elif isinstance(event, Failed):
                self.failed[event.stream] = event.code
            elif isinstance(event, Closed):
                self.closed = event.code
            elif isinstance(event, Requested):
                self.requests.append(event)
                reply = self.answer(event)
                if reply is not None:
                    streams.reply(event.stream, reply)


@dataclass(order=True)
class _Arrival:
    at_s: float
    order: int
    packet: bytes = field(compare=False)
    end: End = field(compare=False)


class World:
    """Time, paths and ends."""

    def __init__(self, seed: int = 1, **path: Any) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self.there, self.back = Path(**path), Path(**path)
        self.ends: list[End] = []
        self.turns = 0
        self._arrivals: list[_Arrival] = []
        self._order = 0

    def connect(self, options: Options | None = None, *, budget: Budget | None = None) -> tuple[End, End]:
        """Two ends that may begin at once. The first sends by `there`."""
        ours, theirs = 1000 + len(self.ends), 2000 + len(self.ends)
        opening = packets.cookie(packets.OPEN, packets.Cookie(ours, theirs, 0, b"p" * 16))

        def make(one: int, other: int, path: Path, opening: bytes) -> End:
            connection = Connection(
                one,
                other,
                self.now,
                initiator=bool(opening),
                admit=lambda kind, topic, size: Accept(),
                budget=budget or Budget(),
                opening=opening,
                options=options,
            )
            return End(connection, path)

        one, other = make(ours, theirs, self.there, opening), make(theirs, ours, self.back, b"")
        one.peer, other.peer = other, one
        self.ends += [one, other]
        return one, other

    def push(self, end: End, data: bytes, topic: bytes = b"t") -> int:
        return end.connection.request(messages.PUSH, topic, data, 1000, self.now)

    def pull(self, end: End, topic: bytes, size_max: int = 1 << 20) -> int:
        return end.connection.request(messages.PULL, topic, b"", size_max, self.now)

    # --- time ---

    def turn(self, end: End) -> None:
        """What a driver does after packets came or a timer rang."""
        connection = end.connection
        while True:
            end.take_events()
            batches = connection.packets_to_send(self.now)
            end.take_events()
            for batch in batches:
                assert batch.size_bytes == sum(map(len, batch.buffers))
                for packet in batch.packets():
                    self._carry(end, packet)
            if not batches:
                return

    def _carry(self, end: End, packet: bytes) -> None:
        if end.gone:
            return
        for at_s in end.path.times(len(packet), self.now, self.rng):
            self._order += 1
            heapq.heappush(self._arrivals, _Arrival(at_s, self._order, packet, end.peer))

    def _deliver(self) -> set[int]:
        touched = set()
        while self._arrivals and self._arrivals[0].at_s <= self.now:
            arrival = heapq.heappop(self._arrivals)
            end = arrival.end
            if end.gone:
                continue
            if arrival.packet[0] == packets.OPEN:
                end.connection.greet(self.now)
            else:
                end.connection.receive(arrival.packet, self.now)
            touched.add(self.ends.index(end))
        return touched

    def run(self, until: Callable[[], bool], limit_s: float, horizon_s: float | None = None) -> float:
        """Let time pass until something holds; the seconds it took. Fails after `limit_s`."""
        began_s = self.now
        for end in self.ends:
            self.turn(end)
        while not until():
            assert self.now - began_s < limit_s, "it takes too long"
            self._step(horizon_s)
        return self.now - began_s

    def run_for(self, seconds: float) -> None:
        end_s = self.now + seconds
        self.run(lambda: self.now >= end_s, seconds + 60, horizon_s=end_s)

    def _rings_s(self, end: End) -> float | None:
        """When an end's timer rings: up to a millisecond late, as the timers of event loops do."""
        due_s = end.connection.next_timer()
        if due_s != end.timer_s:
            end.timer_s = due_s
            end.rings_s = None if due_s is None else due_s + 0.001 * self.rng.random()
        return end.rings_s

    def _step(self, horizon_s: float | None) -> None:
        timers = [self._rings_s(end) for end in self.ends]
        times = [time for time in timers if time is not None]
        if self._arrivals:
            times.append(self._arrivals[0].at_s)
        if horizon_s is not None:
            times.append(horizon_s)
        assert times, "nothing will ever happen again"
        self.now = max(self.now, min(times))
        touched = self._deliver()
        for index, end in enumerate(self.ends):
            timer_s = timers[index]
            if timer_s is not None and timer_s <= self.now:
                end.connection.handle_timer(self.now)
                self.turn(end)
                after_s = end.connection.next_timer()
                assert after_s is None or after_s > self.now, "a timer that is due again at once"
            elif index in touched:
                self.turn(end)
        self.turns += 1
