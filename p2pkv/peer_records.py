"""What users do with records: the half of `Peer` between their words and the swarm's drafts and versions.

Owns no state; the peer has it. `Client` has the same methods with the same results.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import aclosing
from itertools import groupby

import msgspec

from p2pkv.core.drafts import Change, Draft
from p2pkv.core.records import Flag, version_token
from p2pkv.errors import IncompleteError, InvalidError, NotFoundError
from p2pkv.files.concurrency import each_job, run_jobs
from p2pkv.limits import ATOMIC_KEYS_AT_ONCE_MAX
from p2pkv.outcomes import Acks, BatchChange, BatchOutcome, BatchRecord, Order, PutOutcome, Record
from p2pkv.peer_events import Events, shown
from p2pkv.read_ahead import ReadAhead
from p2pkv.swarm.atomic_writing import untouched
from p2pkv.swarm.environment import Environment
from p2pkv.swarm.node import SwarmNode
from p2pkv.translation import (
    INTERNAL_KEYS,
    Key,
    Translator,
    check_batch,
    checked_key,
    checked_name,
    checked_period,
    each,
    reached,
)
from p2pkv.units import Value


class PeerRecords:
    """The operations on records."""

    env: Environment
    node: SwarmNode
    _translator: Translator
    _events: Events

    async def put(
        self,
        key: Key,
        value: Value,
        *,
        name: str | None = None,
        once: bool = False,
        own: bool = False,
        if_version: str | None = None,
        ttl_s: float | None = None,
        acks: Acks = "quorum",
    ) -> PutOutcome:
        """Add a record, or replace the one of that name. A long value may come in pieces.

        Raises RefusedError (write-once, another's record, another version), IncompleteError where fewer replicas than
        `acks` asks have it durably; the error's `outcome` says which failed and why.
        """
        key_bytes = checked_key(key)
        if (once or if_version) and not name:
            raise InvalidError("write-once and compare-and-set need the record's name", "give a name")
        flags = (Flag.ONCE if once else 0) | (Flag.OWN if own else 0)
        draft = await self._translator.draft(value, self._name(name), flags=flags, ttl_s=ttl_s, acks=acks)
        outcome = await self.node.records.put(key_bytes, draft, acks=acks, if_version=if_version)
        self._events.put(key_bytes, outcome)
        return reached(outcome, f"record {outcome.name}")

    async def put_many(
        self,
        key: Key,
        values: Iterable[bytes] | AsyncIterable[bytes],
        *,
        own: bool = False,
        ttl_s: float | None = None,
        acks: Acks = "quorum",
    ) -> AsyncIterator[PutOutcome]:
        """Add a record a value, many to a message. Yields every outcome in order, short ones too: look at `reached`."""
        key_bytes = checked_key(key)
        flags = Flag.OWN if own else 0

        async with ReadAhead(each(values)) as ahead:
            drafts = self._drafts(ahead, flags, ttl_s, acks)
            written = self.node.records.put_many(key_bytes, drafts, acks=acks, coming=ahead.coming)
            async with aclosing(written) as outcomes:
                async for outcome in outcomes:
                    self._events.put(key_bytes, outcome)
                    yield outcome

    async def _drafts(
        self, values: AsyncIterable[bytes], flags: int, ttl_s: float | None, acks: Acks
    ) -> AsyncIterator[Draft]:
        """A draft a value, each with a name of its own."""
        async for value in values:
            yield await self._translator.draft(value, self._name(None), flags=flags, ttl_s=ttl_s, acks=acks)

    async def put_batch(self, changes: Iterable[BatchChange], *, acks: Acks = "quorum") -> BatchOutcome:
        """Put and delete records of any keys, so that all of it becomes visible together, or nothing.

        When it returns, every get sees all of it. Raises RefusedError and IncompleteError where nothing of it is
        visible, or ever will be; one IncompleteError says that it is unknown whether all of it is, or nothing.
        """
        if acks == "1":
            raise InvalidError("an atomic batch needs a majority of the replicas", "give acks quorum or all")
        wanted = list(changes)
        keys = [checked_key(change.key) for change in wanted]
        check_batch(keys, wanted)
        jobs = each_job(lambda change: self._batch_draft(change, acks), wanted)
        try:
            async with aclosing(run_jobs(jobs, limit=ATOMIC_KEYS_AT_ONCE_MAX, ordered=True)) as made:
                drafts = [draft async for draft in made]
        except IncompleteError as error:
            raise untouched(error) from error
        drafted = [Change(key, draft) for key, draft in zip(keys, drafts, strict=True)]
        batch, outcomes = await self.node.records.put_batch(drafted, acks=acks)
        records = [
            BatchRecord(key, min(parts, key=lambda part: part.stored), change.delete)
            for key, change, parts in zip(keys, wanted, outcomes, strict=True)
        ]
        self._tell_batch(records)
        return BatchOutcome(batch.hex(), records)

    async def _batch_draft(self, change: BatchChange, acks: Acks) -> Draft:
        if change.delete:
            assert change.name is not None, "checked before"
            return Draft(checked_name(change.name), int(Flag.TOMBSTONE))
        flags = Flag.OWN if change.own else 0
        return await self._translator.draft(
            change.value, self._name(change.name), flags=flags, ttl_s=change.ttl_s, acks=acks
        )

    def _tell_batch(self, records: list[BatchRecord]) -> None:
        for record in records:
            if record.deleted:
                self._events.emit("delete", key=shown(record.key), name=record.outcome.name, count=1)
            else:
                self._events.put(record.key, record.outcome)

    async def get(
        self,
        key: Key,
        *,
        name: str | None = None,
        prefix: str = "",
        limit: int | None = None,
        after: str | None = None,
        reverse: bool = False,
        order: Order = "time",
        since_s: float | None = None,
        until_s: float | None = None,
    ) -> AsyncIterator[Record]:
        """The records of a key, oldest first, streamed; nothing where it has none.

        `since_s` and `until_s`: only those put from then on, and before then, in seconds since the epoch.

        Ends normally only where nothing can be missing. Raises IncompleteError where too few replicas answer, after
        yielding what is certain.
        """
        key_bytes = checked_key(key)
        if name is not None:
            for version in await self.node.records.read_name(key_bytes, checked_name(name)):
                yield await self._translator.record(version)
            return
        period = checked_period(since_s, until_s, order)
        versions = self.node.records.read(
            key_bytes, order=order, prefix=prefix.encode(), after=after, limit=limit, reverse=reverse, period=period
        )
        async for version in versions:
            yield await self._translator.record(version)

    async def stream(self, key: Key, record: Record) -> AsyncIterator[bytes]:
        """The value of a record in pieces, however long. Raises NotFoundError where it was replaced meanwhile."""
        if record.value is not None:
            yield record.value
            return
        for version in await self.node.records.read_name(checked_key(key), record.name.encode()):
            if version_token(version) == record.version:
                async for piece in self._translator.pieces(version):
                    yield piece
                return
        raise NotFoundError(f"record {record.name} was replaced while it was read", "read it again")

    async def count(self, key: Key, *, prefix: str = "") -> int:
        """How many records a key has, without fetching them. Raises IncompleteError."""
        return await self.node.records.count(checked_key(key), prefix=prefix.encode())

    async def delete(self, key: Key, *, name: str | None = None, acks: Acks = "quorum") -> int:
        """Delete a key's records, or those of one name; how many. Raises RefusedError, IncompleteError."""
        key_bytes = checked_key(key)
        if name is not None:
            outcomes = await self.node.records.delete(key_bytes, checked_name(name), acks=acks)
        else:
            outcomes = [outcome async for outcome in self.node.records.delete_all(key_bytes, acks=acks)]
        self._events.emit("delete", key=shown(key_bytes), name=name, count=len(outcomes))
        for outcome in outcomes:
            reached(outcome, f"the deletion of {outcome.name}")
        return len(outcomes)

    async def keys(self, prefix: Key = b"") -> AsyncIterator[tuple[bytes, int]]:
        """The keys whose pages this peer holds, with their numbers of records; folders are left out."""
        wanted = prefix.encode(errors="surrogateescape") if isinstance(prefix, str) else prefix
        after = b""
        while pages := await self.node.store.keys(wanted, after):
            for key, its_pages in groupby(pages, key=lambda page: page.key):
                live = sum(page.live for page in its_pages)
                if live and not key.startswith(INTERNAL_KEYS):
                    yield key, live
            after = pages[-1].key

    async def watch(self, key: Key, *, after: str | None = None) -> AsyncIterator[Record]:
        """Records of a key from now on (or behind a cursor), as they arrive, each once, until the caller leaves.

        A record's `cursor` says what was told up to and with it, so that a watch that resumes there, at this peer or
        another, misses and doubles nothing. Where a record is replaced faster than its versions can be told, the last
        one is told. Peers may come and go; raises IncompleteError where the key cannot be read for a minute.
        """
        key_bytes = checked_key(key)
        async with aclosing(self.node.watching.watch(key_bytes, after)) as arrivals:
            async for version, cursor in arrivals:
                record = await self._translator.record(version)
                yield msgspec.structs.replace(record, cursor=cursor)

    def _name(self, name: str | None) -> bytes:
        return checked_name(name) if name is not None else self.node.records.unique_name()
