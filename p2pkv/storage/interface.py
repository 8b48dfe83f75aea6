"""What a storage engine does, whatever lies under it. One conformance suite runs against every engine.

A store keeps pages of versions (at places of the id space), chunks (by their hash) and registers (the acceptor state of
consensus). It merges versions by `records.rank` and knows nothing of authors' rights, signatures, peers or replication.
Everything that it says is stored is durable: it survives SIGKILL and power loss.

All methods are coroutines; an engine may finish them without suspending. Times are seconds since the epoch and come
from the `now_s` argument or the clock given to the engine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from enum import Enum
from typing import Literal, NamedTuple, Protocol

import msgspec

from p2pkv.core.records import Cursor, Version
from p2pkv.ids import ChunkID, Place
from p2pkv.outcomes import Order

__all__ = [
    "Admit",
    "Cursor",
    "DamageReport",
    "DropVersion",
    "Held",
    "NoWatcher",
    "PageInfo",
    "PutRegister",
    "PutVersion",
    "QuotaExceededError",
    "RangeQuery",
    "RangeResult",
    "Register",
    "Result",
    "Store",
    "StoreFailedError",
    "Stretch",
    "Usage",
    "Watcher",
    "Write",
    "WriteOutcome",
]


Admit = Callable[[Version, Sequence[Version]], str]
"""Why a version may not be kept beside all that lies under its name (shared first); empty where it may.

Asked only where something lies there. Called by the store as part of the write, in a thread of the store's: it must
depend on nothing that changes.
"""


class PutVersion(msgspec.Struct, frozen=True, gc=False):
    """Merge a version into the page at a place. `key` is the page's key where the writer knows it, else empty.

    `admit` is asked first, unless this very version is there already. `encoded`: the version, where the caller has it
    encoded.
    """

    place: Place
    key: bytes
    version: Version
    admit: Admit | None = None
    encoded: bytes = b""


class PutRegister(msgspec.Struct, frozen=True):
    """Set the consensus register of a record name (opaque bytes); empty bytes forget it."""

    place: Place
    name: bytes
    state: bytes


class DropVersion(msgspec.Struct, frozen=True):
    """Forget a version for good (expired tombstone, handed over), only if it still is the one with this hash.

    The outcome is STORED where it was dropped, STALE where another stands, ALREADY where none does. A page whose last
    record is dropped ends.
    """

    place: Place
    name: bytes
    owner: bytes
    content_hash: bytes


Write = PutVersion | PutRegister | DropVersion


class Result(Enum):
    STORED = "stored"  # it is the current version now
    ALREADY = "already"  # this very version was there before
    STALE = "stale"  # a version of higher rank stands; that one is durable
    REFUSED = "refused"  # `admit` said no


class WriteOutcome(msgspec.Struct, frozen=True):
    result: Result
    current: Version | None = None  # with STALE: the version that stands
    replaced: Version | None = None  # with STORED: the version that stood there before
    detail: str = ""  # with REFUSED: what `admit` said


class RangeQuery(msgspec.Struct, frozen=True):
    """A part of a page. `after` is exclusive and follows the direction: with `reverse` it is the upper end."""

    place: Place
    order: Order = "time"
    after: Cursor | None = None
    until: Cursor | None = None  # inclusive far end, in the direction of reading
    reverse: bool = False
    prefix: bytes = b""
    limit: int = 1000
    bytes_max: int = 1 << 20  # stop before the encoded versions exceed this (at least one is returned)
    dead: bool = False  # return tombstones and expired versions too
    pending: bool = False  # return those that wait in batches, and no others


class RangeResult(msgspec.Struct, frozen=True):
    versions: list[Version]
    more: bool  # something of the range lies beyond the last version returned
    batches: list[bytes] = []  # of all pending versions of the page


class PageInfo(msgspec.Struct, frozen=True):
    place: Place
    key: bytes  # empty where only a stock peer's digest is known
    live: int  # records neither dead nor expired
    total: int
    size_bytes: int


class Usage(msgspec.Struct, frozen=True):
    keys: int  # pages
    records: int  # that are no tombstones; expired ones count until they are dropped
    chunks: int
    size_bytes: int  # encoded versions, registers and chunks, as the quota counts them


class DamageReport(msgspec.Struct, frozen=True):
    """What `verify` found: ids of chunks and names of records whose bytes do not match (already dropped)."""

    chunks_checked: int
    records_checked: int
    chunks_damaged: list[str]
    records_damaged: list[str]


class Held(NamedTuple):
    """A version and where it lies."""

    place: Place
    key: bytes
    version: Version


class Stretch(NamedTuple):
    """What was read of the pages between two places."""

    items: dict[bytes, Held]  # by `core.reconciliation.item_of`
    end: Place | None  # the last page read where others follow it before the upper bound


class Register(NamedTuple):
    """A register and where it lies."""

    place: Place
    name: bytes
    state: bytes


class Watcher(Protocol):
    """Told of what has become durable, in the order in which it did. It must be quick and must not raise."""

    def wrote(self, writes: Sequence[Write], outcomes: Sequence[WriteOutcome], created: Collection[Place]) -> None:
        """`created`: the pages of which nothing was there before."""
        ...

    def moved_chunks(self, chunk_ids: Iterable[ChunkID]) -> None:
        """These came or went."""
        ...

    def lost_records(self) -> None:
        """Some records were damaged and dropped; it is not known here which."""
        ...


class NoWatcher:
    """Nobody watches."""

    def wrote(self, writes: Sequence[Write], outcomes: Sequence[WriteOutcome], created: Collection[Place]) -> None:
        """Nothing to do."""

    def moved_chunks(self, chunk_ids: Iterable[ChunkID]) -> None:
        """Nothing to do."""

    def lost_records(self) -> None:
        """Nothing to do."""


class QuotaExceededError(Exception):
    """The write does not fit the quota or the disk; nothing of the batch was stored."""


class StoreFailedError(Exception):
    """The engine cannot write any more (I/O error); nothing of the batch is promised."""


class Store(ABC):
    """One peer's storage. Not thread-safe: called from the event loop alone."""

    kind: Literal["disk", "memory"]
    watcher: Watcher = NoWatcher()

    @abstractmethod
    async def open(self) -> None: ...

    @abstractmethod
    async def close(self) -> None:
        """Everything acknowledged is on disk before; idempotent."""

    # --- records ---
    @abstractmethod
    async def commit(self, writes: Sequence[Write]) -> list[WriteOutcome]:
        """Do all writes durably, in order, all or nothing; outcomes in the same order. Concurrent calls share fsyncs.

        Raises QuotaExceededError or StoreFailedError; then nothing of this batch was done.
        """

    @abstractmethod
    async def read(self, query: RangeQuery) -> RangeResult: ...

    @abstractmethod
    async def read_many(self, queries: Sequence[RangeQuery], records_max: int, bytes_max: int) -> list[RangeResult]:
        """The results of the first queries, at least of one: none begins once so many records or bytes were read."""

    @abstractmethod
    async def read_name(self, place: Place, name: bytes) -> list[Version]:
        """Every owner's version under a name, tombstones, expired and pending ones included, shared first."""

    @abstractmethod
    async def read_names(self, wanted: Sequence[tuple[Place, Sequence[bytes]]]) -> list[list[list[Version]]]:
        """The same of many names of some pages, in their order."""

    @abstractmethod
    async def read_register(self, place: Place, name: bytes) -> bytes | None: ...

    @abstractmethod
    async def registers(self, low: bytes, high: bytes | None, limit: int) -> list[Register]:
        """The registers from the place `low` up to, not with, `high`, in the order of their places; damaged ones are
        left out. All of one place come together, so `limit` may be passed by the last place's."""

    @abstractmethod
    async def page(self, place: Place) -> PageInfo | None: ...

    @abstractmethod
    async def pages(self, after: Place | None = None, limit: int = 1000) -> list[PageInfo]:
        """Pages in the order of their places, behind `after`."""

    @abstractmethod
    async def waiting(self, limit: int = 1000) -> list[PageInfo]:
        """Pages that hold pending versions. Cheap where there are none."""

    @abstractmethod
    async def stretch(self, low: bytes, high: bytes | None, pages_max: int) -> Stretch:
        """What lies in the first `pages_max` pages from `low` up to, not with, `high`, as items to compare.

        Left out: values of stock peers, and what split pages still hold beside their marker.
        """

    @abstractmethod
    async def keys(self, prefix: bytes = b"", after: bytes = b"", limit: int = 1000) -> list[PageInfo]:
        """Pages whose key is known and begins with `prefix`, in the order of their keys, behind the key `after`.

        All pages of one key come together, so `limit` may be passed by the last key's.
        """

    # --- chunks ---
    @abstractmethod
    async def put_chunk(self, chunk_id: ChunkID, data: bytes | memoryview) -> bool:
        """Keep a chunk durably; True where it was new. The caller has checked the hash."""

    @abstractmethod
    async def get_chunk(self, chunk_id: ChunkID) -> bytes | None:
        """The chunk's bytes, checked against their hash; None where absent or damaged (then it is dropped)."""

    @abstractmethod
    async def has_chunks(self, chunk_ids: Sequence[ChunkID]) -> list[bool]: ...

    @abstractmethod
    async def delete_chunk(self, chunk_id: ChunkID) -> bool: ...

    @abstractmethod
    async def chunk_ids(self, after: ChunkID | None = None, limit: int = 1000) -> list[ChunkID]: ...

    @abstractmethod
    async def vouch_chunks(self, chunk_ids: Sequence[ChunkID], day: int) -> None:
        """Note that these were wanted on a day (of the caller's count); the latest day counts. Absent ones are none."""

    @abstractmethod
    async def chunk_days(self, chunk_ids: Sequence[ChunkID]) -> list[int | None]:
        """When each was last wanted; None where that was never noted, or it is absent."""

    @abstractmethod
    async def collect_chunk(self, chunk_id: ChunkID, before_day: int) -> bool:
        """Delete a chunk, only if it was last wanted before a day; True where it was."""

    # --- the whole ---
    @abstractmethod
    def usage(self) -> Usage:
        """Cheap: kept up to date, never counted."""

    @abstractmethod
    async def verify(self) -> DamageReport:
        """Check every chunk against its hash and every record against its checksum."""
