"""Puts an atomic batch: all of its records become visible together, or none of them ever does.

Theory of operation. Everything is signed and stored pending, at as many replicas as `acks` asks, at least a majority.
Only then the batch is decided to be committed: that moment every reader sees all of it. What follows, storing the
plain versions in the place of the pending ones, is a matter of speed: readers and replicas do it, too. Where a version
cannot be stored, nothing was visible and nothing will be, because nobody else decides for a commit; the batch is
decided to be aborted, so that its replicas drop what waits. A writer that ends half way leaves what waits to them.

Owns the order of these steps. What a batch may hold is for `records.py` and `peer_records.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from p2pkv.core.atomic import Verdict, pending, plain
from p2pkv.core.drafts import Change
from p2pkv.core.records import BATCH_ID_BYTES, Flag, Version, version_token
from p2pkv.errors import IncompleteError, P2pkvError, RefusedError, UnreachableError
from p2pkv.limits import ATOMIC_KEYS_AT_ONCE_MAX, CLOCK_RETRIES_MAX
from p2pkv.outcomes import Acks, PutOutcome
from p2pkv.swarm.decisions import Decisions
from p2pkv.swarm.environment import Environment
from p2pkv.swarm.tallies import Tally
from p2pkv.swarm.writing import Writer

_MEND_SHORT = "see `p2pkv peers` and `p2pkv doctor`, then put the whole batch again"
FAULTS_TOLD_MAX = 8
T = TypeVar("T")


class AtomicWriter:
    """This peer's atomic batches."""

    def __init__(self, writer: Writer, decisions: Decisions, env: Environment) -> None:
        self._writer = writer
        self._decisions = decisions
        self._env = env
        self._slots = asyncio.Semaphore(ATOMIC_KEYS_AT_ONCE_MAX)

    async def put(self, changes: Sequence[Change], acks: Acks) -> tuple[bytes, list[PutOutcome]]:
        """Put all of the changes; the batch's id and an outcome a change, each of which reached its acks.

        Raises RefusedError and IncompleteError where nothing of it is visible, or ever will be; IncompleteError that
        says "unknown" where all of it may be, or nothing.
        """
        batch = self._env.random_bytes(BATCH_ID_BYTES)
        shares: dict[bytes, list[int]] = {}
        for index, change in enumerate(changes):
            shares.setdefault(change.key, []).append(index)
        tallies = await self._prepare(batch, changes, shares, acks)
        await self._commit(batch)
        await self._apply(shares, tallies)
        return batch, [_outcome(tally) for tally in tallies]

    # --- what waits ---

    async def _prepare(
        self, batch: bytes, changes: Sequence[Change], shares: dict[bytes, list[int]], acks: Acks
    ) -> list[Tally]:
        """Store everything pending. Raises what keeps the batch from being committed, and aborts it then."""
        stores = (self._store(batch, key, [changes[i] for i in indexes], acks) for key, indexes in shares.items())
        try:
            tallies = _in_order(shares.values(), await all_of(stores))
            _raise_faults(changes, tallies)
        except P2pkvError as error:
            await self._abort(batch)
            raise untouched(error) from error
        return tallies

    async def _store(self, batch: bytes, key: bytes, changes: Sequence[Change], acks: Acks) -> list[Tally]:
        """One key's share. What lost to a clock ahead of ours is tried again behind it."""
        tallies: list[Tally] = [None] * len(changes)  # type: ignore[list-item]  # each is set below
        left = list(range(len(changes)))
        async with self._slots:
            for _ in range(CLOCK_RETRIES_MAX):
                signed = self._writer.sign_many(key, [changes[index].draft for index in left])
                stored = await self._writer.store_batch(key, [pending(version, batch) for version in signed], acks)
                for index, tally in zip(left, stored, strict=True):
                    tallies[index] = tally
                left = [index for index in left if tallies[index].overtaken]
                for index in left:
                    self._writer.observe(tallies[index].newest_clock)
                if not left:
                    break
        return tallies

    async def _abort(self, batch: bytes) -> None:
        """Have the replicas drop what waits soon; where this fails they do it later."""
        with suppress(P2pkvError):
            await self._decisions.decide(batch, Verdict.ABORTED)

    # --- what is decided ---

    async def _commit(self, batch: bytes) -> None:
        try:
            verdict = await self._decisions.decide(batch, Verdict.COMMITTED)
        except (IncompleteError, UnreachableError) as error:
            raise IncompleteError(
                f"it is unknown whether the batch was committed: either all of it is visible, or nothing ({error})",
                "get one of its records: where it is there, so are the others; putting the batch again is harmless",
            ) from error
        if verdict is not Verdict.COMMITTED:
            raise RefusedError(
                "the batch took too long and was given up by the replicas: nothing of it was stored",
                "put it again, in smaller parts where it is large",
            )

    async def _apply(self, shares: dict[bytes, list[int]], tallies: Sequence[Tally]) -> None:
        """Store the plain versions. It is committed: whatever fails here is done by whoever meets it."""

        async def store(key: bytes, versions: list[Version]) -> None:
            async with self._slots:
                with suppress(P2pkvError):
                    await self._writer.store_batch(key, versions, "quorum")

        plainly = {key: [plain(tallies[index].version) for index in indexes] for key, indexes in shares.items()}
        await all_of(store(key, versions) for key, versions in plainly.items())


async def all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Everything that came, once all of it has ended. Raises the first error then: nothing goes on behind it."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


def _in_order(shares: Iterable[list[int]], stored: Iterable[list[Tally]]) -> list[Tally]:
    tallies = dict(zip((i for share in shares for i in share), (t for share in stored for t in share), strict=True))
    return [tallies[index] for index in range(len(tallies))]


def _raise_faults(changes: Sequence[Change], tallies: Sequence[Tally]) -> None:
    """Raise RefusedError or IncompleteError where a version did not reach its acks."""
    short = [(change, tally) for change, tally in zip(changes, tallies, strict=True) if not tally.reached]
    if not short:
        return
    told = "; ".join(f"{_called(change)}: {_why(tally)}" for change, tally in short[:FAULTS_TOLD_MAX])
    more = f"; and {len(short) - FAULTS_TOLD_MAX} more" if len(short) > FAULTS_TOLD_MAX else ""
    message = f"{len(short)} of {len(changes)} records could not be stored: {told}{more}"
    refused = [tally for _, tally in short if tally.refusals or _stands_for_ever(tally)]
    if refused:
        newer = refused[0].newer
        raise RefusedError(message, "leave these out, or mend them", current=version_token(newer) if newer else "")
    raise IncompleteError(message, _MEND_SHORT, outcome=_outcome(short[0][1]))


def _called(change: Change) -> str:
    return f"{change.key.decode(errors='backslashreplace')}/{change.draft.name.decode(errors='replace')}"


def _why(tally: Tally) -> str:
    if _stands_for_ever(tally):
        return "the record is write-once"
    if tally.refusals:
        return tally.refusals[0]
    reasons = "; ".join(f"{failure.address}: {failure.reason}" for failure in tally.failures[:2])
    short = f"on {tally.stored} of {tally.asked} replicas, {tally.needed} are needed"
    return f"{short} ({reasons})" if reasons else short


def _stands_for_ever(tally: Tally) -> bool:
    return tally.newer is not None and bool(tally.newer.flags & Flag.ONCE)


def untouched(error: P2pkvError) -> P2pkvError:
    """The same error, saying that nothing came of the batch."""
    error.args = (f"nothing of the batch was stored: {error}",)
    return error


def _outcome(tally: Tally) -> PutOutcome:
    """As of the plain version, which users meet."""
    return msgspec.structs.replace(tally.outcome(), version=version_token(plain(tally.version)))
