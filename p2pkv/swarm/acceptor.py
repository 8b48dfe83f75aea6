"""This peer's votes on records: the acceptor of `core.consensus`.

It votes on a register only where it knows all that the register's acceptors before it may have decided
(`catching_up.py`). What it promised or accepted is durable before it says so. Owns the votes; proposes nothing.
"""

from __future__ import annotations

from p2pkv import messages
from p2pkv.core.consensus import Ballot
from p2pkv.errors import RemoteError
from p2pkv.ids import ID_BYTES, Place
from p2pkv.limits import BALLOT_MAX, REGISTERS_MERGED_MAX
from p2pkv.swarm.catching_up import CatchingUp
from p2pkv.swarm.protocol import Sender
from p2pkv.swarm.registers import Registers, checked_place


class Acceptor:
    """One peer's votes."""

    def __init__(self, registers: Registers, catching_up: CatchingUp) -> None:
        self.ended = False  # this peer hands its registers over and must not vote any more
        self._registers = registers
        self._catching_up = catching_up

    async def on_prepare(self, sender: Sender, request: messages.Prepare) -> messages.Promise:
        return await self.prepare(request)

    async def on_propose(self, sender: Sender, request: messages.Propose) -> messages.Accepted:
        return await self.propose(request)

    async def on_read(self, sender: Sender, request: messages.ReadRegister) -> messages.ReadRegisterReply:
        """What is known here; no vote, so anybody may ask at any time."""
        place = checked_place(request.key, request.name)
        settled = self._catching_up.settled(place)  # asked before the register is read
        return messages.ReadRegisterReply(await self._registers.handed(request.key, request.name), settled)

    async def on_merge(self, sender: Sender, request: messages.MergeRegisters) -> messages.MergeRegistersReply:
        """Take over what another acceptor knows; what it says to hold then is durable."""
        if not 0 < len(request.registers) <= REGISTERS_MERGED_MAX:
            raise RemoteError("malformed", "a wrong number of registers")
        held: list[bool] = []
        for register in request.registers:
            try:
                await self._registers.merge(register)
            except RemoteError:
                held.append(False)
            else:
                held.append(True)
        return messages.MergeRegistersReply(held)

    async def prepare(self, request: messages.Prepare) -> messages.Promise:
        """Raises RemoteError where this peer has no vote on the record, or none yet."""
        place = _check(request.key, request.name, request.ballot)
        await self._catching_up.ensure(request.key, request.name, place)
        async with self._registers.lock(place):
            self._require_office()
            state = await self._registers.state(request.key, place, request.name)
            after = state.promise(request.ballot)
            if after is not None:
                await self._registers.save(place, request.name, after)
        return messages.Promise(
            granted=after is not None,
            ballot=request.ballot if after is not None else state.promised,
            accepted_ballot=state.accepted_ballot,
            accepted=state.accepted,
        )

    async def propose(self, request: messages.Propose) -> messages.Accepted:
        """Raises RemoteError where this peer has no vote on the record, or none yet, or the version is no good."""
        version = request.version
        place = _check(request.key, version.name, request.ballot)
        self._registers.check_version(request.key, version)
        await self._catching_up.ensure(request.key, version.name, place)
        async with self._registers.lock(place):
            self._require_office()
            state = await self._registers.state(request.key, place, version.name)
            after = state.accept(request.ballot, version)
            if after is not None:
                await self._registers.save(place, version.name, after)
        return messages.Accepted(after is not None, max(state.promised, request.ballot))

    def _require_office(self) -> None:
        if self.ended:
            raise RemoteError("busy", "this peer leaves")


def _check(key: bytes, name: bytes, ballot: Ballot) -> Place:
    place = checked_place(key, name)
    if not 0 < ballot[0] <= BALLOT_MAX or len(ballot[1]) != ID_BYTES:
        raise RemoteError("malformed", "a ballot out of bounds")
    return place
