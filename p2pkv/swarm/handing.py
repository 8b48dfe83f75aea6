"""What this peer answers to others who compare their holdings with its own and fetch what they lack.

Owns the bounds of these answers. Never asks anybody, and stores nothing.
"""

from __future__ import annotations

from collections import OrderedDict

from p2pkv import messages
from p2pkv.core.pages import page_at
from p2pkv.core.reconciliation import CELL_BYTES, DIGEST_BYTES, check_prefix, items_in
from p2pkv.core.records import Flag, encoded_bytes
from p2pkv.errors import RemoteError
from p2pkv.limits import (
    CELLS_KEPT_MAX,
    CELLS_REFRESHED_AT_ONCE_MAX,
    COMPARE_ANSWER_BYTES_MAX,
    COMPARE_PREFIXES_MAX,
    FETCH_ITEM_BYTES,
    FETCH_ITEMS_MAX,
    HOLDS_ITEMS_MAX,
)
from p2pkv.storage.interface import Held
from p2pkv.swarm.chunks import ChunkKeeper
from p2pkv.swarm.inventory import StoreInventory
from p2pkv.swarm.protocol import Sender
from p2pkv.swarm.register_ledger import RegisterLedger
from p2pkv.swarm.registers import handed_bytes


class Handing:
    """The answers."""

    def __init__(self, inventory: StoreInventory, registers: RegisterLedger, keeper: ChunkKeeper) -> None:
        self.handed = 0
        self._inventory = inventory
        self._registers = registers
        self._keeper = keeper
        self._cells: OrderedDict[bytes, dict[bytes, Held]] = OrderedDict()

    async def on_compare(self, sender: Sender, request: messages.Compare) -> messages.CompareReply:
        """About as many prefixes as one answer has room for."""
        if not 0 < len(request.questions) <= COMPARE_PREFIXES_MAX:
            raise RemoteError("malformed", "a wrong number of prefixes")
        for prefix, digest in request.questions:
            check_prefix(prefix)
            if len(digest) not in (0, DIGEST_BYTES):
                raise RemoteError("malformed", "a digest of a wrong length")
        prefixes = [prefix for prefix, _ in request.questions]
        registers = request.kind == messages.REGISTERS
        inventory = await (
            self._registers.fresh(prefixes) if registers else self._inventory.fresh(request.kind, prefixes)
        )
        parts: list[tuple[int, bytes]] = []
        room_bytes = COMPARE_ANSWER_BYTES_MAX
        for prefix, digest in request.questions:
            part = inventory.answer(prefix, digest)
            room_bytes -= len(part.data) + 5
            if parts and room_bytes < 0:
                break
            parts.append((part.kind, part.data))
        return messages.CompareReply(parts)

    async def on_fetch(self, sender: Sender, request: messages.Fetch) -> messages.FetchReply:
        """What the items stand for, as much of it as one answer has room for."""
        items = items_in(request.items)
        if not 0 < len(items) <= FETCH_ITEMS_MAX:
            raise RemoteError("malformed", "a wrong number of items")
        if request.kind == messages.REGISTERS:
            return await self._hand_registers(items)
        if self._inventory.ledger(request.kind) is self._inventory.chunks:
            return await self._name_chunks(items)
        records: list[messages.Handed] = []
        room_bytes = COMPARE_ANSWER_BYTES_MAX
        for answered, item in enumerate(items):
            held = await self._held(item)
            handed = _handed(held) if held is not None else None
            if handed is None:
                continue
            room_bytes -= len(handed.key) + encoded_bytes(handed.version) + FETCH_ITEM_BYTES
            if records and room_bytes < 0:
                self.handed += len(records)
                return messages.FetchReply(answered, records)
            records.append(handed)
        self.handed += len(records)
        return messages.FetchReply(len(items), records)

    async def on_holds(self, sender: Sender, request: messages.Holds) -> messages.HoldsReply:
        """Which records are durable here, by what the store says now."""
        return await self._holds(request, FETCH_ITEMS_MAX)

    async def on_holds_many(self, request: messages.Holds) -> messages.HoldsReply:
        """The same of as many as bulk transfer asks for."""
        return await self._holds(request, HOLDS_ITEMS_MAX)

    async def _holds(self, request: messages.Holds, items_max: int) -> messages.HoldsReply:
        items = items_in(request.items)
        if not 0 < len(items) <= items_max:
            raise RemoteError("malformed", "a wrong number of items")
        cells = {item[:CELL_BYTES].hex().encode() for item in items}
        if len(cells) > CELLS_REFRESHED_AT_ONCE_MAX:
            raise RemoteError("malformed", "too many cells")
        await self._inventory.fresh(messages.RECORDS, sorted(cells))
        return messages.HoldsReply([self._inventory.records.has(item) for item in items])

    async def _held(self, item: bytes) -> Held | None:
        """What an item stands for. Its cell is read, and read again, only where the inventory has the item."""
        cell = item[:CELL_BYTES]
        held = self._cells.get(cell, {}).get(item)
        if held is not None or not self._inventory.records.inventory.has(item):
            return held
        self._cells[cell] = await self._inventory.records.held(cell)
        self._cells.move_to_end(cell)
        if len(self._cells) > CELLS_KEPT_MAX:
            self._cells.popitem(last=False)
        return self._cells[cell].get(item)

    async def _hand_registers(self, items: list[bytes]) -> messages.FetchReply:
        handed: list[messages.HandedRegister] = []
        room_bytes = COMPARE_ANSWER_BYTES_MAX
        for answered, item in enumerate(items):
            register = await self._registers.held_as(item)
            if register is None:
                continue
            room_bytes -= handed_bytes(register)
            if handed and room_bytes < 0:
                return messages.FetchReply(answered, registers=handed)
            handed.append(register)
        return messages.FetchReply(len(items), registers=handed)

    async def _name_chunks(self, items: list[bytes]) -> messages.FetchReply:
        asked = items[:COMPARE_PREFIXES_MAX]
        ids = await self._inventory.chunks.ids(asked)
        today = self._keeper.today()
        days = [today if day is None else day for day in await self._keeper.store.chunk_days(ids)]
        return messages.FetchReply(len(asked), chunk_ids=list(ids), days=days)


def _handed(held: Held) -> messages.Handed | None:
    """A record as it is handed over; None where its key does not tell which page it lies in."""
    if held.version.flags & Flag.SPLIT:
        return messages.Handed(held.key, 0, held.version)
    page = page_at(held.key, held.place, held.version.name)
    return messages.Handed(held.key, len(page), held.version) if page is not None else None
