"""A graceful end: the neighbours get what they lack of what this peer holds, then all contacts are told.

Theory of operation. A replica that just vanishes goes on to count as one in a small swarm, as nobody can know what it
took with it. One that first sees to it that every other replica holds all that it holds itself may be forgotten at
once: whatever a majority with it had, every one of them has. It compares with each neighbour, as in any round of
upkeep, and stores there what is lacking. Where that does not succeed in time, it says so, and counts as down.

Owns the last seconds of a peer. Drops nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence

from p2pkv import messages
from p2pkv.core.pages import page_at
from p2pkv.core.reconciliation import CELL_BYTES, Part, Walk
from p2pkv.core.records import Flag, Version, encoded_bytes
from p2pkv.errors import RemoteError
from p2pkv.limits import LEAVE_PUSHES_AT_ONCE_MAX, LEAVE_S_MAX, LEAVE_WORD_S, RECORDS_STORE_BYTES_MAX
from p2pkv.messages import CHUNKS, RECORDS
from p2pkv.storage.interface import Held, Store, StoreFailedError
from p2pkv.swarm.acceptor import Acceptor
from p2pkv.swarm.chunks import ChunkKeeper, ChunkSwarm
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.duties import Duties
from p2pkv.swarm.inventory import StoreInventory
from p2pkv.swarm.protocol import PeerProtocol, Sender
from p2pkv.swarm.register_upkeep import RegisterUpkeep
from p2pkv.swarm.tending import Tending

log = logging.getLogger(__name__)
_SAFE = {messages.STORED, messages.ALREADY, messages.STALE, messages.SPLIT}


class Leaving:
    """This peer's end, and its part in the ends of others."""

    def __init__(
        self,
        store: Store,
        protocol: PeerProtocol,
        inventory: StoreInventory,
        chunks: ChunkSwarm,
        keeper: ChunkKeeper,
        tending: Tending,
        acceptor: Acceptor,
        registers: RegisterUpkeep,
    ) -> None:
        self._store = store
        self._protocol = protocol
        self._inventory = inventory
        self._chunks = chunks
        self._keeper = keeper
        self._tending = tending
        self._acceptor = acceptor
        self._registers = registers
        self._tasks: dict[Contact, asyncio.Task[bool]] = {}

    async def on_leave(self, sender: Sender, request: messages.Leave) -> messages.LeaveReply:
        """Forget a contact that ends."""
        contact = sender.contact
        if contact is None or self._protocol.router.get(contact.id) is not contact:
            return messages.LeaveReply(False)
        self._protocol.on_left(contact, counts=not request.handed_on)
        if contact in self._tasks:
            self._tasks[contact].cancel()  # it ends as we do, and has given us all
        return messages.LeaveReply(True)

    async def leave(self, duties: Duties) -> None:
        """Do all this in LEAVE_S_MAX seconds, or as much of it as can be done."""
        self._acceptor.ended = True
        try:
            async with asyncio.timeout(LEAVE_S_MAX):
                # Beside each other: a neighbour that keeps silent must not keep shards from going where they can.
                handed_on = all(await asyncio.gather(self._hand_on(duties), self._tending.hand_on()))
        except TimeoutError:
            handed_on = False
        if not handed_on:
            log.info("others may lack what this peer holds: it counts among them until it comes back")
        word = messages.Leave(handed_on)
        await asyncio.gather(*(self._tell(contact, word) for contact in self._protocol.router.contacts()))

    async def _tell(self, contact: Contact, word: messages.Leave) -> None:
        if contact.kind == "stock":
            return
        try:
            async with asyncio.timeout(LEAVE_WORD_S):
                await self._protocol.call(contact, messages.LEAVE, word)
        except (RemoteError, TimeoutError):
            return  # it finds out by itself

    async def _hand_on(self, duties: Duties) -> bool:
        """True where every neighbour has all that it should."""
        self._tasks = {
            contact: asyncio.create_task(self._complete(contact, prefixes))
            for contact, prefixes in duties.shared.items()
        }
        try:
            answers = await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        finally:
            for task in self._tasks.values():
                task.cancel()
        return all(answer is True or isinstance(answer, asyncio.CancelledError) for answer in answers)

    async def _complete(self, contact: Contact, prefixes: Sequence[bytes]) -> bool:
        """Give one neighbour what it lacks; True where it has all then."""
        try:
            if not await self._registers.complete(contact, prefixes):
                return False
            for kind in (RECORDS, CHUNKS):
                surplus = await self._surplus(contact, kind, prefixes)
                await (self._store_records(contact, surplus) if kind == RECORDS else self._push(contact, surplus))
        except (RemoteError, StoreFailedError) as error:
            log.debug("%s:%d could not be given what it lacks: %s", contact.ip, contact.port, error)
            return False
        return True

    async def _surplus(self, contact: Contact, kind: int, prefixes: Sequence[bytes]) -> list[bytes]:
        """What this peer holds below some prefixes and the contact does not."""
        walk = Walk(await self._inventory.fresh(kind, prefixes, at_once=True), prefixes)
        while questions := walk.questions():
            reply = await self._protocol.call(contact, messages.COMPARE, messages.Compare(kind, questions))
            walk.take(questions, [Part(*part) for part in reply.parts])
        return walk.surplus

    async def _store_records(self, contact: Contact, items: Sequence[bytes]) -> None:
        cells: dict[bytes, list[bytes]] = defaultdict(list)
        for item in items:
            cells[item[:CELL_BYTES]].append(item)
        shares: dict[bytes, list[Held]] = defaultdict(list)
        for cell, wanted in cells.items():
            held = await self._inventory.records.held(cell)
            for item in wanted:
                if item in held:
                    shares[held[item].key].append(held[item])
        requests = [request for key, share in shares.items() for request in _requests(key, share)]
        for start in range(0, len(requests), LEAVE_PUSHES_AT_ONCE_MAX):
            batch = requests[start : start + LEAVE_PUSHES_AT_ONCE_MAX]
            await asyncio.gather(*(self._send(contact, request) for request in batch))

    async def _send(self, contact: Contact, request: messages.StoreRecords) -> None:
        reply = await self._protocol.call(contact, messages.STORE_RECORDS, request)
        if len(reply.results) != len(request.versions) or any(result.code not in _SAFE for result in reply.results):
            raise RemoteError("refused", "not all records were taken")

    async def _push(self, contact: Contact, items: Sequence[bytes]) -> None:
        for chunk_id in await self._inventory.chunks.ids(items):
            data = await self._store.get_chunk(chunk_id)
            if data is not None and not await self._keeper.doubtful(chunk_id):
                await self._chunks.push_to(contact, chunk_id, data)


def _requests(key: bytes, share: Sequence[Held]) -> list[messages.StoreRecords]:
    """Records of one key as messages that fit; forced, as the receiver may still count the sender as nearer."""
    requests: list[messages.StoreRecords] = []
    versions: list[Version] = []
    depths, room_bytes = bytearray(), RECORDS_STORE_BYTES_MAX
    for held in share:
        page = b"" if held.version.flags & Flag.SPLIT else page_at(key, held.place, held.version.name)
        if page is None:
            continue
        size_bytes = encoded_bytes(held.version)
        if versions and size_bytes > room_bytes:
            requests.append(messages.StoreRecords(key, versions, force=True, depths=bytes(depths)))
            versions, depths, room_bytes = [], bytearray(), RECORDS_STORE_BYTES_MAX
        versions.append(held.version)
        depths.append(len(page))
        room_bytes -= size_bytes + 1
    if versions:
        requests.append(messages.StoreRecords(key, versions, force=True, depths=bytes(depths)))
    return requests
