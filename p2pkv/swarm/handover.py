"""Hands on what this peer holds for others: what it kept in their place, and what they have become responsible for.

Theory of operation. A peer comes to hold what it is no replica of in two ways: it stood in for a replica that was
down, or nearer peers have joined. In each round it looks at the parts of the id space that are not its own. It asks
the k live peers nearest to each which of its records they have, and has them store what they lack. A record is dropped
only after all k have said that they hold it, or a newer one, durably, and some time later: peers that have just come
may go again.

Owns that decision and its pace. Never drops what it is itself a replica of.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from p2pkv import messages
from p2pkv.core.reconciliation import item_of
from p2pkv.core.records import Flag, Version, content_hash
from p2pkv.errors import P2pkvError, RemoteError
from p2pkv.ids import ID_BYTES, ChunkID, Place, place_of_chunk
from p2pkv.limits import CHUNKS_ASKED_MAX, FETCH_ITEMS_MAX, HANDOVER_CELLS_MAX, HANDOVER_GRACE_S, MOVE_RECORDS_MAX
from p2pkv.storage.interface import DropVersion, Held, Store, StoreFailedError
from p2pkv.swarm.chunks import ChunkKeeper, ChunkSwarm
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.duties import Duties
from p2pkv.swarm.inventory import Ledger, StoreInventory
from p2pkv.swarm.lookup import Lookups
from p2pkv.swarm.neighbourhood import Neighbourhood
from p2pkv.swarm.protocol import PeerProtocol
from p2pkv.swarm.writing import Writer

log = logging.getLogger(__name__)
_TROUBLE = (P2pkvError, RemoteError, StoreFailedError)
Cell = tuple[int, bytes]
"""A kind of holdings, and the digits of a cell."""


class Handover:
    """One peer's handing on."""

    def __init__(
        self,
        store: Store,
        protocol: PeerProtocol,
        lookups: Lookups,
        inventory: StoreInventory,
        writer: Writer,
        chunks: ChunkSwarm,
        keeper: ChunkKeeper,
        neighbourhood: Neighbourhood,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._store = store
        self._protocol = protocol
        self._lookups = lookups
        self._inventory = inventory
        self._writer = writer
        self._chunks = chunks
        self._keeper = keeper
        self._neighbourhood = neighbourhood
        self._k = neighbourhood.k
        self._last: dict[int, bytes] = {}  # of each kind, the cell that had its turn last
        self._since_s: dict[Cell, float] = {}  # when a cell was first found to be others'
        self._safe: dict[Cell, bytes] = {}  # cells that k others have whole: what they held then

    async def round(self, duties: Duties) -> bool:
        """Hand on what is others'; True where nothing waits to be handed on soon."""
        quiet = True
        for kind, ledger in ((messages.RECORDS, self._inventory.records), (messages.CHUNKS, self._inventory.chunks)):
            cells = [cell for cell in ledger.inventory.cells() if not duties.covers(cell)]
            self._forget(kind, set(cells))
            for cell in self._turn(kind, cells):
                try:
                    quiet = await self._cell(kind, ledger, cell) and quiet
                except _TROUBLE as error:
                    log.debug("what lies at %s could not be handed on: %s", cell.decode(), error)
                    quiet = False
        return quiet

    def _turn(self, kind: int, cells: Sequence[bytes]) -> list[bytes]:
        """As many cells as one round takes, those next that had no turn yet."""
        cells = sorted(cells)
        begin = bisect_right(cells, self._last.get(kind, b"")) if len(cells) > HANDOVER_CELLS_MAX else 0
        turn = [*cells[begin:], *cells[:begin]][:HANDOVER_CELLS_MAX]
        if turn:
            self._last[kind] = turn[-1]
        return turn

    def _forget(self, kind: int, others: set[bytes]) -> None:
        """Cells that have become this peer's, or empty, count anew when they are others' again."""
        for at in [at for at in self._since_s if at[0] == kind and at[1] not in others]:
            del self._since_s[at]
            self._safe.pop(at, None)

    async def _cell(self, kind: int, ledger: Ledger, cell: bytes) -> bool:
        now_s, at = asyncio.get_running_loop().time(), (kind, cell)
        due = now_s >= self._since_s.setdefault(at, now_s) + HANDOVER_GRACE_S
        digest = ledger.inventory.digest(cell)
        if self._safe.get(at) == digest and not due:
            return True
        contacts = await self._nearest(cell)
        if len(contacts) < self._k:
            return False  # so few peers are known alive that this one should hold it too
        raw = bytes.fromhex(cell.decode())
        safe = await (
            self._records(raw, contacts, due=due) if kind == messages.RECORDS else self._hold(raw, contacts, due=due)
        )
        if safe:
            self._safe[at] = digest
        return safe

    async def _nearest(self, cell: bytes) -> list[Contact]:
        place = Place(bytes.fromhex(cell.ljust(2 * ID_BYTES, b"8").decode()))
        found = await self._lookups.find_nodes(place, self._k)
        return [contact for contact in found.contacts if contact.kind != "stock"]

    # --- records ---

    async def _records(self, cell: bytes, contacts: Sequence[Contact], *, due: bool) -> bool:
        """True where k others hold all records of a cell; they are dropped here where it is due."""
        held = await self._inventory.records.held(cell)
        items = list(held)
        safe = True
        for start in range(0, len(items), FETCH_ITEMS_MAX):
            batch = items[start : start + FETCH_ITEMS_MAX]
            answers = await asyncio.gather(*(self._holds(contact, batch) for contact in contacts))
            confirmed = [item for item, *said in zip(batch, *answers, strict=True) if all(said)]
            confirmed += await self._store_there([held[item] for item in batch if item not in set(confirmed)])
            if due:
                await self._drop([held[item] for item in confirmed])
            safe = safe and len(confirmed) == len(batch)
        return safe

    async def _holds(self, contact: Contact, items: Sequence[bytes]) -> list[bool]:
        reply = await self._protocol.call(contact, messages.HOLDS, messages.Holds(b"".join(items)))
        if len(reply.held) != len(items):
            raise RemoteError("misbehaved", "a wrong number of answers")
        return reply.held

    async def _store_there(self, records: Iterable[Held]) -> list[bytes]:
        """Bring records to their replicas; the items of those that all k have now, or have newer."""
        shares: dict[tuple[Place, bytes], list[Version]] = defaultdict(list)
        confirmed: list[bytes] = []
        for held in records:
            if held.version.flags & Flag.SPLIT:
                await self._writer.tell_split(held.key, held.version.meta)
            else:
                shares[held.place, held.key].append(held.version)
        for (place, key), versions in shares.items():
            for start in range(0, len(versions), MOVE_RECORDS_MAX):
                run = versions[start : start + MOVE_RECORDS_MAX]
                tallies = await self._writer.store_batch(key, run, "all")
                safe = [v for v, tally in zip(run, tallies, strict=True) if tally.stored + tally.stale >= self._k]
                confirmed += [item_of(place, content_hash(version)) for version in safe]
                self.counters["upkeep_records_handed_on"] += len(safe)
        return confirmed

    async def _drop(self, records: Iterable[Held]) -> None:
        others = (held for held in records if not self._neighbourhood.keeps(held.place))
        drops = [DropVersion(held.place, *held.version.identity, content_hash(held.version)) for held in others]
        if drops:
            await self._store.commit(drops)
            self.counters["upkeep_records_dropped"] += len(drops)

    # --- chunks ---

    async def _hold(self, cell: bytes, contacts: Sequence[Contact], *, due: bool) -> bool:
        """True where k others hold all chunks of a cell; they are dropped here where it is due."""
        ids = await self._inventory.chunks.within(cell)
        safe = True
        for start in range(0, len(ids), CHUNKS_ASKED_MAX):
            batch = ids[start : start + CHUNKS_ASKED_MAX]
            asked = messages.HasChunks(list(batch))
            calls = (self._protocol.call(contact, messages.HAS_CHUNKS, asked) for contact in contacts)
            answers = [reply.held for reply in await asyncio.gather(*calls)]
            for chunk_id, *said in zip(batch, *answers, strict=True):
                safe = await self._chunk(chunk_id, everywhere=all(said), due=due) and safe
        return safe

    async def _chunk(self, chunk_id: ChunkID, *, everywhere: bool, due: bool) -> bool:
        if not everywhere:
            data = await self._store.get_chunk(chunk_id)
            if data is None:
                return True
            if await self._keeper.doubtful(chunk_id):
                return True  # nobody will miss it; it is dropped when its time has come
            put = await self._chunks.restore(chunk_id, data)
            everywhere = put.stored >= self._k
            self.counters["upkeep_chunks_handed_on"] += everywhere
        if everywhere and due and not self._neighbourhood.keeps(place_of_chunk(chunk_id)):
            self.counters["upkeep_chunks_dropped"] += await self._store.delete_chunk(chunk_id)
        return everywhere
