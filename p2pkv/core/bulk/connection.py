"""One bulk connection to one peer, as a state machine without IO.

Theory of operation. The driver feeds it packets (`receive`) and time (`handle_timer` at `next_timer`), and takes
from it what is to be sent (`packets_to_send`) and what has happened (`events`). Everything inside is a decision of
one of the parts: `streams` says whose bytes come next, `recovery` what is in flight and lost, the congestion
controller how much may be, the pacer when, `mtu` how large packets are, `receipts` what to acknowledge. This module
carries facts between them and owns no rule but the order: acknowledgements first (never held back), then control,
then data.
"""

from __future__ import annotations

from typing import Final

from p2pkv.core.bulk import packets
from p2pkv.core.bulk.batch import Batch, Options, bytes_of, single
from p2pkv.core.bulk.congestion import AckSample
from p2pkv.core.bulk.credit import Budget
from p2pkv.core.bulk.events import Admit, Closed, Event
from p2pkv.core.bulk.mtu import PathMtu
from p2pkv.core.bulk.pacing import Pacer
from p2pkv.core.bulk.packets import Buffer, Data
from p2pkv.core.bulk.receipts import Receipts
from p2pkv.core.bulk.recovery import Burst, Outcome, Part, Recovery
from p2pkv.core.bulk.streams import Stream, Streams
from p2pkv.errors import RemoteError
from p2pkv.limits import (
    BULK_BATCH_BYTES_MAX,
    BULK_BATCH_PACKETS_MAX,
    BULK_BATCHES_PER_TURN_MAX,
    BULK_DEAD_S,
    BULK_FLIGHT_BYTES_MAX,
    BULK_IDLE_S,
    BULK_PACKET_BYTES,
    BULK_PACKET_NUMBER_MAX,
    BULK_PING_S,
    BULK_SILENT_S,
    BULK_STALL_S,
    BULK_TIMER_S,
)

LOST_CODE: Final = "lost"  # how requests fail where the peer has forgotten the connection; try a new one
_SOON_PACKETS: Final = 8  # fewer are not worth a batch while more is in flight
_PACKETS_BUFFERED: Final = 12  # at least, in the peer's socket buffer
_MTU_HINT_TIMEOUTS: Final = 2  # probe time-outs after which large packets are suspected


class Connection:
    """See the module. `ours` and `theirs` are the ids that packets to us and to the peer carry."""

    def __init__(
        self,
        ours: int,
        theirs: int,
        now: float,
        *,
        initiator: bool,
        admit: Admit,
        budget: Budget,
        opening: bytes = b"",
        options: Options | None = None,
    ) -> None:
        """`opening`: what an initiator repeats until the peer is heard."""
        self.ours = ours
        self.theirs = theirs
        self.options = options or Options()
        self.streams = Streams(initiator=initiator, admit=admit, budget=budget)
        self.recovery = Recovery()
        self.mtu = PathMtu(self.options.packet_bytes_max)
        self.congestion = self.options.congestion(self.mtu.packet_bytes)
        self.closed: str | None = None
        self._pacer = Pacer()
        self._receipts = Receipts()
        self._opening = opening
        self._opening_due = bool(opening)
        self._heard_s = now
        self._active_s = now  # when a stream was last open
        self._peer_buffer = self.options.buffer_bytes
        self._acks_seen = 0
        self._probes = 0  # packets that may leave whatever the window says
        self._ping_due = False
        self._paced_s: float | None = None  # when the pacer lets the next bytes go
        self._events: list[Event] = []
        self._goodbye: bytes | None = None
        if not initiator:
            self._receipts.hurry(now)  # the initiator learns that it is let in, and its credit

    # --- the driver's requests ---

    @property
    def usable(self) -> bool:
        """Whether it takes requests."""
        return self.closed is None and self.recovery.next_number <= BULK_PACKET_NUMBER_MAX

    def silent(self, now: float) -> bool:
        """Whether something is awaited and the peer was not heard for a while."""
        return self.quiet_s(now) > BULK_SILENT_S

    def quiet_s(self, now: float) -> float:
        """How long the peer was not heard, where something is awaited of it."""
        return now - self._heard_s if self._waiting else 0.0

    def request(self, kind: int, topic: bytes, data: Buffer, reply_bytes_max: int, now: float) -> int:
        """Begin a request; its stream number. Raises RemoteError where the connection cannot take it."""
        if not self.usable:
            raise RemoteError("busy", "the connection ends")
        if not self.streams and not self.recovery.in_flight_bytes:
            self._heard_s = now  # silence before does not count
        self._active_s = now
        return self.streams.request(kind, topic, data, reply_bytes_max)

    def close(self, code: str = "failed", detail: str = "closed", *, tell: bool = True) -> None:
        """End it now; the peer is told once."""
        if self.closed is not None:
            return
        self.closed = code
        self.streams.end(code, detail)
        self._goodbye = packets.close(self.theirs, 0, code) if tell else None
        self._events = [*self.events(), Closed(code)]

    def events(self) -> list[Event]:
        """What has happened since the last call."""
        events, self._events = self._events, []
        more, self.streams.events = self.streams.events, []
        return events + more

    # --- what comes in ---

    def receive(self, packet: Buffer, now: float) -> None:
        """Take in a packet that carries our id. Never raises; a peer that breaks the protocol ends the connection."""
        if self.closed is not None:
            return
        try:
            if packet[0] == packets.DATA:
                self._on_data(packets.parse_data(packet), now)
            else:
                self._on_other(packets.parse(packet), now)
        except RemoteError as error:
            if error.code != "malformed":
                self.close(error.code, error.detail)

    def _on_data(self, packet: Data, now: float) -> None:
        self._heard(now)
        if self._receipts.note(packet.number, packet.span, now) and self.streams.on_data(packet, now):
            self._receipts.hurry(now)

    def _heard(self, now: float) -> None:
        self._heard_s = now
        self._opening, self._opening_due = b"", False

    def _on_other(self, packet: packets.Packet, now: float) -> None:
        self._heard(now)
        if isinstance(packet, packets.Ack):
            self._on_ack(packet, now)
        elif isinstance(packet, packets.Close):
            self.close(packet.code, "the peer ended the connection", tell=False)
        elif self._receipts.note(packet.number, packet.span, now):
            self._receipts.hurry(now)
            if isinstance(packet, packets.Reset):
                self.streams.on_reset(packet.stream, packet.code, packet.detail, packet.cost)

    def _on_ack(self, packet: packets.Ack, now: float) -> None:
        if packet.ranges and packet.ranges[-1][1] > self.recovery.next_number:
            raise RemoteError("misbehaved", "acknowledged what was never sent")
        if packet.number > self._acks_seen:
            self._acks_seen, self._peer_buffer = packet.number, packet.buffer_bytes
            self.streams.send_credit.granted(packet.credit)
            self.streams.start_waiting()
        outcome = self.recovery.on_ack(packet.ranges, packet.delay_s, now)
        if outcome.acked or outcome.lost:
            self._settle(outcome, now)

    def _settle(self, outcome: Outcome, now: float) -> None:
        """Tell the streams and the controller what an ack or a timer brought to light."""
        for burst, mask in outcome.acked:
            self._on_part_acked(burst, mask)
        for part in outcome.lost:
            self._send_again(part, now)
        if outcome.acked_bytes or outcome.lost_bytes:
            recovery, newest = self.recovery, outcome.newest
            self.congestion.on_ack(
                AckSample(
                    now,
                    outcome.acked_bytes,
                    outcome.lost_bytes,
                    recovery.in_flight_bytes,
                    outcome.rtt_s,
                    outcome.rate,
                    newest is not None and newest.app_limited,
                    recovery.delivered_bytes,
                    newest.delivered_bytes if newest is not None else -1,
                    self._peer_buffer,
                    outcome.largest_lost_sent_s,
                )
            )

    def _on_part_acked(self, burst: Burst, mask: int) -> None:
        load = burst.load
        if isinstance(load, Stream):
            for start, end in bytes_of(burst, mask):
                self.streams.on_acked(load, start, end)
        elif burst.probe and self.mtu.arrived(burst.size_bytes):
            self.congestion.resize(self.mtu.packet_bytes)

    def _send_again(self, part: Part, now: float) -> None:
        burst, mask = part
        load = burst.load
        if isinstance(load, Stream):
            for start, end in bytes_of(burst, mask):
                self.streams.on_lost(load, start, end)
        elif burst.probe:
            self.mtu.missing(burst.size_bytes)
        elif isinstance(load, packets.Reset):
            self.streams.resets.append((load.stream, load.code, load.detail, load.cost))

    def greet(self, now: float) -> None:
        """The initiator has not heard us yet."""
        self._receipts.hurry(now)

    def forgotten(self, now: float) -> None:
        """The peer says that it knows no such connection: believed where it has not been heard for a while.

        Before the opening has arrived it is right to say so, and a late word of that is no news.
        """
        if not self._opening and now - self._heard_s > self.recovery.rtt.probe_timeout_s(0) / 2:
            self.close(LOST_CODE, "the peer has forgotten the connection", tell=False)

    # --- time ---

    @property
    def _waiting(self) -> bool:
        """Whether we want something of the peer."""
        return bool(self.streams) or self.recovery.in_flight_bytes > 0

    def next_timer(self) -> float | None:
        """When `handle_timer` wants to be called; None once closed."""
        if self.closed is not None:
            return None
        times = [self._active_s + BULK_IDLE_S]
        if self._receipts.due_s is not None:
            times.append(self._receipts.due_s)
        recovery_s = self.recovery.timer_s
        if recovery_s is not None:
            times.append(recovery_s)
        if self._paced_s is not None:
            times.append(self._paced_s)
        if self._waiting:
            times.append(self._heard_s + BULK_DEAD_S)
            if recovery_s is None:
                times.append(self._ping_s)
        return min(times)

    @property
    def _ping_s(self) -> float:
        return max(self._heard_s, self.recovery.heard_s) + BULK_PING_S

    def handle_timer(self, now: float) -> None:
        """Do what is due. `packets_to_send` should follow."""
        if self.closed is not None:
            return
        if self._waiting:
            self._active_s = now
            if now >= self._heard_s + BULK_DEAD_S:
                self.close("silent", "the peer is not heard any more")
                return
        elif now >= self._active_s + BULK_IDLE_S:
            self.close("failed", "idle")
            return
        self.streams.give_up_stalled(now - BULK_STALL_S)
        self._on_recovery_timer(now)

    def _on_recovery_timer(self, now: float) -> None:
        if self.recovery.timer_s is None:
            self._ping_due = self._ping_due or (bool(self.streams) and now >= self._ping_s)
            return
        outcome, probe = self.recovery.on_timer(now)
        if outcome.lost:
            self._settle(outcome, now)
        if probe:
            self._probe(now, lost_all=bool(outcome.lost))

    def _probe(self, now: float, *, lost_all: bool) -> None:
        """No ack comes: let two packets out, the oldest ones again, or a ping."""
        self._probes = 2
        self._opening_due = bool(self._opening)
        if lost_all:
            self.congestion.on_timeout(now)
        oldest = self.recovery.oldest()
        if oldest is not None:
            burst, mask = oldest
            first = mask & -mask
            self._send_again((burst, first | (mask ^ first) & -(mask ^ first)), now)
        if not self.streams.pending and not self.streams.resets:
            self._ping_due = True
        if self.recovery.timeouts >= _MTU_HINT_TIMEOUTS and self.mtu.packet_bytes > BULK_PACKET_BYTES:
            self.mtu.black_hole()
            self.congestion.resize(self.mtu.packet_bytes)

    def too_large(self, size_bytes: int, now: float) -> None:
        """The system refused a packet for its size."""
        self.mtu.too_large(size_bytes, now)
        self.congestion.resize(self.mtu.packet_bytes)

    # --- what goes out ---

    def packets_to_send(self, now: float) -> list[Batch]:
        """What may leave now: at most BULK_BATCHES_PER_TURN_MAX batches of data. Call until it is empty."""
        batches: list[Batch] = []
        if self._goodbye is not None:
            batches.append(single(self._goodbye))
            self._goodbye = None
        if self.closed is not None:
            return batches
        if self._opening_due:
            self._opening_due = False
            batches.append(single(self._opening))
        self._send_ack(batches, now)
        self._send_control(batches, now)
        self._send_data(batches, now)
        return batches

    def _send_ack(self, batches: list[Batch], now: float) -> None:
        due_s, credit = self._receipts.due_s, self.streams.receive_credit
        if (due_s is None or due_s > now) and not credit.news:
            return
        number, delay_s, ranges = self._receipts.take(now)
        fields = packets.Ack(number, delay_s, credit.told(), self.options.buffer_bytes, ranges)
        batches.append(single(packets.ack(self.theirs, fields)))

    def _send_control(self, batches: list[Batch], now: float) -> None:
        recovery, streams = self.recovery, self.streams
        while streams.resets:
            stream, code, detail, cost = streams.resets.popleft()
            reset = packets.Reset(recovery.span, recovery.next_number, stream, cost, code, detail)
            self._send_one(batches, packets.reset(self.theirs, reset), reset, now)
        most = self._peer_buffer // _PACKETS_BUFFERED
        size = self.mtu.probe(now, most) if recovery.rtt.latest_s and streams.pending else None
        if size is not None:
            ping = packets.ping(recovery.span, self.theirs, recovery.next_number, size)
            self._send_one(batches, ping, None, now, probe=True)
        if self._ping_due:
            self._ping_due = False
            self._send_one(batches, packets.ping(recovery.span, self.theirs, recovery.next_number), None, now)

    def _send_one(self, batches: list[Batch], packet: bytes, load: object, now: float, *, probe: bool = False) -> None:
        size = len(packet)
        batches.append(Batch([packet, b""], size, size, probe))
        self.recovery.sent(Burst(self.recovery.next_number, 1, size, size, load, probe=probe), now)

    def _send_data(self, batches: list[Batch], now: float) -> None:
        self._paced_s = None
        for _ in range(BULK_BATCHES_PER_TURN_MAX):
            stream = self.streams.next_to_send()
            if stream is None:
                if self.recovery.in_flight_bytes < self.congestion.window_bytes:
                    self.recovery.note_idle()
                return
            count = self._room(now)
            if not count:
                return
            batches.append(self._burst(stream, count, now))
            self.streams.sent(stream)

    def _room(self, now: float) -> int:
        """How many packets may leave now as one batch."""
        packet, in_flight = self.mtu.packet_bytes, self.recovery.in_flight_bytes
        most = min(BULK_BATCH_PACKETS_MAX, BULK_BATCH_BYTES_MAX // packet)
        if self._probes:
            self._probes -= 1
            return 1
        rate = self.congestion.pacing_rate
        window = min(self.congestion.window_bytes, BULK_FLIGHT_BYTES_MAX) - in_flight
        if window < packet or (window < min(_SOON_PACKETS, most) * packet and in_flight > 2 * _SOON_PACKETS * packet):
            return 0  # the next ack makes room
        allowance = self._pacer.allowance(rate, packet, now)
        worthwhile = min(most * packet, max(packet, int(rate * BULK_TIMER_S)))
        if allowance < worthwhile:
            self._paced_s = self._pacer.ready_s(worthwhile)
            return 0
        return min(most, window // packet, allowance // packet)

    def _burst(self, stream: Stream, count: int, now: float) -> Batch:
        """The next bytes of a stream, as one batch of at most so many packets."""
        outgoing, recovery = stream.outgoing, self.recovery
        assert outgoing is not None
        packet, number, span = self.mtu.packet_bytes, recovery.next_number, recovery.span
        payload = packet - packets.DATA_HEAD_BYTES
        start, end = outgoing.take(count * payload)
        buffers: list[Buffer] = []
        for offset in range(start, end, payload):
            head = packets.data_head(min(span, 0xFFFF), self.theirs, number, stream.number, offset, outgoing.size)
            copied, view = outgoing.piece(offset, min(offset + payload, end))
            buffers += (head + copied if copied else head, view)
            number, span = number + 1, span + 1
        count = number - recovery.next_number
        size = end - start + count * packets.DATA_HEAD_BYTES
        burst = Burst(recovery.next_number, count, packet, size, stream, start, payload)
        recovery.sent(burst, now)
        self._pacer.sent(size)
        return Batch(buffers, packet, size)
