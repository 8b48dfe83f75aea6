"""`Client`: a running peer's operations from another process of this machine, with the methods of `Peer`.

Each method takes what `Peer`'s takes, returns what it returns and raises what it raises. Speaks HTTP over the Unix
socket in the peer's home. Owns no state but its connections; starts no peer.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec
from yarl import URL

from p2pkv.errors import InvalidError, UnreachableError
from p2pkv.gateway import batches, shapes
from p2pkv.gateway.targets import Value, file_target, query, segment, stream_name
from p2pkv.gateway.ways import has_unix_sockets, loopback_of, no_peer
from p2pkv.home import Home
from p2pkv.limits import HTTP_BLOCK_BYTES, HTTP_FIELD_BYTES_MAX
from p2pkv.outcomes import (
    Acks,
    BatchChange,
    BatchOutcome,
    ContactInfo,
    FileInfo,
    FileStat,
    Linked,
    LookupTrace,
    Order,
    PutOutcome,
    Record,
    ReplicaInfo,
    Sighting,
    Status,
    TransferOutcome,
    TransferProgress,
)
from p2pkv.units import Value as Content
from p2pkv.units import checked_value

T = TypeVar("T")
Event = dict[str, Any]
Key = bytes | str
Progress = Callable[[TransferProgress], None]
Body = bytes | AsyncIterable[bytes] | None


class Client:
    """Use as `async with Client(home=...) as client`. `socket` names the socket itself in place of a home."""

    def __init__(self, home: Path | str | None = None, *, socket: Path | None = None) -> None:
        self.socket = Home(home).socket if socket is None else socket
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        """Connect. Raises UnreachableError where no peer runs."""
        self._session = self._opened()
        try:
            await self.status()
        except BaseException:
            await self.close()
            raise
        return self

    def _opened(self) -> aiohttp.ClientSession:
        way = None if has_unix_sockets() else loopback_of(self.socket.parent)
        self._base = "http://localhost" if way is None else way.url
        connector = aiohttp.UnixConnector(str(self.socket), limit=0) if way is None else aiohttp.TCPConnector(limit=0)
        return aiohttp.ClientSession(
            connector=connector,
            headers={} if way is None else way.headers,
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=HTTP_BLOCK_BYTES,
            max_field_size=HTTP_FIELD_BYTES_MAX,
            auto_decompress=False,
        )

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections, and with them what they were asking. Idempotent."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    # --- records ---
    async def put(
        self,
        key: Key,
        value: Content,
        *,
        name: str | None = None,
        once: bool = False,
        own: bool = False,
        if_version: str | None = None,
        ttl_s: float | None = None,
        acks: Acks = "quorum",
    ) -> PutOutcome:
        """Add a record, or replace the one of that name. A long value may come in pieces.

        Raises RefusedError, and IncompleteError where fewer replicas than `acks` asks have it: see its `outcome`.
        """
        values = {"name": name, "once": once, "own": own, "if_version": if_version, "ttl": ttl_s, "acks": acks}
        target = f"/v1/keys/{segment(key)}{query(values)}"
        return shapes.put_of(await self._json("POST", target, shapes.PutLine, checked_value(value)))

    async def put_many(
        self,
        key: Key,
        values: Iterable[bytes] | AsyncIterable[bytes],
        *,
        own: bool = False,
        ttl_s: float | None = None,
        acks: Acks = "quorum",
    ) -> AsyncIterator[PutOutcome]:
        """Add a record a value. Yields every outcome in order, short ones too: look at `reached`."""
        target = f"/v1/keys/{segment(key)}{query({'ttl': ttl_s, 'own': own, 'acks': acks})}"
        async for item in self._lines("POST", target, _value_lines(values), shapes.NDJSON):
            yield shapes.put_of(msgspec.convert(item, shapes.PutLine))

    async def put_batch(self, changes: Iterable[BatchChange], *, acks: Acks = "quorum") -> BatchOutcome:
        """Put and delete records of any keys, so that all of it becomes visible together, or nothing.

        Raises RefusedError and IncompleteError as `Peer.put_batch` does.
        """
        target, headers = f"/v1/batch{query({'acks': acks})}", {"Content-Type": shapes.NDJSON}
        async with self._request("POST", target, batches.body_of(changes), headers=headers) as response:
            return batches.batch_of(shapes.decode(await response.read(), batches.BatchShape))

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
        """The records of a key; nothing where it has none. Raises IncompleteError where the answer is incomplete."""
        values: dict[str, str | int | float | None] = {"name": name, "prefix": prefix, "limit": limit, "after": after}
        values |= {"reverse": reverse, "order": order, "since": since_s, "until": until_s}
        async for record in self._records(f"/v1/keys/{segment(key)}{query(values)}"):
            yield record

    async def stream(self, key: Key, record: Record) -> AsyncIterator[bytes]:
        """The value of a record, in blocks, however long it is."""
        target = f"/v1/keys/{segment(key)}/{segment(record.name)}{query({'raw': True, 'version': record.version})}"
        async with self._request("GET", target) as response:
            async for block in response.content.iter_chunked(HTTP_BLOCK_BYTES):
                yield block

    async def count(self, key: Key, *, prefix: str = "") -> int:
        return (await self._json("GET", f"/v1/count/{segment(key)}{query({'prefix': prefix})}", shapes.Count)).count

    async def delete(self, key: Key, *, name: str | None = None, acks: Acks = "quorum") -> int:
        """Delete a key's records, or those of one name; how many. Raises RefusedError, IncompleteError."""
        target = f"/v1/keys/{segment(key)}" + ("" if name is None else f"/{segment(name)}")
        return (await self._json("DELETE", target + query({"acks": acks}), shapes.Deleted)).deleted

    async def watch(self, key: Key, *, after: str | None = None) -> AsyncIterator[Record]:
        """Records from now on (or behind a cursor), as they arrive, each once; a record's `cursor` resumes there."""
        async for record in self._records(f"/v1/watch/{segment(key)}{query({'after': after})}"):
            yield record

    async def keys(self, prefix: Key = b"") -> AsyncIterator[tuple[bytes, int]]:
        """The keys that the peer holds, each with its number of records."""
        async for item in self._lines("GET", f"/v1/keys{query({'prefix': prefix})}"):
            line = msgspec.convert(item, shapes.KeyLine)
            yield shapes.bytes_of(line.key, line.key_base64), line.count

    # --- files ---
    async def upload(
        self,
        source: Path | str | AsyncIterator[bytes],
        name: str | None = None,
        *,
        to: str = "",
        replicas: int | None = None,
        erasure: str | None = None,
        encrypt: bool = False,
        once: bool = False,
        acks: Acks = "quorum",
        progress: Progress | None = None,
    ) -> TransferOutcome:
        """Store a file, a whole folder or a stream (which needs `name`). Raises where anything of it did not arrive."""
        if isinstance(source, Path | str):
            asked = shapes.UploadRequest(_absolute(source), name, to, replicas, encrypt, once, acks, erasure)
            return await self._transfer("/v1/local/upload", asked, progress)
        values: dict[str, Value] = {
            "replicas": replicas,
            "erasure": erasure,
            "encrypt": encrypt,
            "once": once,
            "acks": acks,
        }
        full = stream_name(name, to)
        return await self._json(
            "PUT", file_target(full) + query(values), TransferOutcome, _counted(source, full, progress)
        )

    async def download(
        self,
        name_or_link: Linked,
        target: Path | str,
        *,
        byte_range: tuple[int, int] | None = None,
        progress: Progress | None = None,
    ) -> TransferOutcome:
        """Fetch a file or folder to this machine. `byte_range`: first and last byte, both included."""
        asked = shapes.DownloadRequest(str(name_or_link), _absolute(target), byte_range)
        return await self._transfer("/v1/local/download", asked, progress)

    async def open_file(
        self, name_or_link: Linked, *, byte_range: tuple[int, int] | None = None
    ) -> tuple[FileInfo, AsyncIterator[bytes]]:
        """A file's description, and its content in blocks. Close the iterator where it is not read to its end."""
        blocks = self._open(str(name_or_link), byte_range)
        info = await anext(blocks)
        assert isinstance(info, FileInfo)
        return info, blocks  # type: ignore[return-value]  # after the first item, bytes alone

    async def _open(self, name: str, byte_range: tuple[int, int] | None) -> AsyncIterator[FileInfo | bytes]:
        headers = {} if byte_range is None else {"Range": f"bytes={byte_range[0]}-{byte_range[1]}"}
        async with self._request("GET", file_target(name), headers=headers) as response:
            if byte_range and response.status != 206:
                first, last = byte_range
                raise InvalidError(f"no range of bytes: {first}-{last}", "give the first and the last byte")
            yield shapes.file_of_header(response.headers[shapes.FILE_HEADER])
            async for block in response.content.iter_chunked(HTTP_BLOCK_BYTES):
                yield block

    async def list_files(self, prefix: str = "", *, recursive: bool = True) -> AsyncIterator[FileInfo]:
        """Files and folders whose full name begins with `prefix`, sorted. Raises IncompleteError."""
        async for item in self._lines("GET", f"/v1/files{query({'prefix': prefix, 'flat': not recursive})}"):
            yield msgspec.convert(item, FileInfo)

    async def delete_file(self, name: str, *, recursive: bool = False, acks: Acks = "quorum") -> int:
        """Delete a file, or with `recursive` a folder with all in it; how many files, links and folders went."""
        target = file_target(name) + query({"recursive": recursive, "acks": acks})
        return (await self._json("DELETE", target, shapes.Deleted)).deleted

    async def stat_file(self, name_or_link: Linked) -> FileStat:
        """A file's manifest and where its chunks lie."""
        return await self._json("GET", f"/v1/stat/{segment(str(name_or_link))}", FileStat)

    # --- the peer ---
    async def status(self) -> Status:
        return await self._json("GET", "/v1/status", Status)

    async def peers(self) -> list[ContactInfo]:
        return await self._json("GET", "/v1/peers", list[ContactInfo])

    async def seen_as(self) -> list[Sighting]:
        """From which address the peer's datagrams come, as a few of its contacts see it."""
        return await self._json("GET", "/v1/seen-as", list[Sighting])

    async def where(self, key: Key) -> list[ReplicaInfo]:
        return await self._json("GET", f"/v1/where/{segment(key)}", list[ReplicaInfo])

    async def trace(self, key: Key) -> LookupTrace:
        return await self._json("GET", f"/v1/trace/{segment(key)}", LookupTrace)

    async def events(self) -> AsyncIterator[Event]:
        """What happens in the peer from the first step on: contacts, puts, deletions, transfers."""
        async with self._request("GET", "/v1/events") as response:
            async for line in response.content:
                if line.startswith(b"data: "):
                    yield shapes.decode(line[len(b"data: ") :], dict[str, Any])

    async def config(self) -> dict[str, Any]:
        """What the peer was started with."""
        return await self._json("GET", "/v1/config", dict[str, Any])

    async def verify(self) -> dict[str, Any]:
        return await self._json("POST", "/v1/verify", dict[str, Any])

    async def repair(self) -> dict[str, Any]:
        return await self._json("POST", "/v1/repair", dict[str, Any])

    async def stop(self) -> None:
        """Ask the peer to leave; it goes on answering until it has handed over."""
        await self._json("POST", "/v1/stop", shapes.Stopping)

    # --- how ---
    @asynccontextmanager
    async def _request(
        self, method: str, target: str, body: Body = None, *, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request. Raises the error that a problem stands for, and that of a broken connection."""
        if self._session is None:
            raise UnreachableError("the client is not open", "use `async with Client(...) as client`")
        url = URL(f"{self._base}{target}", encoded=True)
        try:
            async with self._session.request(method, url, data=body, headers=headers) as response:
                if response.status >= 400:
                    raise shapes.error_of(shapes.decode(await response.read(), shapes.Problem))
                yield response
        except aiohttp.ClientConnectorError as error:
            raise no_peer(self.socket.parent) from error
        except aiohttp.ClientError as error:
            raise shapes.cut_off() from error

    async def _json(self, method: str, target: str, type_: type[T], body: Body = None) -> T:
        async with self._request(method, target, body) as response:
            return shapes.decode(await response.read(), type_)

    async def _lines(
        self, method: str, target: str, body: Body = None, content_type: str = ""
    ) -> AsyncIterator[dict[str, Any]]:
        """The objects of a stream up to its end. Raises what the end says, and IncompleteError where there is none."""
        headers = {"Content-Type": content_type} if content_type else {}
        async with self._request(method, target, body, headers=headers) as response:
            rest = b""
            async for block in response.content.iter_any():
                *lines, rest = (rest + block).split(b"\n")
                for line in filter(None, lines):
                    item = shapes.item_of(line)
                    if item is None:
                        return
                    yield item
            raise shapes.cut_off()

    async def _records(self, target: str) -> AsyncIterator[Record]:
        async for item in self._lines("GET", target):
            yield shapes.record_of(msgspec.convert(item, shapes.RecordLine))

    async def _transfer(self, target: str, asked: object, progress: Progress | None) -> TransferOutcome:
        outcome: TransferOutcome | None = None
        async for item in self._lines("POST", target, shapes.encode(asked), "application/json"):
            line = msgspec.convert(item, shapes.TransferLine)
            if line.progress and progress:
                progress(line.progress)
            outcome = line.outcome or outcome
        if outcome is None:
            raise shapes.cut_off()
        return outcome


async def _value_lines(values: Iterable[bytes] | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    if isinstance(values, AsyncIterable):
        async for value in values:
            yield shapes.line(shapes.ValueLine(*shapes.text_or_base64(value)))
    else:
        for value in values:
            yield shapes.line(shapes.ValueLine(*shapes.text_or_base64(value)))


async def _counted(blocks: AsyncIterator[bytes], name: str, progress: Progress | None) -> AsyncIterator[bytes]:
    """A stream on its way to the peer, each block of it reported."""
    done = 0
    async for block in blocks:
        yield block
        done += len(block)
        if progress:
            progress(TransferProgress(name, "sending", done, None))


def _absolute(path: Path | str) -> str:
    """The peer's working directory is another."""
    return str(Path(path).absolute())
