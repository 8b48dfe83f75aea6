"""Registers survive the peers that hold them: compared and fetched in rounds, handed on, given away before leaving.

Theory of operation. As records are kept up (`upkeep.py`), so are registers: this peer compares with every neighbour
what both should hold and merges what it lacks. When all have answered, it knows whatever the acceptors around decided
before, and may vote on any register of its share without asking (`catching_up.py`). Registers come first in a round:
they are small, and votes wait for them.

Registers of which this peer is no acceptor any more it gives to the k that are, at once, and drops them when these k
say that they hold them, and a while later: peers that have just come may go again. A peer that leaves gives what
others lack to each of its neighbours, and votes no more.

Owns the rounds' part that is about registers. Decides no vote.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from p2pkv import messages
from p2pkv.core.reconciliation import Part as Answer
from p2pkv.core.reconciliation import Walk
from p2pkv.errors import P2pkvError, RemoteError
from p2pkv.ids import ID_BYTES, Place
from p2pkv.limits import HANDOVER_CELLS_MAX, HANDOVER_GRACE_S, UPKEEP_FETCH_ITEMS
from p2pkv.messages import REGISTERS, HandedRegister
from p2pkv.storage.interface import StoreFailedError
from p2pkv.swarm.catching_up import CatchingUp
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.duties import Duties
from p2pkv.swarm.lookup import Lookups
from p2pkv.swarm.neighbourhood import Neighbourhood
from p2pkv.swarm.protocol import PeerProtocol
from p2pkv.swarm.register_ledger import RegisterLedger
from p2pkv.swarm.registers import Registers, handed_of, merges

log = logging.getLogger(__name__)
_UNSOUND = ("malformed", "damaged")
_TROUBLE = (P2pkvError, RemoteError, StoreFailedError)


class RegisterUpkeep:
    """One peer's care for its registers."""

    def __init__(
        self,
        registers: Registers,
        ledger: RegisterLedger,
        catching_up: CatchingUp,
        protocol: PeerProtocol,
        lookups: Lookups,
        neighbourhood: Neighbourhood,
        counters: Counter[str],
    ) -> None:
        self._registers = registers
        self._ledger = ledger
        self._catching_up = catching_up
        self._protocol = protocol
        self._lookups = lookups
        self._neighbourhood = neighbourhood
        self._counters = counters
        self._since_s: dict[bytes, float] = {}  # when a cell was first found to be others'
        self._given: dict[bytes, bytes] = {}  # cells that k others have whole: what they held then

    async def run(self) -> None:
        """Read what is held, once."""
        await self._ledger.run()

    # --- a round ---

    async def round(self, duties: Duties, contacts: Sequence[Contact], near: Sequence[Contact]) -> tuple[bool, bool]:
        """Compare with the neighbours: was nothing lacking, did all answer? `near`: of whom the duties were made."""
        gained, answered = 0, True
        for contact in contacts:
            try:
                gained += await self._compare(contact, duties.shared[contact])
            except RemoteError as error:
                log.debug("registers of %s:%d could not be compared: %s", contact.ip, contact.port, error)
                answered = False
        self._counters["upkeep_registers_merged"] += gained
        if answered:
            self._catching_up.compared(near)
        return not gained, answered

    async def _compare(self, contact: Contact, prefixes: Sequence[bytes]) -> int:
        """Merge what a neighbour has below some prefixes and this peer lacks; how many registers that changed."""
        gained = 0

        async def fetch(lacking: Sequence[bytes]) -> None:
            nonlocal gained
            for start in range(0, len(lacking), UPKEEP_FETCH_ITEMS):
                gained += await self._fetch(contact, list(lacking[start : start + UPKEEP_FETCH_ITEMS]))

        await self._walk(contact, prefixes, fetch)
        return gained

    async def _walk(
        self, contact: Contact, prefixes: Sequence[bytes], take: Callable[[Sequence[bytes]], Awaitable[None]]
    ) -> Walk:
        """Compare with a contact; `take` gets what this peer lacks, as it is found."""
        walk = Walk(await self._ledger.fresh(prefixes), prefixes)
        while questions := walk.questions():
            reply = await self._protocol.call(contact, messages.COMPARE, messages.Compare(REGISTERS, questions))
            await self._ledger.fresh([prefix for prefix, _ in questions])
            await take(walk.take(questions, [Answer(*part) for part in reply.parts]))
        return walk

    async def _fetch(self, contact: Contact, items: list[bytes]) -> int:
        gained = 0
        while items:
            reply = await self._protocol.call(contact, messages.FETCH, messages.Fetch(REGISTERS, b"".join(items)))
            if not 0 < reply.answered <= len(items) or len(reply.registers) > reply.answered:
                raise RemoteError("misbehaved", "a wrong number of items answered")
            items = items[reply.answered :]
            for handed in reply.registers:
                gained += await self._merge(handed)
        return gained

    async def _merge(self, handed: HandedRegister) -> bool:
        """Raises RemoteError where a register could be sound and cannot be kept: then this peer may not vote."""
        try:
            return await self._registers.merge(handed)
        except RemoteError as error:
            if error.code not in _UNSOUND:
                raise
            self._counters["upkeep_rejected"] += 1
            return False

    # --- what is others' ---

    async def hand_on(self, duties: Duties) -> bool:
        """Give registers to those who have become their acceptors; True where nothing waits to be given soon."""
        try:
            inventory = await self._ledger.fresh([b""])  # what is others' was not compared with anybody
        except RemoteError:
            return False
        others = [cell for cell in inventory.cells() if not duties.covers(cell)]
        self._forget(set(others))
        quiet = len(others) <= HANDOVER_CELLS_MAX
        for cell in sorted(others, key=self._given.__contains__)[:HANDOVER_CELLS_MAX]:
            try:
                quiet = await self._cell(cell) and quiet
            except _TROUBLE as error:
                log.debug("registers at %s could not be handed on: %s", cell.decode(), error)
                quiet = False
        return quiet

    def _forget(self, others: set[bytes]) -> None:
        for cell in [cell for cell in self._since_s if cell not in others]:
            del self._since_s[cell]
            self._given.pop(cell, None)

    async def _cell(self, cell: bytes) -> bool:
        """True where k others hold all registers of a cell; they are dropped here when that is due."""
        now_s = asyncio.get_running_loop().time()
        due = now_s >= self._since_s.setdefault(cell, now_s) + HANDOVER_GRACE_S
        digest = (await self._ledger.fresh([cell])).digest(cell)
        if self._given.get(cell) == digest and not due:
            return True
        contacts = await self._nearest(cell)
        if len(contacts) < self._neighbourhood.k:
            return False  # so few peers are known alive that this one should hold it too
        held = list((await self._ledger.held(bytes.fromhex(cell.decode()))).values())
        handed = [register for register in map(handed_of, held) if register is not None]
        answers = await asyncio.gather(*(self._give(contact, handed) for contact in contacts))
        if not all(answers):
            return False
        self._given[cell] = digest
        if due:
            others = [register for register in held if not self._neighbourhood.keeps(register.place)]
            self._counters["upkeep_registers_dropped"] += sum([await self._registers.forget(r) for r in others])
        return True

    async def _nearest(self, cell: bytes) -> list[Contact]:
        place = Place(bytes.fromhex(cell.ljust(2 * ID_BYTES, b"8").decode()))
        found = await self._lookups.find_nodes(place)
        return [contact for contact in found.contacts if contact.kind != "stock"]

    async def _give(self, contact: Contact, registers: Sequence[HandedRegister]) -> bool:
        """True where a contact holds all of them now, durably. Raises RemoteError."""
        for request in merges(registers):
            reply = await self._protocol.call(contact, messages.MERGE_REGISTERS, request)
            if len(reply.held) != len(request.registers):
                raise RemoteError("misbehaved", "a wrong number of answers")
            if not all(reply.held):
                return False
        return True

    # --- the end ---

    async def complete(self, contact: Contact, prefixes: Sequence[bytes]) -> bool:
        """Give a neighbour what it lacks below some prefixes; True where it has all then. Raises RemoteError."""
        walk = await self._walk(contact, prefixes, _pass_by)
        found = [await self._ledger.held_as(item) for item in walk.surplus]
        return await self._give(contact, [register for register in found if register is not None])


async def _pass_by(lacking: Sequence[bytes]) -> None:
    """Whoever leaves fetches nothing."""
