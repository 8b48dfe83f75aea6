"""May this peer vote on a record? Only if it knows what the record's acceptors decided before it became one of them.

Theory of operation. The acceptors of a register are the k live peers nearest to its place, and these change. A peer
whose neighbours are those with whom it compared all registers in its last whole round of upkeep (`RegisterUpkeep`) is
*settled* and votes at once: nothing is asked, also of records that nobody has put yet. Any other peer (it was just
started, it moves up because another died, it stands in for one that is down) first reads the register from the others,
merges what they say, durably, and votes then. It has read enough when

1. a majority of all acceptors, itself not counted, answered who are settled, or
2. all others that a lookup finds alive answered, and they are a majority together with itself. Without this a
   swarm that was started just now, where nobody is settled, could never vote.

A peer to whom a lookup shows k live peers nearer to the place has no vote at all.

Why that is enough where the acceptors change one after the other. Let k be even, m = k/2 + 1 the majority, C and C'
the acceptors before and after one change: C' is C without x and with y. Say that a promise or an accepted version is
*held* by those whose register says it or something higher. Let peers agree on who the acceptors are, let votes be cast
under two neighbouring sets at most at any time, and let a round of upkeep end between two changes (it follows within
seconds). Then what a majority promised or accepted is held by at least m - 1 members of the present set:

- A majority of C that voted has at least m - 1 members left in C'.
- Where a set before C decided, only m - 1 members of C may hold it, and one of these may be x. Then m - 2 of the k - 1
  others in C' hold it. y reads m of them before its first vote, and m + (m - 2) > k - 1, so it reads one that holds it,
  and holds it too.
- A majority of C' and the m - 1 who hold it meet, as m + (m - 1) > k. So no proposer misses it. Before y has voted, its
  majority is among the k - 1 others, where m + (m - 2) > k - 1.

Votes of C that are cast while y reads are in the first case: any majority of C and any of C' have an old member in
common, who takes no lower ballot after a higher one. A merged state is no vote: nobody counts it, and it raises only
what later proposers see. While a swarm of fewer than k peers grows by one peer the same sums hold with a smaller k.

Where several acceptors go at once, those of a majority that are left must still be among those who are read: with 3 of
8 gone 5 are left, and each newcomer hears all of them, by either rule; with 4 of 8 gone one of a majority may be left,
who is read only if every other acceptor that lives answers (rule 2). If more go between a vote and the reading, what
was voted may be lost. docs/guarantees.md says so to users.

Owns this judgement and the reading. Casts no vote.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from p2pkv import messages
from p2pkv.core.replication import write_quorum
from p2pkv.errors import P2pkvError, RemoteError
from p2pkv.ids import Place, distance
from p2pkv.limits import CATCH_UP_S_MAX, CATCH_UPS_AT_ONCE_MAX, CAUGHT_UP_KEPT_MAX, CAUGHT_UP_S, RPC_DEADLINE_S
from p2pkv.storage.interface import StoreFailedError
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.lookup import Lookups
from p2pkv.swarm.neighbourhood import Neighbourhood
from p2pkv.swarm.protocol import PeerProtocol
from p2pkv.swarm.registers import Registers

Caught = tuple[bytes, float]
"""The opinion of the neighbourhood with which a register was read, and until when that counts."""


class CatchingUp:
    """What this peer knows of its right to vote."""

    def __init__(
        self, registers: Registers, protocol: PeerProtocol, lookups: Lookups, neighbourhood: Neighbourhood
    ) -> None:
        self.read_from_others = 0
        self._registers = registers
        self._protocol = protocol
        self._lookups = lookups
        self._neighbourhood = neighbourhood
        self._compared: list[bytes] | None = (
            None  # NodeIDs of the neighbours of the last whole round; None: no round yet
        )
        self._caught: OrderedDict[tuple[Place, bytes], Caught] = OrderedDict()
        self._reading: dict[tuple[Place, bytes], asyncio.Task[RemoteError | None]] = {}

    def compared(self, contacts: Sequence[Contact]) -> None:
        """A whole round is over: with all who share places with this peer, as of these contacts when it began."""
        self._compared = [contact.id for contact in contacts if contact.kind != "stock"]

    def settled(self, place: Place) -> bool:
        """Was this peer an acceptor already when it last compared, and with a majority of those who are it now?"""
        if self._compared is None or not self._neighbourhood.keeps(place):
            return False
        nearer = sorted(self._compared, key=lambda node_id: distance(node_id, place))[: self._neighbourhood.k]
        if len(nearer) >= self._neighbourhood.k:
            if distance(self._neighbourhood.node_id, place) > distance(nearer[-1], place):
                return False
            nearer.pop()
        others = self._neighbourhood.nearest(place)
        known = sum(contact.id in nearer for contact in others)
        return known >= min(len(others), write_quorum(len(others) + 1))

    async def ensure(self, key: bytes, name: bytes, place: Place) -> None:
        """Read a register from the others where that is needed. Raises RemoteError where this peer has no vote."""
        if self.settled(place) or self._is_caught_up(place, name):
            return
        at = place, name
        reading = self._reading.get(at)
        if reading is None:
            if len(self._reading) >= CATCH_UPS_AT_ONCE_MAX:
                raise RemoteError("busy", "too many registers are being read from others")
            reading = self._reading[at] = asyncio.create_task(self._catch_up(key, name, place))
            reading.add_done_callback(lambda _: self._reading.pop(at, None))
        done, _ = await asyncio.wait({reading}, timeout=CATCH_UP_S_MAX)
        if not done or reading.cancelled():
            raise RemoteError("busy", "too few of the other replicas could say yet what was decided")
        fault = reading.result()
        if fault is not None:
            raise fault

    async def close(self) -> None:
        """End what is being read."""
        tasks = list(self._reading.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _catch_up(self, key: bytes, name: bytes, place: Place) -> RemoteError | None:
        """Read one register; what was in the way. It goes on behind whoever waits, so that the next finds it done."""
        view = self._neighbourhood.view(place)[0]  # before the reading: a change meanwhile makes it count no more
        try:
            async with asyncio.timeout(2 * RPC_DEADLINE_S):
                await self._read(key, name, place)
        except RemoteError as error:
            return error
        except (TimeoutError, P2pkvError, StoreFailedError) as error:
            return RemoteError("busy", str(error) or "too few of the other replicas could say what was decided")
        self._caught[place, name] = view, asyncio.get_running_loop().time() + CAUGHT_UP_S
        self._caught.move_to_end((place, name))
        if len(self._caught) > CAUGHT_UP_KEPT_MAX:
            self._caught.popitem(last=False)
        return None

    def _is_caught_up(self, place: Place, name: bytes) -> bool:
        view, until_s = self._caught.get((place, name), (b"", 0.0))
        return asyncio.get_running_loop().time() < until_s and view == self._neighbourhood.view(place)[0]

    # --- reading ---

    async def _read(self, key: bytes, name: bytes, place: Place) -> None:
        others, majority = await self._acceptors(place)
        self.read_from_others += 1
        request = messages.ReadRegister(key, name)
        waiting = {
            asyncio.create_task(self._protocol.call(contact, messages.READ_REGISTER, request)) for contact in others
        }
        answered = settled = 0
        try:
            while settled < majority and waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    reply = await self._taken(task, key, name)
                    answered += reply is not None
                    settled += reply is not None and reply.settled
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        if settled < majority and not (answered == len(others) and answered + 1 >= majority):
            raise RemoteError("busy", f"{answered} of {len(others)} other replicas could say what was decided")

    async def _acceptors(self, place: Place) -> tuple[list[Contact], int]:
        """The other acceptors as they live now, and the majority. Raises RemoteError where this peer is none."""
        await self._lookups.ready()
        found = await self._lookups.find_nodes(place)
        self._lookups.require_swarm()
        k = self._neighbourhood.k
        contacts = [contact for contact in found.contacts if contact.kind != "stock"]
        own = distance(self._neighbourhood.node_id, place)
        if not self._neighbourhood.stores or sum(distance(contact.id, place) < own for contact in contacts) >= k:
            raise RemoteError("refused", "nearer peers vote on this record")
        return contacts[: k - 1], write_quorum(min(k, found.replicas + 1))

    async def _taken(
        self, task: asyncio.Task[messages.ReadRegisterReply], key: bytes, name: bytes
    ) -> messages.ReadRegisterReply | None:
        """An answer whose register is merged, durably; None for none."""
        try:
            reply = task.result()
            if reply.register is not None:
                if (reply.register.key, reply.register.name) != (key, name):
                    raise RemoteError("misbehaved", "a register that was not asked for")
                await self._registers.merge(reply.register)
        except RemoteError:
            return None
        return reply
