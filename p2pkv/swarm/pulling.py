"""Pulling one chunk from whichever of some peers hold it, past those that are dead or slow.

Owns what is known of pulls under way. Never decides who should hold a chunk.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol

from p2pkv import messages
from p2pkv.core.carriers import carried
from p2pkv.errors import RemoteError
from p2pkv.ids import Bytes, ChunkID, is_shard
from p2pkv.limits import PULL_LOOK_S, PULL_PATIENCE, PULL_PATIENCE_MIN_S, PULL_QUIET_S, PULLS_USUAL
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.protocol import PeerProtocol

ChunkHash = Callable[[Bytes], Awaitable[ChunkID]]
"""A chunk's id, computed beside the event loop, or at once in a simulation (see hashing)."""


class ChunkTransport(Protocol):
    """How the bytes of a chunk get from peer to peer. Every method raises RemoteError where the other peer fails."""

    async def push(self, contact: Contact, chunk_id: ChunkID, stored: Bytes, onward: Sequence[bytes] = ()) -> None:
        """Bring a chunk to a contact; it is durable there when this returns.

        `onward`: the NodeIDs of peers that it may pass the chunk on to. Whether it did must be asked there.
        """
        ...

    def connected(self, contact: Contact) -> bool:
        """Whether a request would be on its way at once, to a peer that was heard just now."""
        ...

    def quiet_s(self, contact: Contact) -> float:
        """How long a contact that bytes are awaited from was not heard."""
        ...

    async def pull(self, contact: Contact, chunk_id: ChunkID) -> Bytes:
        """A chunk from a contact, not checked yet."""
        ...


class Pulls:
    """The pulls of one peer: what is under way from whom, and what they usually take."""

    def __init__(self, protocol: PeerProtocol, transport: ChunkTransport, chunk_hash: ChunkHash) -> None:
        self._protocol = protocol
        self._transport = transport
        self._chunk_hash = chunk_hash
        self._running: Counter[bytes] = Counter()  # chunks under way from each contact
        self._done = 0
        self._usual_s = 0.0  # what a pull took of late

    def choose(self, contacts: Iterable[Contact]) -> Contact | None:
        """The one to pull a chunk from: with the least under way of those that are heard."""
        return min(contacts, key=self._load, default=None)

    def _load(self, contact: Contact) -> tuple[bool, int, float]:
        return self.is_quiet(contact), self._running[contact.id], contact.rtt.rto_s

    def is_quiet(self, contact: Contact) -> bool:
        """Has nothing come of a peer for a while though bytes are awaited from it?"""
        return self._transport.quiet_s(contact) > PULL_QUIET_S

    def is_late(self, pulling_s: float) -> bool:
        """Has a pull taken much longer than others took?"""
        usual = self._done >= PULLS_USUAL
        return usual and pulling_s > max(PULL_PATIENCE_MIN_S, PULL_PATIENCE * self._usual_s)

    def connected(self, contact: Contact) -> bool:
        """Whether a pull would be on its way at once."""
        return self._transport.connected(contact)

    async def pull(self, contact: Contact, chunk_id: ChunkID) -> Bytes:
        """A chunk from a contact, checked. Raises RemoteError."""
        began_s = asyncio.get_running_loop().time()
        data = await self._pull(contact, chunk_id)
        carried(contact.ip, contact.port, len(data))
        self._done += 1
        self._usual_s += (asyncio.get_running_loop().time() - began_s - self._usual_s) / min(self._done, PULLS_USUAL)
        return data

    async def _pull(self, contact: Contact, chunk_id: ChunkID) -> Bytes:
        self._running[contact.id] += 1
        try:
            data = await self._transport.pull(contact, chunk_id)
        finally:
            self._running[contact.id] -= 1
            if not self._running[contact.id]:
                del self._running[contact.id]
        if await self._chunk_hash(data) != chunk_id:
            raise RemoteError("damaged", "the bytes do not match the hash")
        return data

    async def holds(self, contact: Contact, chunk_id: ChunkID, *, vouch: bool = False) -> bool | None:
        """Whether a contact has a chunk; None where it does not answer. `vouch`: it is wanted."""
        try:
            request = messages.HasChunks([chunk_id], vouch)
            reply = await self._protocol.call(contact, messages.HAS_CHUNKS, request)
        except RemoteError:
            return None
        return reply.held[:1] == [True]


class Search:
    """One chunk, wanted from whichever of some contacts hold it.

    Where we are connected to the best of them it is pulled from there unasked; the others are asked who has it when
    that fails or is slow. At most two pulls run at once.
    """

    def __init__(self, pulls: Pulls, chunk_id: ChunkID, contacts: list[Contact]) -> None:
        self.failures: list[str] = []
        self._pulling = pulls
        self._chunk_id = chunk_id
        self._unasked = list(contacts)
        self._holding: list[Contact] = []
        self._asks: dict[asyncio.Task[bool | None], Contact] = {}
        self._under_way: dict[asyncio.Task[Bytes], tuple[Contact, float]] = {}

    async def run(self) -> Bytes | None:
        """The bytes, or None where none of the contacts gives them."""
        near = self._unasked[:1] if is_shard(self._chunk_id) else self._unasked  # the nearest alone has a shard
        first = self._pulling.choose(near)
        if first is not None and self._pulling.connected(first):
            self._unasked.remove(first)
            self._pull(first)
        while True:
            if len(self._under_way) < 2 and (not self._under_way or self._stuck()):
                self._begin_another()
            if not self._under_way and not self._asks:
                return None
            running = [*self._asks, *self._under_way]
            done, _ = await asyncio.wait(running, timeout=PULL_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                data = self._take(task)
                if data is not None:
                    return data

    async def close(self) -> None:
        for task in (*self._asks, *self._under_way):
            task.cancel()
        await asyncio.gather(*self._asks, *self._under_way, return_exceptions=True)

    def _stuck(self) -> bool:
        now_s = asyncio.get_running_loop().time()
        return all(
            self._pulling.is_quiet(contact) or self._pulling.is_late(now_s - since_s)
            for contact, since_s in self._under_way.values()
        )

    def _begin_another(self) -> None:
        """Pull from one that has it, or ask the others."""
        best = self._pulling.choose(self._holding)
        if best is not None:
            self._holding.remove(best)
            self._pull(best)
            return
        for contact in self._unasked:
            self._asks[asyncio.create_task(self._pulling.holds(contact, self._chunk_id))] = contact
        self._unasked = []

    def _pull(self, contact: Contact) -> None:
        task = asyncio.create_task(self._pulling.pull(contact, self._chunk_id))
        self._under_way[task] = contact, asyncio.get_running_loop().time()

    def _take(self, task: asyncio.Task[Any]) -> Bytes | None:
        """What a question or a pull brought."""
        if task in self._asks:
            contact, held = self._asks.pop(task), task.result()
            if held:
                self._holding.append(contact)
            elif held is None:
                self.failures.append(f"{contact.ip}:{contact.port} does not answer")
            return None
        contact, _ = self._under_way.pop(task)
        try:
            data: Bytes = task.result()
        except RemoteError as error:
            self.failures.append(f"{contact.ip}:{contact.port} {error}")
            return None
        return data
