"""The default congestion control: a model of the path (its rate and its delay), with a response to loss and to queues.

Theory of operation, after BBR (Cardwell et al. 2017 and draft-ietf-ccwg-bbr). The path is taken to have a
bottleneck rate (the greatest delivery rate of the last rounds) and a delay without queues (the least round-trip
time of the last seconds). Their product is what must be in flight to fill it; more only makes a queue. The
controller paces at the rate, probes now and then for more (a round at 5/4 of the rate), drains the queue that the
probe made, and cruises.

Random loss is no reason to slow down, and loss by congestion is. What tells them apart is the queue: a queue that
overflows is full, so packets around the loss took longer than the path's delay. What is lost in rounds without a
queue is the path's own loss; a round is congested when its round-trip times were raised and it lost more than that,
by a small part and by what chance may add. Then rate and window are held down to what was
delivered, at least to BETA of what they were, until the next probe; and where a probe made it, the ceiling of what
may be in flight sinks to that. The ceiling rises again slowly, faster with every round that finds no fault. So it
makes room for a flow that goes by losses (a model without this takes all of a short queue), and keeps the line at 5
% random loss.

Flows that go by losses alone fill whatever queue there is, and a model that avoids the queue gets nothing beside them.
They are noticed by congestion while we cruise, or by a queue that stands after we have drained our own part. Then for
some seconds the window is CUBIC's, which shares with its like; after that the model tries anew. Others do not go by
losses and leave such a window next to nothing: after several reductions we insist on a part of what we had, and where
reductions follow each other within a few rounds (whoever fills the queue did not make room with us) we take as little
notice of losses as they do, for some seconds; then we try CUBIC's window again.

Owns window and pacing rate. Never sends, never reads a clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from enum import Enum, auto

from p2pkv.core.bulk.congestion import AckSample
from p2pkv.core.bulk.cubic import Cubic
from p2pkv.limits import (
    BULK_BATCH_BYTES_MAX,
    BULK_FLIGHT_BYTES_MAX,
    BULK_TIMER_S,
    BULK_WINDOW_PACKETS_INITIAL,
    BULK_WINDOW_PACKETS_MIN,
)

STARTUP_GAIN = 2.77  # draft, section 2.4: 4 ln 2, doubles the rate every round
DRAIN_GAIN = 0.35
FULL_GROWTH = 1.25  # less growth than this in FULL_ROUNDS rounds: the pipe is full
FULL_ROUNDS = 3
PROBE_GAIN = 1.25
DOWN_GAIN = 0.75
CRUISE_GAIN = 0.9  # after a round with a queue: the greatest rate of late is more than the path bears
CRUISE_ROUNDS = 6
CRUISE_ROUNDS_CLEAR = 4  # after which a queue is not ours any more
CRUISE_S = 2.0  # where the last probe found congestion: time for others to grow (draft, section 5.3.3.3)
UP_ROUNDS = 3
UP_ROUNDS_BELOW = 8  # while the ceiling holds us down
WINDOW_GAIN = 2.0
BETA = 0.7
CEILING_GROWTH = 0.05  # in a round of a probe that found no fault; doubled in each further one
LOSS_PART = 0.02  # of a round's bytes, beyond the path's own loss
OWN_LOSS_MAX = 0.2  # of the path; what is lost beyond it is congestion
OWN_LOSS_MEMORY = 7 / 8  # of earlier rounds, at each round
RATE_ROUNDS = 10
RATE_S = 0.15
DELAY_WINDOW_S = 10.0
DELAY_PROBE_S = 0.2
QUEUE_PART = 0.1  # a round-trip time raised by this part of the delay, and QUEUE_S, says that there is a queue
QUEUE_S = 0.0005
OWN_QUEUE_PART = 0.04  # with less, losses are believed to be the path's own; between the two nobody knows
RIVAL_S = 20.0
RIVAL_BETA = 0.62  # beside kernel CUBIC: its packets come in bursts, and lose more to a full queue than paced ones
RIVAL_PART = 0.35  # of our rate before, which we do not fall below beside flows that never give way
RIVAL_REDUCTIONS = 6  # after which we know that they do not
VAIN_ROUNDS = 6  # a reduction so soon after the last: whoever fills the queue did not make room with us
VAIN_REDUCTIONS = 4  # in a row, after which we take as little notice of losses as they do
VAIN_PACKETS_MIN = 16  # of the window that rivalry begins with; a smaller one grows back as soon by itself
OVERLOAD_PART = 0.4  # of a round that is lost: what we insist on is too much
RIVAL_LOSS_MAX = 0.003  # a path that loses more by itself leaves flows that go by losses next to nothing
RIVAL_QUEUE_PART = 0.5  # a queue that stands: round-trip times raised by this part of the delay, and RIVAL_QUEUE_S
RIVAL_QUEUE_S = 0.003
_NO_CEILING = 1 << 60


class Phase(Enum):
    STARTUP = auto()
    DRAIN = auto()
    DOWN = auto()
    CRUISE = auto()
    UP = auto()
    RIVAL = auto()  # beside flows that go by losses
    DELAY = auto()  # little in flight for a while, to see the path's delay


class MaxRate:
    """The greatest rate of the last rounds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, float, float]] = deque()  # round, time, rate; rates descend

    @property
    def value(self) -> float:
        return self._samples[0][2] if self._samples else 0.0

    def add(self, round_number: int, now: float, rate: float) -> None:
        samples = self._samples
        while samples and samples[-1][2] <= rate:
            samples.pop()
        samples.append((round_number, now, rate))

    def age(self, round_number: int, now: float) -> None:
        """Forget what is older than the window, the latest excepted."""
        samples = self._samples
        while len(samples) > 1 and samples[0][0] < round_number - RATE_ROUNDS and now - samples[0][1] > RATE_S:
            samples.popleft()


class OwnLoss:
    """The part of packets that the path loses without a queue."""

    def __init__(self) -> None:
        self._lost = 0.0
        self._sent = 1.0

    @property
    def part(self) -> float:
        return min(self._lost / self._sent, OWN_LOSS_MAX)

    def learn(self, lost: int, sent: int) -> None:
        self._lost = self._lost * OWN_LOSS_MEMORY + lost
        self._sent = self._sent * OWN_LOSS_MEMORY + sent

    def exceeded(self, lost: int, sent: int, packet_bytes: int, part: float) -> bool:
        """Whether a round lost more than that: by a part, and by three standard deviations of chance."""
        chance: float = 3 * (self.part * sent * packet_bytes) ** 0.5
        return lost > (self.part + part) * sent + chance


class PathModel:
    """Rate times delay, and a bit."""

    def __init__(self, packet_bytes: int) -> None:
        self._packet = packet_bytes
        self.phase = Phase.STARTUP
        self.window_bytes = BULK_WINDOW_PACKETS_INITIAL * packet_bytes
        self.pacing_rate = 0.0
        self.delay_s = 0.0  # least round-trip time; 0: unknown
        self._rate = MaxRate()
        self._rtt_s = 0.0  # the latest
        self._delay_seen_s = 0.0  # when `delay_s` was last measured or confirmed
        self._delay_until_s = 0.0
        self._round = 0
        self._round_ends_bytes = 0
        self._phase_round = 0
        self._phase_s = 0.0
        self._full_rate = 0.0
        self._full_rounds = 0
        self._growth = CEILING_GROWTH
        self._ceiling = _NO_CEILING  # bytes in flight that made no congestion
        self._held_rate = 0.0  # 0: the rate is not held down
        self._held_window = 0
        self._round_lost = 0
        self._round_acked = 0
        self._round_rtts_s = 0.0  # their sum
        self._round_rtt_count = 0
        self._round_rate = 0.0
        self._round_flight = 0
        self._own_loss = OwnLoss()
        self._cubic = Cubic(packet_bytes, RIVAL_BETA)
        self._rivals_left_s = -RIVAL_S
        self._insisted_rate = 0.0
        self._reductions = 0
        self._reduced_round = 0
        self._rival_packets = 0.0  # of our window when rivalry began
        self._vain = 0  # reductions in a row that came too soon
        self._heedless_until_s = 0.0
        self._heedless = False  # beside flows that take no notice of losses
        self._was_queued = False  # in the round before
        self._drained = False  # before we began to cruise
        self._buffer = 0

    @property
    def rate(self) -> float:
        """Bytes per second that the path is taken to carry."""
        return self._rate.value

    def resize(self, packet_bytes: int) -> None:
        self._packet = packet_bytes
        self._cubic.resize(packet_bytes)
        self.window_bytes = max(self.window_bytes, BULK_WINDOW_PACKETS_MIN * packet_bytes)

    def on_timeout(self, now: float) -> None:
        """Nothing came back for long: the path may be another one."""
        self.window_bytes = BULK_WINDOW_PACKETS_MIN * self._packet
        self._held_window = self.window_bytes
        self._enter(Phase.DOWN, now)

    def on_ack(self, sample: AckSample) -> None:
        self._buffer = sample.buffer_bytes
        self._learn_delay(sample)
        self._learn_rate(sample)
        if sample.round_began_bytes >= self._round_ends_bytes and sample.acked_bytes:
            self._end_round(sample)
        if self.phase is Phase.RIVAL:
            self._cubic.on_ack(replace(sample, lost_bytes=0))  # which losses count is decided here
        self._step(sample)
        self._decide(sample)

    # --- what the path is ---

    def _learn_delay(self, sample: AckSample) -> None:
        rtt = sample.rtt_s
        if rtt is None:
            return
        expired = sample.now - self._delay_seen_s > DELAY_WINDOW_S
        if not self.delay_s or rtt <= self.delay_s * 1.01 or (expired and self.phase is Phase.DELAY):
            self.delay_s = rtt if expired else min(rtt, self.delay_s or rtt)
            self._delay_seen_s = sample.now
        self._rtt_s = rtt
        self._round_rtts_s += rtt
        self._round_rtt_count += 1

    def _learn_rate(self, sample: AckSample) -> None:
        self._round_lost += sample.lost_bytes
        self._round_acked += sample.acked_bytes
        self._round_flight = max(self._round_flight, sample.in_flight_bytes + sample.acked_bytes + sample.lost_bytes)
        self._round_rate = max(self._round_rate, sample.rate)
        if sample.rate and (not sample.app_limited or sample.rate > self.rate):
            self._rate.add(self._round, sample.now, sample.rate)

    def _end_round(self, sample: AckSample) -> None:
        self._round += 1
        self._round_ends_bytes = sample.delivered_bytes + sample.in_flight_bytes
        self._rate.age(self._round, sample.now)
        if self.phase is Phase.STARTUP:
            self._check_full(sample)
        cruised = self._round - self._phase_round if self.phase is Phase.CRUISE else 0
        if self._heedless:
            self._end_heedless_round(sample)
        elif self._congested():
            if self.phase is Phase.RIVAL or (cruised >= 2 and self._rivals_possible):
                self._give_way(sample)
            else:
                self._back_off(sample.now)
        elif cruised == CRUISE_ROUNDS_CLEAR and self._drained and self._rivals_possible and self._queue_stands:
            self._begin_rivalry(sample)
        elif self.phase is Phase.UP and self._ceiling < _NO_CEILING:
            self._ceiling += int(max(self._ceiling * self._growth, 2 * self._packet))
            self._growth *= 2
        self._round_lost = self._round_acked = self._round_flight = 0
        self._round_rtts_s, self._round_rtt_count, self._round_rate = 0.0, 0, 0.0

    def _end_heedless_round(self, sample: AckSample) -> None:
        """Until its time is over, or until nearly half of what we send is lost."""
        self._was_queued = False
        if sample.now > self._heedless_until_s or self._round_lost > OVERLOAD_PART * self._round_acked:
            self._heedless = False
            self._begin_rivalry(sample)  # perhaps they have gone, or others have come

    def _congested(self) -> bool:
        """Whether the round that ends lost to a queue that overflowed."""
        lost, sent = self._round_lost, self._round_lost + self._round_acked
        queued = self._was_queued = self._queued
        less = 2 * lost < self._own_loss.part * sent
        others = self.phase is Phase.RIVAL or self._raised(OWN_QUEUE_PART)  # may have made them: they say nothing
        if less or not others:
            self._own_loss.learn(lost, sent)
        part = 0.0 if self.phase is Phase.RIVAL else LOSS_PART
        return queued and self._own_loss.exceeded(lost, sent, self._packet, part)

    @property
    def _rivals_possible(self) -> bool:
        return self._own_loss.part < RIVAL_LOSS_MAX

    @property
    def _queue_stands(self) -> bool:
        """Whether others keep a queue while we keep none."""
        least_s = self.delay_s * (1 + RIVAL_QUEUE_PART) + RIVAL_QUEUE_S + 4 * self._packet / max(self.rate, 1)
        return self._round_rtts_s > least_s * max(self._round_rtt_count, 1)

    def _begin_rivalry(self, sample: AckSample) -> None:
        rtt_s = self._round_rtts_s / max(self._round_rtt_count, 1)
        window = BETA * max(self._round_rate * rtt_s, self._round_acked)  # room for them, until we know their part
        if sample.now - self._rivals_left_s < RIVAL_S:  # they are still there: go on where we were
            window = max(window, BETA * self._cubic.window_bytes)
        else:
            self._insisted_rate, self._reductions = RIVAL_PART * self.rate, 0
        self._rival_packets = max(window, self._round_acked) / self._packet
        self._cubic.settle(int(window), sample.now, rtt_s)
        self._held_rate, self._held_window, self._ceiling = 0.0, 0, _NO_CEILING
        self._enter(Phase.RIVAL, sample.now)

    def _give_way(self, sample: AckSample) -> None:
        """Congestion that is not of our probing."""
        if self.phase is not Phase.RIVAL:
            self._begin_rivalry(sample)
        self._cubic.reduce(sample.now)
        self._reductions += 1
        self._note_vain(sample.now)
        if self._reductions > RIVAL_REDUCTIONS and self._round_lost > OVERLOAD_PART * self._round_acked:
            self._insisted_rate /= 2

    def _note_vain(self, now: float) -> None:
        """Flows that go by losses would have made room for longer."""
        soon = self._round - self._reduced_round <= VAIN_ROUNDS and self._rival_packets >= VAIN_PACKETS_MIN
        self._vain = self._vain + 1 if soon else 0
        self._reduced_round = self._round
        if self._vain >= VAIN_REDUCTIONS:
            self._vain, self._heedless, self._heedless_until_s = 0, True, now + RIVAL_S
            self._held_rate, self._held_window, self._ceiling = 0.0, 0, _NO_CEILING
            self._enter(Phase.UP, now)

    @property
    def _queued(self) -> bool:
        """Whether there was a queue in the round."""
        return self._raised(QUEUE_PART)

    def _raised(self, part: float) -> bool:
        """Whether the round's round-trip times were raised by a part of the delay."""
        least_s = self.delay_s * (1 + part) + QUEUE_S
        return self._round_rtts_s > least_s * max(self._round_rtt_count, 1)

    def _check_full(self, sample: AckSample) -> None:
        if sample.app_limited:
            return
        if self.rate >= self._full_rate * FULL_GROWTH:
            self._full_rate, self._full_rounds = self.rate, 0
            return
        self._full_rounds += 1
        if self._full_rounds >= FULL_ROUNDS:
            self._enter(Phase.DRAIN, sample.now)

    def _back_off(self, now: float) -> None:
        """The round that ends was congested."""
        probing = self.phase in {Phase.STARTUP, Phase.UP}
        self._held_rate = max(self._round_rate, BETA * (self._held_rate or self.rate))
        window = self._held_window or self.window_bytes
        self._held_window = max(int(BETA * window), self._round_acked, BULK_WINDOW_PACKETS_MIN * self._packet)
        if probing:
            self._ceiling = max(int(BETA * self._round_flight), BULK_WINDOW_PACKETS_MIN * self._packet)
            self._enter(Phase.DRAIN if self.phase is Phase.STARTUP else Phase.DOWN, now)

    # --- what to do about it ---

    def _enter(self, phase: Phase, now: float) -> None:
        self.phase, self._phase_round, self._phase_s = phase, self._round, now
        if phase is Phase.UP:
            self._held_rate, self._held_window, self._growth = 0.0, 0, CEILING_GROWTH

    def _step(self, sample: AckSample) -> None:
        now, rounds = sample.now, self._round - self._phase_round
        product = self.rate * self.delay_s
        if self.phase in _DRAIN_ROUNDS:
            self._drained = sample.in_flight_bytes <= product
            if self._drained or rounds > _DRAIN_ROUNDS[self.phase]:
                self._enter(Phase.CRUISE, now)
        elif self.phase is Phase.RIVAL:
            self._delay_seen_s = max(self._delay_seen_s, now - DELAY_WINDOW_S)  # not to be measured beside others
            if now - self._phase_s > RIVAL_S or not self._rivals_possible:
                self._rivals_left_s = now
                self._enter(Phase.DRAIN, now)
        elif self.phase is Phase.CRUISE and rounds >= CRUISE_ROUNDS:
            if self._ceiling == _NO_CEILING or now - self._phase_s > CRUISE_S:
                self._enter(Phase.UP, now)
        elif self.phase is Phase.UP and now - self._phase_s > self.delay_s and rounds >= 1:
            full = sample.in_flight_bytes >= PROBE_GAIN * product
            if full or rounds >= (UP_ROUNDS if self._ceiling > PROBE_GAIN * product else UP_ROUNDS_BELOW):
                self._enter(Phase.DOWN, now)
        self._step_delay(sample)

    def _step_delay(self, sample: AckSample) -> None:
        now = sample.now
        if self.phase is Phase.DELAY:
            if now > self._delay_until_s and self._round > self._phase_round:
                self._delay_seen_s = now
                self._enter(Phase.CRUISE, now)
        elif self.phase is not Phase.STARTUP and now - self._delay_seen_s > DELAY_WINDOW_S:
            self._delay_until_s = now + DELAY_PROBE_S
            self._enter(Phase.DELAY, now)

    def _decide(self, sample: AckSample) -> None:
        rate = self.rate
        if not rate or not self.delay_s:
            return
        gain = _GAINS.get(self.phase, CRUISE_GAIN if self._was_queued else 1.0)
        if self._held_rate:
            rate = min(rate, self._held_rate)
        self.pacing_rate = max(gain * rate, self._packet / max(self.delay_s, BULK_TIMER_S))
        product = rate * self.delay_s
        least = BULK_WINDOW_PACKETS_MIN * self._packet
        if self.phase is Phase.STARTUP:
            grown = self.window_bytes + sample.acked_bytes
            self.window_bytes = int(min(grown, max(STARTUP_GAIN * product, 0) + self._slack(rate) + 32 * self._packet))
        elif self.phase is Phase.RIVAL:
            insisted = self._insisted_rate if self._reductions >= RIVAL_REDUCTIONS else 0.0
            self.window_bytes = max(self._cubic.window_bytes, int(insisted * self._rtt_s + self._slack(insisted)))
            self.pacing_rate = max(self._cubic.pacing_rate, insisted)
        elif self.phase is Phase.DELAY:
            self.window_bytes = int(0.5 * product)
        else:
            target = WINDOW_GAIN * product + self._slack(rate)
            self.window_bytes = int(min(target, self._ceiling, self._held_window or _NO_CEILING))
        limit = int(rate * max(self.delay_s, self._rtt_s)) + max(self._buffer // 2, 2 * least)
        self.window_bytes = max(min(self.window_bytes, limit, BULK_FLIGHT_BYTES_MAX), least)

    def _slack(self, rate: float) -> float:
        """For timers that are exact to a millisecond, acks that come in batches and batches that leave as one."""
        return max(rate * 3 * BULK_TIMER_S, 8 * self._packet, min(2 * BULK_BATCH_BYTES_MAX, rate * 0.01))


_DRAIN_ROUNDS = {Phase.DRAIN: 8, Phase.DOWN: 2}
_GAINS = {Phase.STARTUP: STARTUP_GAIN, Phase.DRAIN: DRAIN_GAIN, Phase.UP: PROBE_GAIN, Phase.DOWN: DOWN_GAIN}
