"""This peer's consensus registers: read, written and merged, one step after the other.

What it says to have kept is durable. Registers that other acceptors hand over are merged with what is here, after the
same checks as a proposal. Owns the locks; decides no vote, and asks nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from p2pkv import messages
from p2pkv.core.consensus import NO_BALLOT, AcceptorState, Ballot
from p2pkv.core.pages import place_of_register
from p2pkv.core.records import Flag, Version, check_key, check_shape, encoded_bytes
from p2pkv.errors import RemoteError
from p2pkv.ids import ID_BYTES, Place
from p2pkv.limits import BALLOT_HANDED_MAX, NAME_BYTES_MAX, RECORDS_STORE_BYTES_MAX, REGISTERS_MERGED_MAX
from p2pkv.messages import HandedRegister
from p2pkv.storage.interface import PutRegister, QuotaExceededError, Register, StoreFailedError
from p2pkv.swarm.replica import Replica
from p2pkv.swarm.signing import genuine

_LOCKS = 64
_HEADS_BYTES = 128  # of a handed register, beside key, name and version: two ballots and the heads


class Registers:
    """The registers of one peer."""

    def __init__(self, replica: Replica) -> None:
        self.store = replica.store
        self.on_wrote: Callable[[Place], None] = _ignore  # told of what is durable, before anybody else is
        self._replica = replica
        self._locks = [asyncio.Lock() for _ in range(_LOCKS)]

    def lock(self, place: Place) -> asyncio.Lock:
        """Held by whoever reads a state in order to change it."""
        return self._locks[place[0] % _LOCKS]

    async def state(self, key: bytes, place: Place, name: bytes) -> AcceptorState:
        state = AcceptorState.decode(await self.store.read_register(place, name))
        return msgspec.structs.replace(state, key=key)

    async def save(self, place: Place, name: bytes, state: AcceptorState) -> None:
        """Durably. Raises RemoteError."""
        try:
            await self.store.commit([PutRegister(place, name, state.encode())])
        except QuotaExceededError as error:
            raise RemoteError("quota", str(error)) from error
        except StoreFailedError as error:
            raise RemoteError("failed", str(error)) from error
        self.on_wrote(place)

    def check_version(self, key: bytes, version: Version) -> None:
        """Raise RemoteError where a version may not enter a register."""
        check_shape(version)
        if version.flags & (Flag.STOCK | Flag.PENDING) or not genuine(key, version):
            raise RemoteError("damaged", "its signature does not hold")
        if not self._replica.trusts(version):
            raise RemoteError("refused", "its clock runs too far ahead")

    # --- what other acceptors know ---

    async def handed(self, key: bytes, name: bytes) -> HandedRegister | None:
        """What is known here of a record's register."""
        place = checked_place(key, name)
        state = await self.store.read_register(place, name)
        return _handed(key, name, AcceptorState.decode(state)) if state else None

    async def merge(self, handed: HandedRegister) -> bool:
        """Take a register over, durably; True where something was new. Raises RemoteError."""
        place = self._check(handed)
        theirs = AcceptorState(handed.promised, handed.accepted_ballot, handed.accepted, handed.key)
        async with self.lock(place):
            state = AcceptorState.decode(await self.store.read_register(place, handed.name))
            merged = state.merge(theirs)
            if merged == state:
                return False
            await self.save(place, handed.name, merged)
        return True

    async def forget(self, register: Register) -> bool:
        """Drop a register that others hold, if it still is as it was handed to them; True where it was."""
        async with self.lock(register.place):
            if await self.store.read_register(register.place, register.name) != register.state:
                return False
            await self.store.commit([PutRegister(register.place, register.name, b"")])
        self.on_wrote(register.place)
        return True

    def _check(self, handed: HandedRegister) -> Place:
        place = checked_place(handed.key, handed.name)
        for ballot in (handed.promised, handed.accepted_ballot):
            _check_ballot(ballot)
        if handed.accepted_ballot > handed.promised:
            raise RemoteError("malformed", "more was accepted than promised")
        if (handed.accepted is None) != (handed.accepted_ballot == NO_BALLOT):
            raise RemoteError("malformed", "a ballot without a version, or a version without a ballot")
        if handed.accepted is not None:
            if handed.accepted.name != handed.name:
                raise RemoteError("malformed", "a version of another record")
            self.check_version(handed.key, handed.accepted)
        return place


def _ignore(place: Place) -> None:
    """Nobody listens yet."""


def checked_place(key: bytes, name: bytes) -> Place:
    """Where the register of a record lies. Raises RemoteError where there can be none."""
    check_key(key)
    if not 0 < len(name) <= NAME_BYTES_MAX:
        raise RemoteError("malformed", "a name of a wrong length")
    return place_of_register(key, name)


def _check_ballot(ballot: Ballot) -> None:
    if ballot != NO_BALLOT and (not 0 < ballot[0] <= BALLOT_HANDED_MAX or len(ballot[1]) != ID_BYTES):
        raise RemoteError("malformed", "a ballot out of bounds")


def _handed(key: bytes, name: bytes, state: AcceptorState) -> HandedRegister:
    return HandedRegister(key, name, state.promised, state.accepted_ballot, state.accepted)


def handed_of(register: Register) -> HandedRegister | None:
    """A register as it is handed over; None where nobody could check it, as it does not tell its key."""
    state = AcceptorState.decode(register.state)
    return _handed(state.key, register.name, state) if state.key else None


def handed_bytes(handed: HandedRegister) -> int:
    """About how much of a message it takes."""
    version_bytes = encoded_bytes(handed.accepted) if handed.accepted is not None else 0
    return _HEADS_BYTES + len(handed.key) + len(handed.name) + version_bytes


def merges(registers: Sequence[HandedRegister]) -> list[messages.MergeRegisters]:
    """Registers as messages that fit."""
    batches: list[list[HandedRegister]] = []
    room_bytes = 0
    for handed in registers:
        size_bytes = handed_bytes(handed)
        if size_bytes > room_bytes or len(batches[-1]) >= REGISTERS_MERGED_MAX:
            batches.append([])
            room_bytes = RECORDS_STORE_BYTES_MAX
        batches[-1].append(handed)
        room_bytes -= size_bytes
    return [messages.MergeRegisters(batch) for batch in batches]
