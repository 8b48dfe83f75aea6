"""What clients did to one key of many records, and what they were told, for `many_checker` to judge.

Owns the recording of calls on whole peers. It says nothing of right and wrong.
"""

from __future__ import annotations

import random
from asyncio import gather, sleep
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from p2pkv.errors import P2pkvError
from p2pkv.outcomes import Order, PutOutcome, Record
from p2pkv.testing import SimPeer, SimSwarm

KEY = "many"
EVERYTHING = ""  # the name of a deletion of the whole key
NEVER = float("inf")


@dataclass
class Write:
    """A put of one record, or a deletion. Where it is not `done` it may have happened, or happen later."""

    name: str  # "" of a put: nobody told it
    value: bytes  # unique within the history; empty: a deletion
    began_s: float
    ended_s: float = NEVER
    done: bool = False
    version: str = ""


@dataclass
class Seen:
    """One record of an answer."""

    name: str
    value: bytes
    version: str


@dataclass
class Answer:
    """What a read or a count told. A read that is not `complete` claims to be right as far as it went."""

    began_s: float
    ended_s: float = NEVER
    complete: bool = False
    order: Order = "time"
    reverse: bool = False
    prefix: str = ""
    name: str = ""  # of a read by name
    limit: int = 0  # 0: none
    seen: list[Seen] = field(default_factory=list)
    counted: int = -1  # of a count

    def wants(self, name: str) -> bool:
        return name == self.name if self.name else name.startswith(self.prefix)


@dataclass
class History:
    """All calls on the key."""

    writes: list[Write] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    cuts_s: list[float] = field(default_factory=list)  # when the network parted

    def but_at_cuts(self, seconds: float) -> History:
        """Without answers so soon behind a cut, when a peer does not know yet that it is cut off; and with no certainty
        of what was written then: a majority of a page's replicas, all on the smaller side, may have acknowledged it."""

        def near(began_s: float, ended_s: float, before_s: float, behind_s: float) -> bool:
            return any(cut_s - before_s <= ended_s and began_s <= cut_s + behind_s for cut_s in self.cuts_s)

        answers = [answer for answer in self.answers if not near(answer.began_s, answer.ended_s, 0, seconds)]
        writes = [
            replace(write, done=False, ended_s=NEVER) if near(write.began_s, write.ended_s, 1, seconds) else write
            for write in self.writes
        ]
        return History(writes, answers, self.cuts_s)


class Recorder:
    """One client: it does one call after the other, at whatever peer of its own is up."""

    def __init__(self, swarm: SimSwarm, history: History, client: int, rng: random.Random) -> None:
        self._swarm = swarm
        self._history = history
        self._client = client
        self._number = 0
        self.rng = rng

    @property
    def _peer(self) -> SimPeer:
        up = self._swarm.up
        return self._swarm.peers[up[self._client % len(up)]]

    def _write(self, name: str = "", *, deletion: bool = False) -> Write:
        self._number += 1
        value = b"" if deletion else f"{self._client}.{self._number}".encode()
        write = Write(name, value, self._swarm.now_s)
        self._history.writes.append(write)
        return write

    def _note(self, write: Write, outcome: PutOutcome | None = None) -> None:
        """It was acknowledged, or at least told what it is called."""
        if outcome is not None:
            write.name, write.version = outcome.name, outcome.version
        if outcome is None or outcome.reached:
            write.done, write.ended_s = True, self._swarm.now_s

    # --- writing ---

    async def put_many(self, count: int) -> None:
        writes = [self._write() for _ in range(count)]
        ahead = iter(writes)
        with suppress(P2pkvError):
            async for outcome in self._peer.put_many(KEY, [write.value for write in writes]):
                self._note(next(ahead), outcome)

    async def put(self, name: str | None = None) -> None:
        write = self._write(name or "")
        with suppress(P2pkvError):
            self._note(write, await self._peer.put(KEY, write.value, name=name))

    async def put_new(self) -> None:
        await self.put(f"new/{self._client}.{self._number}")

    async def delete(self, names: Iterable[str]) -> None:
        await gather(*(self._delete(name) for name in names))

    async def delete_all(self) -> None:
        await self._delete(EVERYTHING)

    async def _delete(self, name: str) -> None:
        write = self._write(name, deletion=True)
        with suppress(P2pkvError):
            await self._peer.delete(KEY, name=name or None)
            self._note(write)

    def known_names(self, count: int) -> list[str]:
        """Some names that were told."""
        names = sorted({write.name for write in self._history.writes if write.name and write.version})
        return self.rng.sample(names, min(count, len(names)))

    # --- reading ---

    def _answer(self, **options: Any) -> Answer:
        answer = Answer(self._swarm.now_s, **options)
        self._history.answers.append(answer)
        return answer

    async def read(self, **options: Any) -> None:
        """A read with the options of `get`."""
        answer = self._answer(**options)
        with suppress(P2pkvError):
            await _collect(answer, self._peer.get(KEY, **options))
            answer.complete = True
        answer.ended_s = self._swarm.now_s

    async def read_in_pages(self, size: int, pause_s: float, **options: Any) -> None:
        """A read in several calls, each behind the last one's cursor and maybe at another peer; judged as one."""
        answer = self._answer(**options)
        cursor: str | None = None
        with suppress(P2pkvError):
            while not answer.complete:
                before = len(answer.seen)
                cursor = await _collect(answer, self._peer.get(KEY, after=cursor, limit=size, **options)) or cursor
                answer.complete = len(answer.seen) - before < size
                await self.pause(pause_s)
        answer.ended_s = self._swarm.now_s

    async def count(self, prefix: str) -> None:
        answer = self._answer(prefix=prefix)
        with suppress(P2pkvError):
            answer.counted = await self._peer.count(KEY, prefix=prefix)
            answer.complete = True
        answer.ended_s = self._swarm.now_s

    async def pause(self, longest_s: float) -> None:
        await sleep(self.rng.uniform(0, longest_s))


async def _collect(answer: Answer, records: AsyncIterator[Record]) -> str | None:
    """Note what comes as it comes; the last cursor."""
    cursor: str | None = None
    async for record in records:
        answer.seen.append(Seen(record.name, record.value or b"", record.version))
        cursor = record.cursor
    return cursor
