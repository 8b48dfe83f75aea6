"""Answers: one JSON object, a stream of lines with its end, or bytes. Each says how it ended, or is visibly cut off."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TypeVar

from aiohttp import web

from p2pkv.gateway import shapes
from p2pkv.gateway.pipe import Pipe, closing
from p2pkv.gateway.problems import explained
from p2pkv.gateway.routes import Call
from p2pkv.limits import HTTP_HEARTBEAT_S

T = TypeVar("T")
log = logging.getLogger("p2pkv.gateway")
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def json_answer(shape: object, status: int = 200) -> web.Response:
    return web.Response(body=shapes.encode(shape), status=status, content_type="application/json", headers=_HEADERS)


async def lines_answer(
    call: Call,
    items: AsyncIterator[T],
    shape: Callable[[T], object] = lambda item: item,
    *,
    endless: bool = False,
) -> web.StreamResponse:
    """A stream of lines and its end. An error before the first line is a plain problem, except of an endless stream."""
    async with Pipe() as pipe:
        pipe.fill(_encoded(items, shape))
        with call.serving.ended_at_stop(pipe):
            if not endless:
                await pipe.filled()
                if pipe.error and not pipe.count:
                    raise pipe.error
            response = await begin(call, shapes.NDJSON)
            await drain(pipe, response, b"\n")
            await response.write(shapes.line(_end(pipe)))
    await response.write_eof()
    return response


async def _encoded(items: AsyncIterator[T], shape: Callable[[T], object]) -> AsyncIterator[bytes]:
    async with closing(items):
        async for item in items:
            yield shapes.line(shape(item))


async def begin(call: Call, content_type: str) -> web.StreamResponse:
    """The head of a stream."""
    response = web.StreamResponse(headers={**_HEADERS, "Content-Type": content_type})
    await response.prepare(call.request)
    return response


async def drain(pipe: Pipe, response: web.StreamResponse, heartbeat: bytes) -> None:
    """Send what comes until the end."""
    while (block := await pipe.take(HTTP_HEARTBEAT_S)) is not None:
        await response.write(block or heartbeat)


def _end(pipe: Pipe) -> shapes.End:
    if pipe.error is None:
        return shapes.End(True, pipe.count)
    error = explained(pipe.error)
    return shapes.End(False, pipe.count, str(error), shapes.problem_of(error))


async def bytes_answer(
    call: Call, blocks: AsyncIterator[bytes], size: int, headers: Mapping[str, str], status: int = 200
) -> web.StreamResponse:
    """Exactly `size` bytes. Where they fail to come, the connection ends before the promised length."""
    response = web.StreamResponse(status=status, headers={**_HEADERS, **headers, "Content-Length": str(size)})
    async with closing(blocks) as source:
        block = await anext(source, b"")  # an error before the first byte is a plain problem
        await response.prepare(call.request)
        try:
            sent = len(block)
            await response.write(block)
            async for block in source:
                sent += len(block)
                await response.write(block)
            if sent != size:
                raise ConnectionError(f"{sent} bytes came of {size}")
        except Exception as error:
            abort(call, error)
            return response
    await response.write_eof()
    return response


def abort(call: Call, error: Exception) -> None:
    """Cut the connection: the status is sent already, and the receiver must see that the body is not whole."""
    log.warning("%s %s broke off: %s", call.route.method, call.route.path, error)
    if call.request.transport is not None:
        call.request.transport.abort()
