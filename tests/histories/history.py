"""What clients did and what they were told: every call with its times and outcome, for `checker` to judge.

Owns the recording of calls on whole peers. It says nothing of right and wrong.
"""

from __future__ import annotations

import random
from asyncio import sleep
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from p2pkv.errors import NotFoundError, P2pkvError, RefusedError
from p2pkv.outcomes import PutOutcome
from p2pkv.testing import SimPeer, SimSwarm

Told = Literal["done", "refused", "unknown"]
Op = Literal["add", "put", "once", "cas", "delete", "read", "list", "count"]
NEVER = float("inf")


@dataclass
class Call:
    """One operation of one client. `unknown`: it may have happened, or happen later."""

    client: int
    op: Op
    key: str
    name: str
    began_s: float
    value: bytes = b""  # what it writes; unique within the history
    expected: bytes = b""  # of a compare-and-set: the value that it replaces
    ended_s: float = NEVER
    told: Told = "unknown"
    version: str = ""  # of a write that is done
    seen: dict[str, tuple[bytes, str]] = field(default_factory=dict)  # of a read or list: name -> (value, version)
    counted: int = -1


@dataclass
class History:
    """All calls, in the order in which they began."""

    calls: list[Call] = field(default_factory=list)
    cuts_s: list[float] = field(default_factory=list)  # when the network parted

    def but_at_cuts(self, seconds: float) -> History:
        """Without what was answered so soon after a cut, when a peer does not know yet that it is cut off; and with no
        certainty of what was written at its very moment: replicas of the smaller side alone may have acknowledged it.
        """

        def near(call: Call, before_s: float, behind_s: float) -> bool:
            return any(cut_s - before_s <= call.ended_s and call.began_s <= cut_s + behind_s for cut_s in self.cuts_s)

        looks = ("read", "list", "count")
        judged = [call for call in self.calls if call.op not in looks or not near(call, 0, seconds)]
        return History(
            [
                replace(call, told="unknown", ended_s=NEVER) if call.op not in looks and near(call, 1, 1) else call
                for call in judged
            ]
        )

    def of(self, *ops: Op, key: str | None = None, name: str | None = None) -> list[Call]:
        """The calls of these kinds, on one key or record where it is named."""
        return [call for call in self.calls if call.op in ops and key in (None, call.key) and name in (None, call.name)]

    @property
    def done_share(self) -> float:
        """The part of the calls that were told to be done or refused."""
        return sum(call.told in ("done", "refused") for call in self.calls) / max(1, len(self.calls))


class Recorder:
    """One client: it does one call after the other, at whatever peer of its own is up."""

    def __init__(self, swarm: SimSwarm, history: History, client: int) -> None:
        self._swarm = swarm
        self._history = history
        self._client = client
        self._number = 0
        self._read: dict[tuple[str, str], tuple[bytes, str]] = {}  # what it knows of records, for compare-and-set
        self.rng = random.Random(f"client {client}")

    @property
    def peer(self) -> SimPeer:
        up = self._swarm.up
        return self._swarm.peers[up[self._client % len(up)]]

    def _value(self) -> bytes:
        self._number += 1
        return f"{self._client}.{self._number}".encode()

    async def _record(self, call: Call, work: Callable[[Call], Awaitable[None]]) -> Call:
        self._history.calls.append(call)
        try:
            await work(call)
            call.told = "done"
        except (RefusedError, NotFoundError):
            call.told = "refused"
        except P2pkvError:
            call.told = "unknown"
        # A write of unknown fate may take effect at any time.
        if call.told != "unknown" or call.op in ("read", "list", "count"):
            call.ended_s = self._swarm.now_s
        return call

    def _call(self, op: Op, key: str, name: str = "", value: bytes = b"", expected: bytes = b"") -> Call:
        return Call(self._client, op, key, name, self._swarm.now_s, value, expected)

    async def add(self, key: str) -> Call:
        """An unnamed record."""

        async def work(call: Call) -> None:
            outcome = await self.peer.put(key, call.value)
            call.name, call.version = outcome.name, outcome.version

        return await self._record(self._call("add", key, value=self._value()), work)

    async def put(self, key: str, name: str, *, once: bool = False) -> Call:
        async def work(call: Call) -> None:
            outcome: PutOutcome = await self.peer.put(key, call.value, name=name, once=once)
            call.version = outcome.version

        return await self._record(self._call("once" if once else "put", key, name, self._value()), work)

    async def compare_and_set(self, key: str, name: str) -> Call | None:
        """Replace what this client last read; None where it never read the record."""
        known = self._read.get((key, name))
        if known is None:
            return None
        value, token = known

        async def work(call: Call) -> None:
            outcome = await self.peer.put(key, call.value, name=name, if_version=token)
            call.version = outcome.version
            self._read[key, name] = call.value, outcome.version

        return await self._record(self._call("cas", key, name, self._value(), value), work)

    async def delete(self, key: str, name: str) -> Call:
        async def work(call: Call) -> None:
            await self.peer.delete(key, name=name)

        return await self._record(self._call("delete", key, name), work)

    async def read(self, key: str, name: str) -> Call:
        async def work(call: Call) -> None:
            async for record in self.peer.get(key, name=name):
                assert record.value is not None
                call.seen[record.name] = self._read[key, name] = record.value, record.version

        return await self._record(self._call("read", key, name), work)

    async def list(self, key: str) -> Call:
        async def work(call: Call) -> None:
            seen: dict[str, tuple[bytes, str]] = {}
            async for record in self.peer.get(key):
                assert record.value is not None
                assert record.name not in seen, "one record twice in one answer"
                seen[record.name] = record.value, record.version
            call.seen = seen

        return await self._record(self._call("list", key), work)

    async def count(self, key: str) -> Call:
        async def work(call: Call) -> None:
            call.counted = await self.peer.count(key)

        return await self._record(self._call("count", key), work)

    async def pause(self, longest_s: float) -> None:
        await sleep(self.rng.uniform(0, longest_s))
