"""The composition root: one running peer, and the Python interface of p2pkv.

Owns starting and stopping in the right order and the translation between what users say (text names, values, times to
live) and what the layers below take (drafts, versions). Every rule lives below: storage, swarm, files.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from p2pkv.core.drafts import Draft
from p2pkv.core.records import Flag, version_token
from p2pkv.errors import InvalidError, NotFoundError
from p2pkv.files.names import parse as parse_link
from p2pkv.files.progress import Progress
from p2pkv.files.service import Files
from p2pkv.files.values import load_value
from p2pkv.home import Home
from p2pkv.ids import place_of_key
from p2pkv.limits import ALPHA_DEFAULT, BATCH_RECORDS_MAX, K_DEFAULT, WATCH_S
from p2pkv.outcomes import (
    Acks,
    ContactInfo,
    FileInfo,
    FileStat,
    LookupTrace,
    Order,
    PutOutcome,
    Record,
    ReplicaInfo,
    Status,
    TransferOutcome,
)
from p2pkv.peer_events import Event, Events
from p2pkv.storage.disk import DiskStore
from p2pkv.storage.interface import Store
from p2pkv.storage.memory import MemoryStore
from p2pkv.swarm.environment import Address, Environment
from p2pkv.swarm.identity import Identity
from p2pkv.swarm.node import SwarmNode
from p2pkv.translation import (
    INTERNAL_KEYS,
    Key,
    Translator,
    Value,
    as_transfer,
    checked_key,
    checked_name,
    each,
    reached,
)
from p2pkv.units import format_address, parse_address
from p2pkv.version import VERSION

StoreKind = Literal["disk", "memory"]
DEFAULT_LISTEN = ("0.0.0.0:8468",)


class Peer:
    """One peer of the swarm. Use it as `async with Peer(home=..., bootstrap=[...]) as peer`."""

    def __init__(
        self,
        home: Path | str | None = None,
        *,
        listen: Sequence[str] = DEFAULT_LISTEN,
        bootstrap: Sequence[str] = (),
        advertise: str | None = None,
        k: int = K_DEFAULT,
        alpha: int = ALPHA_DEFAULT,
        quota: int | None = None,
        store: StoreKind = "disk",
        ephemeral: bool = False,
        env: Environment | None = None,
    ) -> None:
        """A peer with its home in a folder (default: the user's), its UDP addresses and the peers it joins by.

        `store="memory"` keeps records and chunks in memory; `ephemeral` keeps none and is nobody's replica. Neither
        needs a home.
        """
        self.env = env or Environment()
        self._events = Events()
        self.http_url = ""
        self._listen = [parse_address(text) for text in listen]
        self._bootstrap = [parse_address(text) for text in bootstrap]
        self._advertise = parse_address(advertise) if advertise else None
        self._k, self._alpha = k, alpha
        self._quota_bytes = quota
        self._store_kind: StoreKind = "memory" if ephemeral else store
        self._ephemeral = ephemeral
        self._home = Home(home) if home is not None or self._store_kind == "disk" else None
        self._exits = AsyncExitStack()

    # --- life ---

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Open the home and the sockets and begin to join the swarm; when it returns, the peer serves."""
        try:
            await self._start()
        except BaseException:
            await self._exits.aclose()
            raise

    async def _start(self) -> None:
        identity = self._open_home()
        self._started_s = self.env.now_s()
        store = self._make_store()
        await store.open()
        self._exits.push_async_callback(store.close)
        self.node = SwarmNode(store, identity, self.env, k=self._k, alpha=self._alpha, stores=not self._ephemeral)
        self._exits.push_async_callback(self.node.stop)
        contacts = self._home.contacts if self._home and not self._ephemeral else None
        await self.node.start(self._listen, self._bootstrap, contacts=contacts)
        self.files = Files(
            self.node.records,
            self.node.chunks,
            now_s=self.env.now_s,
            random_bytes=self.env.random_bytes,
            threads=not self.env.simulated,
        )
        self._translator = Translator(self.node.chunks, self.env.now_s)

    def _open_home(self) -> Identity:
        if self._home is None:
            return Identity.generate(self.env.random_bytes)
        self._home.prepare()
        return Identity.load_or_create(self._home.identity)

    def _make_store(self) -> Store:
        if self._store_kind == "memory" or self._home is None:
            return MemoryStore(self.env.now_s, quota_bytes=self._quota_bytes)
        return DiskStore(self._home.store, self.env.now_s, quota_bytes=self._quota_bytes)

    async def stop(self) -> None:
        """Leave the swarm; everything acknowledged is on disk."""
        await self._exits.aclose()

    async def wait_connected(self, timeout_s: float = 10.0) -> None:
        """Wait until another peer of the swarm has answered. Raises UnreachableError."""
        await self.node.server.wait_connected(timeout_s)

    @property
    def addresses(self) -> list[Address]:
        """The UDP addresses that this peer listens on."""
        return self.node.server.bound

    @property
    def address(self) -> str:
        """The first of them as HOST:PORT, for another peer's bootstrap."""
        return format_address(*self.addresses[0])

    @property
    def home(self) -> Home | None:
        return self._home

    # --- records ---

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
        """Add a record, or replace the one of that name.

        Raises RefusedError (write-once, another's record, another version), IncompleteError where fewer replicas than
        `acks` asks have it durably; the error's `outcome` says which failed and why.
        """
        key_bytes = checked_key(key)
        if (once or if_version) and not name:
            raise InvalidError("write-once and compare-and-set need the record's name", "give a name")
        flags = (Flag.ONCE if once else 0) | (Flag.OWN if own else 0)
        draft = await self._translator.draft(value, self._name(name), flags=flags, ttl_s=ttl_s, acks=acks)
        outcome = await self.node.records.put(key_bytes, draft, acks=acks, if_version=if_version)
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
        batch: list[Draft] = []
        async for value in each(values):
            batch.append(await self._translator.draft(value, self._name(None), flags=flags, ttl_s=ttl_s, acks=acks))
            if len(batch) >= BATCH_RECORDS_MAX:
                async for outcome in self.node.records.put_many(key_bytes, batch, acks=acks):
                    yield outcome
                batch = []
        async for outcome in self.node.records.put_many(key_bytes, batch, acks=acks):
            yield outcome

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
    ) -> AsyncIterator[Record]:
        """The records of a key, oldest first, streamed. Ends normally only where nothing can be missing.

        Raises IncompleteError where too few replicas answer, after yielding what is certain.
        """
        key_bytes = checked_key(key)
        if name is not None:
            for version in await self.node.records.read_name(key_bytes, checked_name(name)):
                yield await self._translator.record(version)
            return
        versions = self.node.records.read(
            key_bytes, order=order, prefix=prefix.encode(), after=after, limit=limit, reverse=reverse
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
                async for piece in load_value(version, self.node.chunks):
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
        for outcome in outcomes:
            reached(outcome, f"the deletion of {outcome.name}")
        return len(outcomes)

    async def keys(self, prefix: Key = b"") -> AsyncIterator[tuple[bytes, int]]:
        """The keys whose pages this peer holds, with their numbers of records; folders are left out."""
        wanted = prefix.encode() if isinstance(prefix, str) else prefix
        after = b""
        while pages := await self.node.store.keys(wanted, after):
            for page in pages:
                if page.live and not page.key.startswith(INTERNAL_KEYS):
                    yield page.key, page.live
            after = pages[-1].key

    # --- files ---

    async def upload(
        self,
        source: Path | str | AsyncIterator[bytes],
        name: str | None = None,
        *,
        to: str = "",
        replicas: int | None = None,
        encrypt: bool = False,
        once: bool = False,
        acks: Acks = "quorum",
        progress: Progress | None = None,
    ) -> TransferOutcome:
        """Store a file, a whole folder or a stream. Raises where anything of it did not reach its replicas."""
        origin = Path(source) if isinstance(source, str) else source
        folder = isinstance(origin, Path) and origin.is_dir() and not origin.is_symlink()
        if folder and isinstance(origin, Path):
            outcome = await self.files.upload_folder(
                origin, name, to=to, replicas=replicas, encrypt=encrypt, once=once, acks=acks, progress=progress
            )
            return as_transfer(outcome, "uploaded")
        return await self.files.upload(
            origin, name, to=to, replicas=replicas, encrypt=encrypt, once=once, acks=acks, progress=progress
        )

    async def download(
        self,
        name_or_link: str,
        target: Path | str,
        *,
        byte_range: tuple[int, int] | None = None,
        progress: Progress | None = None,
    ) -> TransferOutcome:
        """Fetch a file, or a folder with all in it, to a path. Resumes what a broken run left there."""
        target = Path(target)
        info = await self.files.find(name_or_link)
        if info is not None and info.kind == "folder" and byte_range is None:
            inside = (
                target / parse_link(name_or_link).name.rstrip("/").rpartition("/")[2] if target.is_dir() else target
            )
            outcome = await self.files.download_folder(name_or_link, inside, progress=progress)
            return as_transfer(outcome, "downloaded")
        return await self.files.download(name_or_link, target, byte_range=byte_range, progress=progress)

    async def open_file(
        self, name_or_link: str, *, byte_range: tuple[int, int] | None = None
    ) -> tuple[FileInfo, AsyncIterator[bytes]]:
        """A file's entry and its bytes in order, or those of a range (inclusive)."""
        return await self.files.open(name_or_link, byte_range)

    async def list_files(self, prefix: str = "", *, recursive: bool = True) -> AsyncIterator[FileInfo]:
        """Files and folders whose full name begins with `prefix`, sorted. Raises IncompleteError."""
        async for info in self.files.list_files(prefix, recursive=recursive):
            yield info

    async def delete_file(self, name: str, *, recursive: bool = False) -> int:
        """Delete a file, or with `recursive` a folder with all in it; how many files went."""
        outcome = await self.files.delete_file(name, recursive=recursive)
        as_transfer(outcome, "deleted")
        return outcome.files + outcome.links + outcome.folders

    async def stat_file(self, name_or_link: str) -> FileStat:
        """A file's manifest and where its chunks lie."""
        return await self.files.stat_file(name_or_link)

    # --- the swarm ---

    def status(self) -> Status:
        """This peer at a glance."""
        server, usage = self.node.server, self.node.store.usage()
        return Status(
            node=self.node.identity.node_id.hex(),
            author=self.node.identity.public_key.hex(),
            version=VERSION,
            home=str(self._home.folder) if self._home else "",
            udp=[format_address(*address) for address in self.addresses],
            http=self.http_url,
            uptime_s=self.env.now_s() - self._started_s,
            contacts=len(server.contacts()),
            swarm_size_estimate=server.swarm_size_estimate(),
            records=usage.records,
            keys=usage.keys,
            chunks=usage.chunks,
            stored_bytes=usage.size_bytes,
            quota_bytes=self._quota_bytes,
            connected=bool(server.contacts()),
            bootstrap=[format_address(*address) for address in self._bootstrap],
            loop=server.loop_name,
            socket_buffer_bytes=server.endpoint.buffer_bytes,
            warnings=server.warnings(),
            counters=self.node.counters(),
        )

    def peers(self) -> list[ContactInfo]:
        """The contacts of the routing table."""
        return self.node.server.contact_infos()

    async def where(self, key: Key) -> list[ReplicaInfo]:
        """Who should hold a key, and who does."""
        return await self.node.where(checked_key(key))

    async def trace(self, key: Key) -> LookupTrace:
        """Run a lookup of a key's place and tell it hop by hop."""
        found = await self.node.lookups.find_nodes(place_of_key(checked_key(key)))
        return found.trace

    async def watch(self, key: Key, *, after: str | None = None) -> AsyncIterator[Record]:
        """Records of a key from now on (or behind a cursor), as they arrive, until the caller leaves.

        Asks again every WATCH_S; a replica's change is seen at the latest then.
        """
        if after is None:
            async for record in self.get(key, limit=1, reverse=True):
                after = record.cursor
        while True:
            async for record in self.get(key, after=after):
                after = record.cursor
                yield record
            await asyncio.sleep(WATCH_S)

    def events(self) -> AsyncIterator[Event]:
        """What happens in this peer from now on: contacts, puts, transfers."""
        return self._events.listen()

    async def verify(self) -> dict[str, object]:
        """Check everything stored here against its hashes; what is damaged is dropped and told."""
        report = await self.node.store.verify()
        return {
            "chunks_checked": report.chunks_checked,
            "records_checked": report.records_checked,
            "chunks_damaged": report.chunks_damaged,
            "records_damaged": report.records_damaged,
        }

    async def repair(self) -> dict[str, object]:
        """Bring the replicas of everything stored here back to full count now."""
        return await self.node.repair()

    def _name(self, name: str | None) -> bytes:
        return checked_name(name) if name is not None else self.node.records.unique_name()
