"""What operations return: outcomes with counts, never bare booleans. Plain data for Peer, Client, HTTP and commands."""

from __future__ import annotations

from typing import Literal

import msgspec

Acks = Literal["1", "quorum", "all"]
Order = Literal["time", "name"]


class ReplicaFailure(msgspec.Struct, frozen=True):
    """One replica that did not do what it was asked: who and why."""

    node: str  # NodeID in hex
    address: str  # host:port
    reason: str


class PutOutcome(msgspec.Struct, frozen=True):
    """One record's fate. `stored` replicas have it durably; `asked` should hold it; `needed` were required."""

    name: str
    version: str
    asked: int
    stored: int
    needed: int
    failures: list[ReplicaFailure] = []

    @property
    def reached(self) -> bool:
        return self.stored >= self.needed


class BatchChange(msgspec.Struct, frozen=True):
    """One record that an atomic batch puts or deletes. `value` is empty where it is deleted."""

    key: bytes | str
    value: bytes = b""
    name: str | None = None  # None: a unique one that sorts by time
    ttl_s: float | None = None
    own: bool = False
    delete: bool = False


class BatchRecord(msgspec.Struct, frozen=True):
    """One record's part in an atomic batch that was committed."""

    key: bytes
    outcome: PutOutcome
    deleted: bool = False


class BatchOutcome(msgspec.Struct, frozen=True):
    """An atomic batch that was committed: every get from now on sees all of it."""

    batch: str  # its id in hex
    records: list[BatchRecord]


class Record(msgspec.Struct, frozen=True):
    """One record of a key, as a reader sees it."""

    name: str
    value: bytes | None  # None where it is longer than VALUE_IN_MEMORY_BYTES_MAX: stream it
    size: int  # bytes of the value
    author: str  # Ed25519 public key in hex; empty for a value put by a stock kademlia peer
    time: float  # seconds since the epoch when it was written, by the writer's clock
    version: str  # opaque; for `if_version`
    cursor: str  # opaque; `after=cursor` resumes behind this record
    expires: float | None = None
    own: bool = False
    once: bool = False


class FileInfo(msgspec.Struct, frozen=True):
    """One file or folder of a listing."""

    name: str  # full name, folders separated by "/"; a folder's ends with "/"
    size: int
    mtime: float
    mode: int
    kind: Literal["file", "folder", "link"]
    hash: str = ""  # BLAKE3-256 of the whole content in hex; empty for folders
    author: str = ""
    time: float = 0.0  # when it was stored
    chunks: int = 0
    encrypted: bool = False
    target: str = ""  # of a symbolic link
    replicas: int = 0  # wanted of each of its chunks
    erasure: str = ""  # the erasure code of its chunks, as "10/14"


class ReplicaInfo(msgspec.Struct, frozen=True):
    """A peer that holds, or should hold, something."""

    node: str
    address: str
    holds: bool
    reason: str = ""  # why it is not known to hold it


class FileStat(msgspec.Struct, frozen=True):
    """A file's manifest and the health of its chunks."""

    info: FileInfo
    link: str
    replicas_wanted: int
    chunks: list[ChunkStat]

    @property
    def healthy(self) -> bool:
        return all(
            sum(replica.holds for replica in chunk.replicas)
            >= min(chunk.wanted or self.replicas_wanted, len(chunk.replicas))
            for chunk in self.chunks
        )


class ChunkStat(msgspec.Struct, frozen=True):
    id: str
    size: int
    replicas: list[ReplicaInfo]  # of those that should hold it
    wanted: int = 0  # of a shard, one; 0: as many as of the file's other chunks


class TransferOutcome(msgspec.Struct, frozen=True):
    """An upload or download that succeeded, of a file or of a folder with all in it. As text it is its link."""

    name: str
    link: str
    size: int
    hash: str  # empty for a folder
    chunks: int  # of a file
    chunks_sent: int  # uploads: not already in the swarm; downloads: fetched, not resumed
    replicas: int  # the least number of replicas that any chunk reached
    seconds: float
    files: int = 1
    folders: int = 0
    links: int = 0
    erasure: str = ""  # uploads: the erasure code, as "10/14"
    loss_per_year: float = 0.0  # uploads with one: the probability that a part of it is lost within a year

    def __str__(self) -> str:
        return self.link


Linked = str | TransferOutcome
"""A file's name or link, or the outcome of its upload, which stands for its link."""


class FileFailure(msgspec.Struct, frozen=True):
    """One file of a folder that could not be carried, and why."""

    name: str
    reason: str


class FolderOutcome(msgspec.Struct, frozen=True):
    """What became of a folder: how much was carried, and what was not. Not a success unless `failed` is 0."""

    name: str
    files: int
    folders: int
    links: int
    size: int  # bytes of the files
    seconds: float
    failed: int = 0
    failures: list[FileFailure] = []  # the first FAILURES_REPORTED_MAX
    replicas: int = 0  # the least number of replicas that any part reached; 0 where it does not apply
    link: str = ""
    erasure: str = ""  # as of a single file's upload
    loss_per_year: float = 0.0


class TransferProgress(msgspec.Struct, frozen=True):
    """A step of a running upload or download; sent at most some ten times a second."""

    name: str
    phase: Literal["reading", "sending", "fetching", "done"]
    done: int  # bytes
    total: int | None  # bytes; None for a stream of unknown length
    chunks_done: int = 0
    replicas: int = 0
    peers: dict[str, int] = {}  # by address: bytes fetched from it, or of this that it holds durably; the chief ones


class ContactInfo(msgspec.Struct, frozen=True):
    """A contact of the routing table."""

    node: str
    address: str
    kind: Literal["p2pkv", "stock", "unknown"]
    rtt_ms: float | None
    age_s: float  # since first seen
    idle_s: float  # since last heard
    failures: int


class Hop(msgspec.Struct, frozen=True):
    """One question of a lookup and what became of it."""

    node: str
    address: str
    distance_bits: int  # length of the XOR distance to the target in bits
    depth: int  # 0: from our own table; n: learnt from a hop of depth n-1
    sent_ms: float  # after the lookup began
    rtt_ms: float | None
    outcome: Literal["answered", "slow", "silent", "error", "unasked"]
    learnt: int = 0  # new contacts in the answer
    closer: int = 0  # of them, closer than any known before


class LookupTrace(msgspec.Struct, frozen=True):
    target: str
    hops: list[Hop]
    nearest: list[str]  # NodeIDs of the outcome, nearest first
    elapsed_ms: float


class Status(msgspec.Struct, frozen=True):
    """This peer at a glance."""

    node: str
    author: str
    version: str
    home: str
    udp: list[str]
    http: str
    uptime_s: float
    contacts: int
    swarm_size_estimate: int
    records: int
    keys: int
    chunks: int
    stored_bytes: int
    quota_bytes: int | None
    connected: bool
    bootstrap: list[str]
    loop: str  # "uvloop" or "asyncio"
    socket_buffer_bytes: int
    warnings: list[str]
    counters: dict[str, int]
    advertised: str = ""  # where others are told to reach it


class Sighting(msgspec.Struct, frozen=True):
    """How a contact sees us."""

    node: str
    address: str  # the contact's
    seen: str  # ours, as our datagrams come to it
