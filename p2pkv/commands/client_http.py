"""One HTTP request over a peer's socket, for the command line.

The standard library's client costs 36 ms to import (it brings mail parsing and TLS), more than everything else that
`p2pkv get` does. Here is what is needed of HTTP/1.1 towards our own gateway: one request a connection, bodies of known
length or in chunks. Knows nothing of keys, records or files.
"""

from __future__ import annotations

import io
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast

from p2pkv.errors import UnreachableError
from p2pkv.gateway import ways
from p2pkv.gateway.shapes import cut_off
from p2pkv.limits import HTTP_BLOCK_BYTES, HTTP_FIELD_BYTES_MAX, HTTP_RECORD_LINE_BYTES_MAX

_HEADERS_MAX = 100
Body = bytes | Iterable[bytes] | None


class Response:
    """An answer whose body is read as it comes. Closing it early cancels the request."""

    def __init__(self, connection: socket.socket, head: bool = False) -> None:
        self._connection = connection
        self._file = cast(io.BufferedReader, connection.makefile("rb", HTTP_BLOCK_BYTES))
        self._head = head
        self.status = self._read_status()
        while self.status == 100:
            self._read_headers()
            self.status = self._read_status()
        self.headers = self._read_headers()

    def close(self) -> None:
        self._file.close()
        self._connection.close()

    def _read_line(self) -> bytes:
        line = self._file.readline(HTTP_FIELD_BYTES_MAX)
        if not line.endswith(b"\n"):
            raise cut_off()
        return line.rstrip(b"\r\n")

    def _read_status(self) -> int:
        version, _, rest = self._read_line().partition(b" ")
        if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
            raise UnreachableError("what answers on the socket is no peer", "look at what runs in this home")
        return int(rest[:3])

    def _read_headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        for _ in range(_HEADERS_MAX):
            line = self._read_line()
            if not line:
                return headers
            name, _, value = line.partition(b":")
            headers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
        raise UnreachableError("the answer has too many headers")

    def blocks(self) -> Iterator[bytes]:
        """The body's bytes. Raises IncompleteError where the connection ends before the body does."""
        try:
            if self._head:
                return
            if self.headers.get("transfer-encoding", "").lower() == "chunked":
                yield from self._chunks()
            else:
                yield from self._exactly(int(self.headers.get("content-length", "0")))
        except OSError as error:
            raise cut_off() from error
        finally:
            self.close()

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self._read_line().split(b";")[0], 16):
            yield from self._exactly(size)
            self._read_line()
        self._read_line()

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            block = self._file.read1(min(size, HTTP_BLOCK_BYTES))
            if not block:
                raise cut_off()
            size -= len(block)
            yield block

    def lines(self) -> Iterator[bytes]:
        """The body's lines, without empty ones. A last line that has no end is left out: it was cut off."""
        rest = b""
        for block in self.blocks():
            *lines, rest = (rest + block).split(b"\n")
            if len(rest) > HTTP_RECORD_LINE_BYTES_MAX:
                raise cut_off()
            yield from filter(None, lines)

    def read(self) -> bytes:
        return b"".join(self.blocks())


def request(path: Path, method: str, target: str, body: Body, headers: Mapping[str, str]) -> Response:
    """Send a request to the peer's socket at `path`; the answer as far as its headers."""
    connection = ways.connect(path)
    try:
        _send(connection, method, target, body, {**headers, **ways.headers_for(path)})
        return Response(connection, method == "HEAD")
    except OSError as error:
        connection.close()
        raise cut_off() from error
    except BaseException:
        connection.close()
        raise


def _send(connection: socket.socket, method: str, target: str, body: Body, headers: Mapping[str, str]) -> None:
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if isinstance(body, bytes):
        lines.append(f"Content-Length: {len(body)}")
    elif body is not None:
        lines.append("Transfer-Encoding: chunked")
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    try:
        connection.sendall(head + body if isinstance(body, bytes) else head)
        if body is not None and not isinstance(body, bytes):
            _send_chunks(connection, body)
    except (BrokenPipeError, ConnectionResetError):
        return  # the peer answered before it had read all: the answer says why


def _send_chunks(connection: socket.socket, body: Iterable[bytes]) -> None:
    for block in body:
        if block:
            connection.sendall(b"%x\r\n%b\r\n" % (len(block), block))
    connection.sendall(b"0\r\n\r\n")
