"""Between what users say and what the swarm takes: keys, names, values and times to drafts, versions to records.

Owns no state but the chunks that long values go to and come from.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Sequence

from p2pkv.core.drafts import Draft
from p2pkv.core.records import ALWAYS, Flag, Period, Version, encode_cursor, version_token
from p2pkv.errors import IncompleteError, InvalidError
from p2pkv.files.concurrency import Offload, in_thread
from p2pkv.files.ports import Chunks
from p2pkv.files.values import load_value, reasons, store_value
from p2pkv.limits import (
    ATOMIC_BYTES_MAX,
    ATOMIC_RECORDS_MAX,
    INLINE_BYTES_MAX,
    KEY_BYTES_MAX,
    NAME_BYTES_MAX,
    VALUE_IN_MEMORY_BYTES_MAX,
)
from p2pkv.outcomes import Acks, BatchChange, FolderOutcome, Order, PutOutcome, Record, TransferOutcome
from p2pkv.swarm.replica import stock_bytes
from p2pkv.units import Value, checked_value

Key = bytes | str
INTERNAL_KEYS = b"\0p2pkv/"  # folders, and decisions of batches; users' keys do not begin so


class Translator:
    """Makes drafts of users' values and records of versions."""

    def __init__(self, chunks: Chunks, now_s: Callable[[], float], offload: Offload = in_thread) -> None:
        self._chunks = chunks
        self._now_s = now_s
        self._offload = offload

    async def draft(self, value: Value, name: bytes, *, flags: int, ttl_s: float | None, acks: Acks) -> Draft:
        """A long value goes to the swarm as chunks now. Raises InvalidError, IncompleteError."""
        value = checked_value(value)
        if ttl_s is not None and ttl_s <= 0:
            raise InvalidError("a time to live is greater than zero")
        if isinstance(value, bytes) and len(value) <= INLINE_BYTES_MAX:
            value_flags, size_bytes, body = 0, len(value), value
        else:
            value_flags, size_bytes, body = await store_value(value, self._chunks, acks=acks, offload=self._offload)
        return Draft(
            name=name,
            flags=int(flags | value_flags),
            expires_ms=int((self._now_s() + ttl_s) * 1000) if ttl_s else 0,
            size_bytes=size_bytes,
            body=body,
        )

    async def record(self, version: Version) -> Record:
        return Record(
            name=version.name.decode(errors="replace"),
            value=await self._value(version),
            size=version.size_bytes,
            author=version.author.hex(),
            time=version.time_s,
            version=version_token(version),
            cursor=encode_cursor(version),
            expires=version.expires_ms / 1000 if version.expires_ms else None,
            own=bool(version.flags & Flag.OWN),
            once=bool(version.flags & Flag.ONCE),
        )

    async def _value(self, version: Version) -> bytes | None:
        if version.flags & Flag.STOCK:
            return stock_bytes(version)
        if not version.flags & Flag.CHUNKED:
            return version.body
        if version.size_bytes > VALUE_IN_MEMORY_BYTES_MAX:
            return None
        return b"".join([piece async for piece in self.pieces(version)])

    def pieces(self, version: Version) -> AsyncIterator[bytes]:
        """A long value as it comes, however long."""
        return load_value(version, self._chunks, offload=self._offload)


def checked_key(key: Key) -> bytes:
    """A user's key as bytes. Raises InvalidError."""
    key_bytes = key.encode(errors="surrogateescape") if isinstance(key, str) else key
    if not key_bytes:
        raise InvalidError("the key is empty", f"a key has 1 to {KEY_BYTES_MAX} bytes")
    if len(key_bytes) > KEY_BYTES_MAX:
        raise InvalidError(f"the key has {len(key_bytes)} bytes", f"a key has at most {KEY_BYTES_MAX}")
    if key_bytes.startswith(INTERNAL_KEYS):
        raise InvalidError("keys that begin with \\0p2pkv/ are p2pkv's own", "use the commands for files")
    return key_bytes


def checked_period(since_s: float | None, until_s: float | None, order: Order) -> Period:
    """A span of time that a user asks for. Raises InvalidError."""
    if since_s is None and until_s is None:
        return ALWAYS
    if order != "time":
        raise InvalidError("a span of time goes with the order of time", "leave order=name out")
    return Period(since_s, until_s)


def checked_name(name: str) -> bytes:
    """A user's record name as bytes. Raises InvalidError."""
    try:
        name_bytes = name.encode()
    except UnicodeEncodeError as error:
        raise InvalidError("the record's name is not valid text", "names are UTF-8") from error
    if not 0 < len(name_bytes) <= NAME_BYTES_MAX:
        raise InvalidError(f"the record's name has {len(name_bytes)} bytes", f"a name has 1 to {NAME_BYTES_MAX}")
    return name_bytes


def check_batch(keys: Sequence[bytes], changes: Sequence[BatchChange]) -> None:
    """Raise InvalidError where changes of these keys cannot be one atomic batch."""
    if not 0 < len(changes) <= ATOMIC_RECORDS_MAX:
        raise InvalidError(f"a batch of {len(changes)} records", f"an atomic batch has 1 to {ATOMIC_RECORDS_MAX}")
    if sum(len(change.value) for change in changes) > ATOMIC_BYTES_MAX:
        raise InvalidError("the values of the batch are too long", f"they have at most {ATOMIC_BYTES_MAX} bytes in all")
    seen: set[tuple[bytes, str]] = set()
    for key, change in zip(keys, changes, strict=True):
        if change.delete and (change.name is None or change.value or change.ttl_s or change.own):
            raise InvalidError("a deletion in a batch has a key and a name, and nothing else", "give just these")
        if change.name is None:
            continue
        checked_name(change.name)
        if (key, change.name) in seen:
            raise InvalidError(f"record {change.name} is twice in the batch", "say once what is to become of it")
        seen.add((key, change.name))


def reached(outcome: PutOutcome, what: str) -> PutOutcome:
    """The outcome, where enough replicas acknowledged. Raises IncompleteError, which carries it."""
    if outcome.reached:
        return outcome
    raise IncompleteError(
        f"{what} is durable on {outcome.stored} of {outcome.asked} replicas, {outcome.needed} are needed"
        + reasons(outcome.failures),
        "put it again: a repeated put is harmless",
        outcome=outcome,
    )


def as_transfer(outcome: FolderOutcome, done: str) -> TransferOutcome:
    """A folder's outcome as one of a transfer. Raises IncompleteError where a part of it failed."""
    if outcome.failed:
        told = "; ".join(f"{failure.name}: {failure.reason}" for failure in outcome.failures[:3])
        more = f"; and {outcome.failed - 3} more" if outcome.failed > 3 else ""
        total = outcome.failed + outcome.files + outcome.links + outcome.folders
        raise IncompleteError(
            f"{outcome.failed} of {total} entries of {outcome.name} were not {done}: {told}{more}",
            "mend these and run it again: what is done stays done",
        )
    return TransferOutcome(
        name=outcome.name,
        link=outcome.link,
        size=outcome.size,
        hash="",
        chunks=0,
        chunks_sent=0,
        replicas=outcome.replicas,
        seconds=outcome.seconds,
        files=outcome.files,
        folders=outcome.folders,
        links=outcome.links,
        erasure=outcome.erasure,
        loss_per_year=outcome.loss_per_year,
    )


async def each(values: Iterable[bytes] | AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    if isinstance(values, AsyncIterable):
        async for value in values:
            yield value
    else:
        for value in values:
            yield value
