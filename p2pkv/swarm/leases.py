"""Who is told by this peer what becomes durable here: leases that watchers hold, and the pushes to them.

Theory of operation. A lease is for one place and ends by itself unless it is renewed. What becomes durable is queued
for each lease of its place and pushed in acknowledged messages: at once where none is under way, else in batches as
acknowledgements come, so pushes of a busy page fill their datagrams. A watcher that is silent, full or too slow loses
its pushes, never others': the lease is broken then, and its next renewal says so; the watcher reads what it missed.

Owns leases and their queues, all bounded. Reads nothing: what was durable before a lease is the watcher's to read.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial

from p2pkv import messages, wire
from p2pkv.core.records import Version, encoded_bytes
from p2pkv.errors import RemoteError
from p2pkv.ids import ID_BYTES, Place
from p2pkv.limits import (
    LEASE_QUEUE_MAX,
    LEASES_MAX,
    LEASES_PER_SENDER_MAX,
    LEASES_QUEUED_MAX,
    PUSHES_IN_FLIGHT_MAX,
    RECORDS_STORE_BYTES_MAX,
    WATCH_LEASE_S_MAX,
)
from p2pkv.swarm.contact import Contact, Sender
from p2pkv.swarm.environment import Address
from p2pkv.swarm.protocol import PeerProtocol
from p2pkv.swarm.rpc import decoder_of

Sink = Callable[[Sequence[Version]], object]
Name = tuple[bytes, bytes]
"""A lease within its place: the watcher's NodeID and its name for the watch."""


class Lease:
    """One watcher's lease of one place."""

    def __init__(self, contact: Contact, watch: bytes) -> None:
        self.contact = contact
        self.watch = watch
        self.until_s = 0.0
        self.queue: deque[tuple[Version, int]] = deque()  # with their encoded sizes
        self.queued_bytes = 0
        self.in_flight = 0
        self.broken = True  # something was not pushed since the last renewal
        self.paused = False  # until it is renewed

    def put(self, version: Version, size_bytes: int) -> None:
        self.queue.append((version, size_bytes))
        self.queued_bytes += size_bytes

    def take(self) -> list[Version]:
        """As many as fit a message, at least one."""
        versions: list[Version] = []
        room = RECORDS_STORE_BYTES_MAX
        while self.queue and (not versions or self.queue[0][1] <= room):
            version, size_bytes = self.queue.popleft()
            versions.append(version)
            room -= size_bytes
            self.queued_bytes -= size_bytes
        return versions

    def clear(self) -> int:
        """Drop what is queued; how many that were."""
        count = len(self.queue)
        self.queue.clear()
        self.queued_bytes = 0
        return count

    @property
    def may_push(self) -> bool:
        if self.paused or not self.queue:
            return False
        full = self.queued_bytes >= RECORDS_STORE_BYTES_MAX
        return not self.in_flight or (full and self.in_flight < PUSHES_IN_FLIGHT_MAX)


class Leases:
    """The leases that this peer has granted."""

    def __init__(self, protocol: PeerProtocol) -> None:
        self._protocol = protocol
        self._places: dict[bytes, dict[Name, Lease]] = {}
        self._sinks: dict[bytes, dict[bytes, Sink]] = {}  # of watches of this very peer
        self._senders: Counter[Address] = Counter()
        self._queued = 0
        self._decode = decoder_of(messages.PUSH.reply)

    def __len__(self) -> int:
        return sum(map(len, self._places.values()))

    # --- watchers ---

    def on_watch(self, sender: Sender, request: messages.Watch) -> messages.WatchReply:
        """Grant, renew or end a lease. Raises RemoteError where there are too many."""
        if len(request.place) != ID_BYTES:
            raise RemoteError("malformed", "a place has 20 bytes")
        name = (sender.node_id, request.watch)
        lease = self._places.get(request.place, {}).get(name)
        if lease is not None and (lease.contact.address != sender.address or lease.until_s <= self._now_s()):
            self._end(request.place, name)
            lease = None
        if request.lease_ms <= 0:
            if lease is not None:
                self._end(request.place, name)
            return messages.WatchReply(0, unbroken=False)
        return self._renew(lease or self._grant(sender, request.place, name), request.lease_ms / 1000)

    def _grant(self, sender: Sender, place: bytes, name: Name) -> Lease:
        if len(self) >= LEASES_MAX or self._senders[sender.address] >= LEASES_PER_SENDER_MAX:
            self._end_expired()
        if len(self) >= LEASES_MAX or self._senders[sender.address] >= LEASES_PER_SENDER_MAX:
            raise RemoteError("busy", "too many watches")
        lease = Lease(self._protocol.contact_for(sender.node_id, sender.address), name[1])
        self._places.setdefault(place, {})[name] = lease
        self._senders[sender.address] += 1
        return lease

    def _renew(self, lease: Lease, wanted_s: float) -> messages.WatchReply:
        granted_s = min(wanted_s, WATCH_LEASE_S_MAX)
        lease.until_s = self._now_s() + granted_s
        unbroken, lease.broken, lease.paused = not lease.broken, False, False
        return messages.WatchReply(int(granted_s * 1000), unbroken)

    def hold(self, place: bytes, watch: bytes, sink: Sink) -> None:
        """A watch of this very peer: it is called with what becomes durable here, until `release`."""
        self._sinks.setdefault(place, {})[watch] = sink

    def release(self, place: bytes, watch: bytes) -> None:
        sinks = self._sinks.get(place, {})
        sinks.pop(watch, None)
        if not sinks:
            self._sinks.pop(place, None)

    def _end(self, place: bytes, name: Name) -> None:
        leases = self._places[place]
        lease = leases.pop(name)
        if not leases:
            del self._places[place]
        self._queued -= lease.clear()
        lease.paused = lease.broken = True
        address = lease.contact.address
        self._senders[address] -= 1
        if not self._senders[address]:
            del self._senders[address]

    def _end_expired(self) -> None:
        now_s = self._now_s()
        over = [(place, name) for place, held in self._places.items() for name in held if held[name].until_s <= now_s]
        for place, name in over:
            self._end(place, name)

    # --- pushes ---

    def watched(self) -> bool:
        """Does anybody watch anything here?"""
        return bool(self._places or self._sinks)

    def on_stored(self, place: Place, versions: Sequence[Version]) -> None:
        """These became durable here. Costs nothing where nobody watches."""
        for sink in list(self._sinks.get(place, {}).values()):
            sink(versions)
        leases = self._places.get(place)
        if not leases:
            return
        sized = [(version, encoded_bytes(version)) for version in versions]
        now_s = self._now_s()
        for name, lease in list(leases.items()):
            if lease.until_s <= now_s:
                self._end(place, name)
            elif not lease.paused:
                self._queue(lease, sized)
                self._pump(lease)

    def _queue(self, lease: Lease, sized: Sequence[tuple[Version, int]]) -> None:
        for version, size_bytes in sized:
            lease.put(version, size_bytes)
        self._queued += len(sized)
        if len(lease.queue) > LEASE_QUEUE_MAX or self._queued > LEASES_QUEUED_MAX:
            self._protocol.counters["pushes_lost"] += 1
            self._break(lease)
            self._send(lease, messages.Push(lease.watch, [], lost=True))

    def _break(self, lease: Lease) -> None:
        lease.broken = lease.paused = True
        self._queued -= lease.clear()

    def _pump(self, lease: Lease) -> None:
        while lease.may_push:
            versions = lease.take()
            self._queued -= len(versions)
            self._protocol.counters["versions_pushed"] += len(versions)
            self._send(lease, messages.Push(lease.watch, versions))

    def _send(self, lease: Lease, push: messages.Push) -> None:
        lease.in_flight += 1
        body = wire.request_body(messages.PUSH.name, push)
        begun = self._protocol.begin_encoded(lease.contact, body, self._decode, partial(self._done, lease))
        if begun is None:
            self._protocol.spawn(self._call(lease, body))

    async def _call(self, lease: Lease, body: bytes) -> None:
        """To a watcher that has not proven itself yet, or that has too much to answer."""
        try:
            reply = await self._protocol.call_encoded(lease.contact, messages.PUSH, body)
        except RemoteError as error:
            self._done(lease, None, error)
        else:
            self._done(lease, reply, None)

    def _done(self, lease: Lease, reply: messages.PushReply | None, error: RemoteError | None) -> None:
        lease.in_flight -= 1
        if reply is None or not reply.taken:
            self._break(lease)
        if reply is not None and not reply.known:
            lease.until_s = 0.0
        self._pump(lease)

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()
