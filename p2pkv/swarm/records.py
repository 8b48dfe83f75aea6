"""Records in the swarm: one face for writing, agreement and reading (the `Records` port of `files/`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from itertools import islice

from p2pkv.core.drafts import Change, Draft
from p2pkv.core.records import ALWAYS, Flag, Period, Version, decode_cursor, version_token
from p2pkv.errors import P2pkvError, RefusedError
from p2pkv.limits import ATOMIC_KEYS_AT_ONCE_MAX
from p2pkv.outcomes import Acks, Order, PutOutcome
from p2pkv.swarm.agreement import Agreement
from p2pkv.swarm.atomic_writing import AtomicWriter, all_of, untouched
from p2pkv.swarm.reading import Reader
from p2pkv.swarm.writing import Writer

_MEND_ONCE = "it stays as it is for ever; delete other records one by one, by their names"


class RecordSwarm:
    """This peer's records, as `Peer` and `files/` use them."""

    def __init__(
        self, writer: Writer, reader: Reader, agreement: Agreement, atomic: AtomicWriter, author: bytes
    ) -> None:
        self.reader = reader
        self.atomic = atomic
        self._writer = writer
        self._agreement = agreement
        self._author = author

    async def put(
        self, key: bytes, draft: Draft, *, acks: Acks = "quorum", if_version: str | None = None
    ) -> PutOutcome:
        """Put one record. Write-once and compare-and-set are agreed on, everything else merges."""
        if draft.flags & Flag.ONCE or if_version is not None:
            return await self._agreement.put(key, draft, if_version=if_version, acks=acks)
        outcome = await self._writer.put(key, draft, acks=acks)
        if draft.flags & Flag.OWN:
            await self._bury_shared(key, draft.name, acks)
        return outcome

    async def put_batch(
        self, changes: Sequence[Change], *, acks: Acks = "quorum"
    ) -> tuple[bytes, list[list[PutOutcome]]]:
        """Put and delete records of any keys, so that all become visible together; the batch's id, and the outcomes of
        each change (several owners' records may be deleted by one).

        Raises RefusedError and IncompleteError where nothing of it was stored; see `AtomicWriter.put`.
        """
        slots = asyncio.Semaphore(ATOMIC_KEYS_AT_ONCE_MAX)

        async def expand(change: Change) -> list[Change]:
            async with slots:
                return await self._expanded(change)

        try:
            expanded = await all_of(map(expand, changes))
        except P2pkvError as error:
            raise untouched(error) from error
        batch, outcomes = await self.atomic.put([change for part in expanded for change in part], acks)
        rest = iter(outcomes)
        return batch, [list(islice(rest, len(part))) for part in expanded]

    async def _expanded(self, change: Change) -> list[Change]:
        """All versions that a change comes to: a deletion is of every owner's record that this author may delete, and
        an own record takes the place of a shared one."""
        draft = change.draft
        if not draft.flags & (Flag.TOMBSTONE | Flag.OWN):
            return [change]
        held = await self.read_name(change.key, draft.name)
        if draft.flags & Flag.TOMBSTONE:
            for version in held:
                self._check_deletable(version)
            return [Change(change.key, _tombstone(version)) for version in held] or [change]
        return [change, *(Change(change.key, _tombstone(version)) for version in held if not version.owner)]

    def unique_name(self) -> bytes:
        return self._writer.unique_name()

    def put_many(
        self,
        key: bytes,
        drafts: AsyncIterable[Draft],
        *,
        acks: Acks = "quorum",
        coming: Callable[[], int] = lambda: 0,
    ) -> AsyncGenerator[PutOutcome]:
        return self._writer.put_many(key, drafts, acks=acks, coming=coming)

    def read(
        self,
        key: bytes,
        *,
        order: Order = "time",
        prefix: bytes = b"",
        after: str | None = None,
        limit: int | None = None,
        reverse: bool = False,
        period: Period = ALWAYS,
    ) -> AsyncIterator[Version]:
        """Live versions in order. Raises IncompleteError where some may be missing."""
        cursor = decode_cursor(after) if after else None
        return self.reader.read(
            key, order=order, prefix=prefix, after=cursor, limit=limit, reverse=reverse, period=period
        )

    async def read_name(self, key: bytes, name: bytes) -> list[Version]:
        return await self.reader.read_name(key, name)

    async def count(self, key: bytes, *, prefix: bytes = b"") -> int:
        return await self.reader.count(key, prefix=prefix)

    async def exists(self, key: bytes, *, prefix: bytes = b"") -> bool:
        return await self.reader.exists(key, prefix=prefix)

    async def delete(self, key: bytes, name: bytes, *, acks: Acks = "quorum") -> list[PutOutcome]:
        """Delete every owner's record under a name that this author may delete. Raises RefusedError for others."""
        return [await self._bury(key, held, acks) for held in await self.read_name(key, name)]

    async def delete_all(self, key: bytes, *, acks: Acks = "quorum") -> AsyncIterator[PutOutcome]:
        """Delete all records of a key, in batches; outcomes as they come.

        Raises RefusedError at the end where some cannot be deleted: all the others are.
        """
        deleted = kept = 0
        refused: list[RefusedError] = []  # some of them

        async def tombstones() -> AsyncIterator[Draft]:
            nonlocal deleted, kept, refused
            async for version in self.read(key):
                try:
                    self._check_deletable(version)
                except RefusedError as error:
                    refused = [*refused[:2], error]
                    kept += 1
                    continue
                deleted += 1
                yield _tombstone(version)

        async for outcome in self.put_many(key, tombstones(), acks=acks):
            yield outcome
        if refused:
            told = "; ".join(map(str, refused))
            raise RefusedError(f"{deleted} records were deleted, {kept} stay: {told}", refused[0].mend)

    async def _bury_shared(self, key: bytes, name: bytes, acks: Acks) -> None:
        """An own record takes the place of a shared one of the same name."""
        for held in await self.read_name(key, name):
            if not held.owner:
                await self._writer.put(key, _tombstone(held), acks=acks)

    async def _bury(self, key: bytes, held: Version, acks: Acks) -> PutOutcome:
        self._check_deletable(held)
        return await self._writer.put(key, _tombstone(held), acks=acks)

    def _check_deletable(self, held: Version) -> None:
        token = version_token(held)
        if held.flags & Flag.ONCE:
            raise RefusedError(f"record {held.name.decode(errors='replace')} is write-once", _MEND_ONCE, current=token)
        if held.owner and held.author != self._author:
            message = f"record {held.name.decode(errors='replace')} belongs to author {held.author.hex()[:16]}"
            raise RefusedError(message, "its author alone can delete it", current=token)


def _tombstone(held: Version) -> Draft:
    """What deletes a version. A stock peer's value is buried as a stock value: unsigned, with the empty name."""
    kept = held.flags & (Flag.OWN | Flag.STOCK)
    return Draft(name=held.name, flags=int(Flag.TOMBSTONE | kept))
