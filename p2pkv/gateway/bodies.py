"""Request bodies: whole where they are short, in blocks where they are long, and never taken for whole when cut off."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeVar

import msgspec
from aiohttp import web

from p2pkv.errors import InvalidError
from p2pkv.gateway import shapes
from p2pkv.gateway.batches import Changes
from p2pkv.limits import (
    HTTP_BATCH_BYTES_MAX,
    HTTP_BLOCK_BYTES,
    HTTP_JSON_BYTES_MAX,
    HTTP_RECORD_LINE_BYTES_MAX,
    VALUE_IN_MEMORY_BYTES_MAX,
)
from p2pkv.outcomes import BatchChange

T = TypeVar("T")


async def blocks(request: web.Request) -> AsyncIterator[bytes]:
    """The body as it comes. Raises InvalidError where it ends before its length."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise InvalidError("a compressed body is not understood", "send it plain")
    received = 0
    try:
        async for block in request.content.iter_chunked(HTTP_BLOCK_BYTES):
            received += len(block)
            yield block
    except web.PayloadAccessError as error:
        raise InvalidError("the body was cut off") from error
    if request.content_length is not None and received != request.content_length:
        raise InvalidError(f"the body was cut off after {received} of {request.content_length} bytes")


async def whole(request: web.Request, bytes_max: int) -> bytes:
    """A short body. Raises InvalidError where it is longer than `bytes_max`."""
    parts, size = [], 0
    async for block in blocks(request):
        parts.append(block)
        size += len(block)
        if size > bytes_max:
            raise InvalidError(f"the body is longer than {bytes_max} bytes")
    return b"".join(parts)


async def json(request: web.Request, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(await whole(request, HTTP_JSON_BYTES_MAX), type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidError(f"the body makes no sense: {error}", "GET /openapi.json says what is wanted") from error


async def value(request: web.Request) -> bytes | AsyncIterator[bytes]:
    """One value: its bytes, or an iterator of them where they are too many to hold."""
    source = blocks(request)
    parts, size = [], 0
    async for block in source:
        parts.append(block)
        size += len(block)
        if size > VALUE_IN_MEMORY_BYTES_MAX:
            return _chained(parts, source)
    return b"".join(parts)


async def _chained(parts: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    while parts:
        yield parts.pop(0)
    async for block in rest:
        yield block


async def values(request: web.Request) -> AsyncIterator[bytes]:
    """Many values, a JSON object each line.

    A body of known moderate length is read whole first: then a client that sends all before it reads cannot wait for us
    while we wait for it.
    """
    source: AsyncIterator[bytes] = blocks(request)
    if request.content_length is not None and request.content_length <= HTTP_BATCH_BYTES_MAX:
        source = _one(await whole(request, HTTP_BATCH_BYTES_MAX))
    number = 0
    async for line in _lines(source):
        number += 1
        if line.strip():
            yield _value(line, number)


async def changes(request: web.Request) -> list[BatchChange]:
    """An atomic batch, a JSON object each line."""
    found = Changes()
    async for line in _lines(blocks(request)):
        found.add(line)
    return found.all


async def _one(block: bytes) -> AsyncIterator[bytes]:
    yield block


async def _lines(source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    parts: list[bytes] = []  # of the line that has no end yet: joined once, however many blocks it has
    size = 0
    async for block in source:
        head, *others = block.split(b"\n")
        parts.append(head)
        size += len(head)
        if size > HTTP_RECORD_LINE_BYTES_MAX:
            raise InvalidError("a line is too long", "put such a value by itself, as the whole body")
        for other in others:
            yield b"".join(parts)
            parts, size = [other], len(other)
    yield b"".join(parts)


def _value(line: bytes, number: int) -> bytes:
    try:
        shape = msgspec.json.decode(line, type=shapes.ValueLine)
        return shapes.bytes_of(shape.value, shape.value_base64)
    except ValueError as error:  # msgspec's errors are such, too
        raise InvalidError(f"line {number}: {error}", _MEND_LINE) from error


_MEND_LINE = 'a line is {"value": "..."} or {"value_base64": "..."}'
