"""`Client`: a running peer's operations from another process of this machine, with the methods of `Peer`.

Speaks HTTP over the Unix socket in the peer's home. Errors of the peer are raised here as what they were there. Owns no
state but its connections; starts no peer.
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
from p2pkv.gateway import shapes
from p2pkv.gateway.targets import Value, file_target, query, segment
from p2pkv.home import Home
from p2pkv.limits import HTTP_BLOCK_BYTES, HTTP_FIELD_BYTES_MAX
from p2pkv.outcomes import (
    Acks,
    ContactInfo,
    FileInfo,
    FileStat,
    FolderOutcome,
    LookupTrace,
    Order,
    PutOutcome,
    Record,
    ReplicaInfo,
    Status,
    TransferOutcome,
    TransferProgress,
)

T = TypeVar("T")
Key = bytes | str
Progress = Callable[[TransferProgress], None]
Transferred = TransferOutcome | FolderOutcome
Body = bytes | AsyncIterable[bytes] | None


class Client:
    """Use as `async with Client(home=...) as client`. `socket` names the socket itself in place of a home."""

    def __init__(self, home: Path | str | None = None, *, socket: Path | None = None) -> None:
        self.socket = Home(home).socket if socket is None else socket
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        """Connect. Raises UnreachableError where no peer runs."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(self.socket), limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=HTTP_BLOCK_BYTES,
            max_field_size=HTTP_FIELD_BYTES_MAX,
            auto_decompress=False,
        )
        try:
            await self.status()
        except BaseException:
            await self.close()
            raise
        return self

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
        value: bytes | AsyncIterator[bytes],
        *,
        name: str | None = None,
        once: bool = False,
        own: bool = False,
        if_version: str | None = None,
        ttl_s: float | None = None,
        acks: Acks = "quorum",
    ) -> PutOutcome:
        """Put one record; a long value may come in blocks. The outcome may be one that did not reach `acks`."""
        values = {"name": name, "once": once, "own": own, "if_version": if_version, "ttl": ttl_s, "acks": acks}
        async with self._request("POST", f"/v1/keys/{segment(key)}{query(values)}", value, problems=False) as response:
            body = await response.read()
            if response.status < 400:
                return shapes.put_of(shapes.decode(body, shapes.PutLine))
        problem = shapes.decode(body, shapes.Problem)
        if problem.outcome:
            return shapes.put_of(problem.outcome)
        raise shapes.error_of(problem)

    async def put_many(
        self,
        key: Key,
        values: Iterable[bytes] | AsyncIterable[bytes],
        *,
        ttl_s: float | None = None,
        own: bool = False,
        acks: Acks = "quorum",
    ) -> AsyncIterator[PutOutcome]:
        """Put one record per value; the outcomes in the order of the values, those not reached among them."""
        target = f"/v1/keys/{segment(key)}{query({'ttl': ttl_s, 'own': own, 'acks': acks})}"
        async for item in self._lines("POST", target, _value_lines(values), shapes.NDJSON):
            yield shapes.put_of(msgspec.convert(item, shapes.PutLine))

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
        """The records of a key; nothing where it has none. Raises IncompleteError where the answer is incomplete."""
        values = {"name": name, "prefix": prefix, "limit": limit, "after": after, "reverse": reverse, "order": order}
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

    async def delete(self, key: Key, *, name: str | None = None) -> int:
        """Delete a record, or all records of the key; how many there were."""
        target = f"/v1/keys/{segment(key)}" + ("" if name is None else f"/{segment(name)}")
        return (await self._json("DELETE", target, shapes.Deleted)).deleted

    async def watch(self, key: Key, *, after: str | None = None) -> AsyncIterator[Record]:
        """Records as they arrive, without end."""
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
        source: Path | AsyncIterator[bytes],
        name: str | None = None,
        *,
        to: str = "",
        replicas: int | None = None,
        encrypt: bool = False,
        once: bool = False,
        acks: Acks = "quorum",
        progress: Progress | None = None,
    ) -> list[Transferred]:
        """Store a file or a whole folder, or a stream of bytes (which needs `name` and reports no progress)."""
        if isinstance(source, Path):
            path = _absolute(source)
            asked = shapes.UploadRequest(path, name, to, replicas, encrypt, once, acks)
            return await self._transfer("/v1/local/upload", asked, progress)
        full = "/".join(part for part in (to.rstrip("/"), name or "") if part)
        values: dict[str, Value] = {"replicas": replicas, "encrypt": encrypt, "once": once, "acks": acks}
        return [await self._json("PUT", file_target(full) + query(values), TransferOutcome, source)]

    async def download(
        self,
        name_or_link: str,
        target: Path,
        *,
        byte_range: tuple[int, int] | None = None,
        progress: Progress | None = None,
    ) -> list[Transferred]:
        """Fetch a file or folder to this machine. `byte_range`: first and last byte, both included."""
        asked = shapes.DownloadRequest(name_or_link, _absolute(target), byte_range)
        return await self._transfer("/v1/local/download", asked, progress)

    async def open_file(
        self, name_or_link: str, *, byte_range: tuple[int, int] | None = None
    ) -> tuple[FileInfo, AsyncIterator[bytes]]:
        """A file's description, and its content in blocks. Close the iterator where it is not read to its end."""
        blocks = self._open(name_or_link, byte_range)
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

    async def list_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        async for item in self._lines("GET", f"/v1/files{query({'prefix': prefix})}"):
            yield msgspec.convert(item, FileInfo)

    async def delete_file(self, name: str) -> int:
        return (await self._json("DELETE", file_target(name), shapes.Deleted)).deleted

    async def stat_file(self, name: str) -> FileStat:
        return await self._json("GET", f"/v1/stat/{segment(name)}", FileStat)

    # --- the peer ---
    async def status(self) -> Status:
        return await self._json("GET", "/v1/status", Status)

    async def peers(self) -> list[ContactInfo]:
        return await self._json("GET", "/v1/peers", list[ContactInfo])

    async def where(self, key: Key) -> list[ReplicaInfo]:
        return await self._json("GET", f"/v1/where/{segment(key)}", list[ReplicaInfo])

    async def trace(self, key: Key) -> LookupTrace:
        return await self._json("GET", f"/v1/trace/{segment(key)}", LookupTrace)

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
        self,
        method: str,
        target: str,
        body: Body = None,
        *,
        headers: Mapping[str, str] | None = None,
        problems: bool = True,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request. Raises the error that a problem stands for, and that of a broken connection."""
        if self._session is None:
            raise UnreachableError("the client is not open", "use `async with Client(...) as client`")
        url = URL(f"http://localhost{target}", encoded=True)
        try:
            async with self._session.request(method, url, data=body, headers=headers) as response:
                if problems and response.status >= 400:
                    raise shapes.error_of(shapes.decode(await response.read(), shapes.Problem))
                yield response
        except aiohttp.ClientConnectorError as error:
            raise UnreachableError(f"no peer runs in {self.socket.parent}", "start one with `p2pkv start`") from error
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

    async def _transfer(self, target: str, asked: object, progress: Progress | None) -> list[Transferred]:
        outcomes: list[Transferred] = []
        async for item in self._lines("POST", target, shapes.encode(asked), "application/json"):
            line = msgspec.convert(item, shapes.TransferLine)
            if line.progress and progress:
                progress(line.progress)
            outcomes += [outcome for outcome in (line.outcome, line.folder) if outcome]
        return outcomes


async def _value_lines(values: Iterable[bytes] | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    if isinstance(values, AsyncIterable):
        async for value in values:
            yield shapes.line(shapes.ValueLine(*shapes.text_or_base64(value)))
    else:
        for value in values:
            yield shapes.line(shapes.ValueLine(*shapes.text_or_base64(value)))


def _absolute(path: Path) -> str:
    """The peer's working directory is another."""
    return str(path.absolute())
