"""The registers that this peer holds, as an inventory to compare with other acceptors'.

A register's item stands for its whole state: two acceptors of different states each find what the other knows. What
`Registers` writes counts at once, not seconds later as records do: who compares must not miss a vote that was cast
before. Owns that inventory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from p2pkv.core.reconciliation import CELL_BYTES, Inventory, item_of
from p2pkv.errors import RemoteError
from p2pkv.ids import Place
from p2pkv.limits import INVENTORY_STEP_PAGES
from p2pkv.messages import HandedRegister
from p2pkv.storage.interface import Register
from p2pkv.swarm.inventory import Ledger, behind, rest
from p2pkv.swarm.registers import handed_of


class RegisterLedger(Ledger):
    """The registers. Those that do not tell their key cannot be handed over, and have no item."""

    async def run(self) -> None:
        """Read the store once."""
        await self.take()
        self.ready = True

    def wrote(self, place: Place) -> None:
        """A register has changed."""
        self.changed.add(place[:CELL_BYTES])

    async def fresh(self, prefixes: Sequence[bytes]) -> Inventory:
        """The inventory, in line with the store below some prefixes. Raises RemoteError while that is being read."""
        if not self.ready:
            raise RemoteError("busy", "what is here is still being read")
        if self.changed:
            below = tuple(prefix[: 2 * CELL_BYTES] for prefix in prefixes)
            await self.refresh([cell for cell in self.changed if cell.hex().encode().startswith(below)])
        return self.inventory

    async def items(self, low: bytes, high: bytes | None) -> Iterable[bytes]:
        return await self._between(low, high)

    async def held(self, cell: bytes) -> dict[bytes, Register]:
        """The registers of a cell by their items."""
        return await self._between(cell, behind(cell))

    async def held_as(self, item: bytes) -> HandedRegister | None:
        """The register that an item stands for, to be handed over; None where it is so no more."""
        if not self.inventory.has(item):
            return None
        register = (await self.held(item[:CELL_BYTES])).get(item)
        return handed_of(register) if register is not None else None

    async def _between(self, low: bytes, high: bytes | None) -> dict[bytes, Register]:
        found = dict[bytes, Register]()
        while True:
            part = await self._store.registers(low, high, INVENTORY_STEP_PAGES)
            found |= {item_of(register.place, register.state): register for register in part if handed_of(register)}
            if len(part) < INVENTORY_STEP_PAGES:
                return found
            low = part[-1].place + b"\0"

    async def take(self) -> None:
        """Count all that is held among the changes; it is read anew when somebody asks."""
        low = b""
        while True:
            began_s = asyncio.get_running_loop().time()
            part = await self._store.registers(low, None, INVENTORY_STEP_PAGES)
            self.changed |= {register.place[:CELL_BYTES] for register in part}
            if len(part) < INVENTORY_STEP_PAGES:
                return
            low = part[-1].place + b"\0"
            await rest(began_s)
