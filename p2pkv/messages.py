"""The messages of our own RPC methods, field by field as they lie on the wire (msgpack arrays in this order).

Unknown trailing fields are ignored and missing ones take their defaults, so a later version may append. Framing, the
extension and the stock methods are `wire.py`'s. docs/protocol.md spells every layout out, with test vectors.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from p2pkv.core.records import Cursor, Version
from p2pkv.wire import PORT_MAX, Method, NodeTuple


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base of every message: an array, decoded straight into its fields."""


# --- records ---

STORED: Final = 0  # durable
ALREADY: Final = 1  # this very version was durable before
STALE: Final = 2  # a version of higher rank stands, it is `current`
REFUSED: Final = 3  # `detail` says why: owned by another, write-once, signature, clock, quota
NOT_MINE: Final = 4  # k nearer peers are known here; they are in `nodes`
FAILED: Final = 5  # the disk did not do it; `detail` says why
SPLIT: Final = 6  # the page is split: the version belongs to its child


class StoreRecords(Message, frozen=True):
    """Merge versions into pages of a key. `force`: store them even where nearer peers are known.

    A version's page is called by the first `depths[i]` hex digits of BLAKE3(name); a split marker names its own.
    """

    key: bytes
    versions: list[Version]
    view: bytes = b""  # what the sender believes of who is nearest; the answer names nodes only where it differs
    force: bool = False
    depths: bytes = b""  # one a version; empty: all belong to the root page


class StoreResult(Message, frozen=True):
    code: int
    detail: str = ""
    current: Version | None = None


class StoreRecordsReply(Message, frozen=True):
    results: list[StoreResult]
    nodes: list[NodeTuple] = []


class FindRecords(Message, frozen=True):
    """Ask for a run of a page: versions behind `after` up to and with `until`, tombstones and expired ones too."""

    place: bytes
    by_name: bool = False  # else in time order
    reverse: bool = False
    after: Cursor | None = None
    until: Cursor | None = None
    prefix: bytes = b""
    limit: int = 1000
    digest_only: bool = False  # a digest of the run in place of the versions
    view: bytes = b""
    pending: bool = False  # those that wait in batches, and no others


class FindRecordsReply(Message, frozen=True):
    versions: list[Version]
    more: bool  # the run was cut behind its last version
    digest: bytes  # of the run
    live: int  # versions of the run that are neither dead nor expired
    end: Cursor | None = None  # of the last version of the run
    nodes: list[NodeTuple] = []
    split: bool = False  # the page is split; what it still holds is on its way to its children
    mine: bool = True  # the answerer counts itself among the page's replicas
    batches: list[bytes] = []  # of all versions of the page that wait in batches; they are in no run


class FindRuns(Message, frozen=True):
    """Ask for runs of many pages at once. It travels by bulk transfer."""

    requests: list[FindRecords]


class FindRunsReply(Message, frozen=True):
    """Runs of the first requests, as many as the answer has room for."""

    replies: list[FindRecordsReply]


class Summarize(Message, frozen=True):
    """Ask for what whole pages hold, in a few bytes each."""

    pages: list[tuple[bytes, bytes]]  # place, and the asker's opinion of its replicas


class SummarizeReply(Message, frozen=True):
    summaries: list[tuple[bytes, int]]  # of the pages from the first: digest of all versions, how many live


class FindNames(Message, frozen=True):
    """Ask for everything held under some names of a page, tombstones and expired versions too."""

    place: bytes
    names: list[bytes]
    view: bytes = b""


class FindNamesReply(Message, frozen=True):
    versions: list[Version]
    answered: int  # of the names, from the first: those whose versions fit the answer
    nodes: list[NodeTuple] = []
    split: bool = False
    mine: bool = True
    batches: list[bytes] = []  # that versions of the answered names wait in


class KnownNames(Message, frozen=True):
    """Names of a page, and which version the asker has of each."""

    place: bytes
    names: list[bytes]
    known: bytes  # the content hashes of those versions, one behind the other
    view: bytes = b""


class FindNewer(Message, frozen=True):
    """Ask for what stands under some names of many pages beside what the asker has. It travels by bulk transfer."""

    pages: list[KnownNames]


class FindNewerReply(Message, frozen=True):
    """About the first pages, as many as the answer has room for; of the last one maybe not about all names."""

    replies: list[FindNamesReply]


# --- consensus on one record (write-once and compare-and-set) ---


class Prepare(Message, frozen=True):
    """CASPaxos phase 1: promise to take nothing below this ballot, and say what was accepted."""

    key: bytes
    name: bytes
    ballot: tuple[int, bytes]


class Promise(Message, frozen=True):
    granted: bool
    ballot: tuple[int, bytes]  # the highest seen
    accepted_ballot: tuple[int, bytes]  # (0, "") where nothing was accepted yet
    accepted: Version | None  # the version accepted at that ballot


class Propose(Message, frozen=True):
    """CASPaxos phase 2: accept this version at this ballot, durably."""

    key: bytes
    ballot: tuple[int, bytes]
    version: Version


class Accepted(Message, frozen=True):
    granted: bool
    ballot: tuple[int, bytes]


class HandedRegister(Message, frozen=True):
    """What one acceptor knows of a record's register, for another one to merge with what it knows."""

    key: bytes
    name: bytes
    promised: tuple[int, bytes]
    accepted_ballot: tuple[int, bytes]
    accepted: Version | None


class ReadRegister(Message, frozen=True):
    key: bytes
    name: bytes


class ReadRegisterReply(Message, frozen=True):
    """`settled`: the answerer was a replica of the register's place before, too, and lacks nothing of it."""

    register: HandedRegister | None  # None: nothing was ever promised or accepted
    settled: bool


class MergeRegisters(Message, frozen=True):
    """Take registers over, durably."""

    registers: list[HandedRegister]


class MergeRegistersReply(Message, frozen=True):
    held: list[bool]  # what was handed, or more, is durable


# --- chunks ---


class HasChunks(Message, frozen=True):
    chunk_ids: list[bytes]
    vouch: bool = False  # a record refers to them, or will


class HasChunksReply(Message, frozen=True):
    held: list[bool]


class PutPiece(Message, frozen=True):
    """A part of a chunk that travels by RPC. The receiver puts parts together by sender and chunk."""

    chunk_id: bytes
    size_bytes: int  # of the whole chunk
    offset: int
    data: bytes


class PutPieceReply(Message, frozen=True):
    stored: bool  # the chunk is whole and durable; else parts are missing


class GetPiece(Message, frozen=True):
    chunk_id: bytes
    offset: int


class GetPieceReply(Message, frozen=True):
    size_bytes: int  # of the whole chunk
    data: bytes


# --- upkeep ---

RECORDS: Final = 0  # kinds of what is held
CHUNKS: Final = 1
REGISTERS: Final = 2


class Compare(Message, frozen=True):
    """Compare what both hold below some prefixes (core.reconciliation has the tree)."""

    kind: int
    questions: list[tuple[bytes, bytes]]  # hexadecimal prefix, and the sender's digest of what it holds below


class CompareReply(Message, frozen=True):
    parts: list[tuple[int, bytes]]  # about the first prefixes, as many as fit one answer (at least one)


class Fetch(Message, frozen=True):
    kind: int
    items: bytes  # one behind the other


class Handed(Message, frozen=True):
    """A record, handed over."""

    key: bytes
    depth: int  # of its page, as in StoreRecords
    version: Version


class FetchReply(Message, frozen=True):
    answered: int  # of the items, from the first; what is not held any more is left out
    records: list[Handed] = []
    chunk_ids: list[bytes] = []  # to be pulled as any chunk
    days: list[int] = []  # when each chunk was last vouched for, since 1970
    registers: list[HandedRegister] = []


class Holds(Message, frozen=True):
    """Ask which records the receiver holds."""

    items: bytes  # one behind the other


class HoldsReply(Message, frozen=True):
    held: list[bool]


# --- contacts ---


class Leave(Message, frozen=True):
    """The sender ends. `handed_on`: the receiver has all that both should hold, so the sender counts no more."""

    handed_on: bool


class LeaveReply(Message, frozen=True):
    taken: bool  # the sender was known, and is not any more


class ReachableAt(Message, frozen=True):
    """The sender is reached at this address, whatever address its datagrams come from."""

    host: Annotated[str, Meta(max_length=64)]  # numeric
    port: Annotated[int, Meta(ge=1, le=PORT_MAX)]


class ReachableAtReply(Message, frozen=True):
    taken: bool  # the sender's identity was proven there


# --- watching ---


class Watch(Message, frozen=True):
    """Lease pushes of whatever becomes durable at a place, or renew the lease; `lease_ms` 0 ends it."""

    place: bytes
    watch: Annotated[bytes, Meta(min_length=8, max_length=8)]  # the watcher's name for it, drawn at random
    lease_ms: int  # wanted


class WatchReply(Message, frozen=True):
    lease_ms: int  # granted, from now
    unbroken: bool  # the lease stood already, and everything since the last reply was pushed


class Push(Message, frozen=True):
    """What became durable at a place that the receiver watches, in the order in which it did."""

    watch: bytes
    versions: list[Version]
    lost: bool = False  # more came than could be sent: read


class PushReply(Message, frozen=True):
    known: bool  # there is such a watch
    taken: bool  # the versions were; else nothing more is wanted until the lease is renewed


STORE_RECORDS: Final = Method("p2pkv_store_records", StoreRecords, StoreRecordsReply, needs_cookie=True)
FIND_RECORDS: Final = Method("p2pkv_find_records", FindRecords, FindRecordsReply, needs_cookie=True)
FIND_RUNS: Final = Method("p2pkv_find_runs", FindRuns, FindRunsReply, needs_cookie=True)
FIND_NAMES: Final = Method("p2pkv_find_names", FindNames, FindNamesReply, needs_cookie=True)
FIND_NEWER: Final = Method("p2pkv_find_newer", FindNewer, FindNewerReply, needs_cookie=True)
PREPARE: Final = Method("p2pkv_prepare", Prepare, Promise, needs_cookie=True)
PROPOSE: Final = Method("p2pkv_propose", Propose, Accepted, needs_cookie=True)
READ_REGISTER: Final = Method("p2pkv_read_register", ReadRegister, ReadRegisterReply, needs_cookie=True)
MERGE_REGISTERS: Final = Method("p2pkv_merge_registers", MergeRegisters, MergeRegistersReply, needs_cookie=True)
HAS_CHUNKS: Final = Method("p2pkv_has_chunks", HasChunks, HasChunksReply, needs_cookie=True)
PUT_PIECE: Final = Method("p2pkv_put_piece", PutPiece, PutPieceReply, needs_cookie=True)
GET_PIECE: Final = Method("p2pkv_get_piece", GetPiece, GetPieceReply, needs_cookie=True)
COMPARE: Final = Method("p2pkv_compare", Compare, CompareReply, needs_cookie=True)
FETCH: Final = Method("p2pkv_fetch", Fetch, FetchReply, needs_cookie=True)
SUMMARIZE: Final = Method("p2pkv_summarize", Summarize, SummarizeReply, needs_cookie=True)
HOLDS: Final = Method("p2pkv_holds", Holds, HoldsReply, needs_cookie=True)
LEAVE: Final = Method("p2pkv_leave", Leave, LeaveReply, needs_cookie=True)
REACHABLE_AT: Final = Method("p2pkv_reachable_at", ReachableAt, ReachableAtReply, needs_cookie=True)
WATCH: Final = Method("p2pkv_watch", Watch, WatchReply, needs_cookie=True)
PUSH: Final = Method("p2pkv_push", Push, PushReply, needs_cookie=True)
