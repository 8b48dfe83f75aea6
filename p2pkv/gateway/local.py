"""Uploads and downloads of this machine's own files. Served on the Unix socket alone: whoever may open it is the owner
of the peer, and may have it read and write what the peer may. Closing the connection cancels the transfer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from p2pkv.errors import InvalidError
from p2pkv.gateway import bodies, shapes
from p2pkv.gateway.answers import lines_answer
from p2pkv.gateway.ports import Progress
from p2pkv.gateway.routes import Call, Route
from p2pkv.limits import HTTP_PROGRESS_QUEUED_MAX
from p2pkv.outcomes import TransferOutcome, TransferProgress

Transfer = Callable[[Progress], Awaitable[TransferOutcome]]


async def upload(call: Call) -> web.StreamResponse:
    asked = await bodies.json(call.request, shapes.UploadRequest)
    source = _absolute(asked.path)

    async def transfer(progress: Progress) -> TransferOutcome:
        return await call.peer.upload(
            source,
            asked.name,
            to=asked.to,
            replicas=asked.replicas,
            erasure=asked.erasure,
            encrypt=asked.encrypt,
            once=asked.once,
            acks=asked.acks,
            progress=progress,
        )

    return await lines_answer(call, _lines(transfer))


async def download(call: Call) -> web.StreamResponse:
    asked = await bodies.json(call.request, shapes.DownloadRequest)
    target = _absolute(asked.target)

    async def transfer(progress: Progress) -> TransferOutcome:
        return await call.peer.download(asked.name, target, byte_range=asked.range, progress=progress)

    return await lines_answer(call, _lines(transfer))


def _absolute(path: str) -> Path:
    """The peer's working directory is not the caller's, so a relative path has no meaning here."""
    if not path.startswith("/") and not Path(path).is_absolute():
        raise InvalidError(f"{path!r} is no absolute path", "send absolute paths")
    if "\0" in path:
        raise InvalidError("a path cannot hold a zero byte")
    return Path(path)


async def _lines(transfer: Transfer) -> AsyncIterator[shapes.TransferLine]:
    """Progress while it runs (of a reader that is too slow, the oldest is dropped), then the outcome."""
    steps: deque[TransferProgress] = deque(maxlen=HTTP_PROGRESS_QUEUED_MAX)
    changed = asyncio.Event()

    def progress(step: TransferProgress) -> None:
        steps.append(step)
        changed.set()

    task = asyncio.ensure_future(transfer(progress))
    task.add_done_callback(lambda _: changed.set())
    try:
        while not task.done() or steps:
            await changed.wait()
            changed.clear()
            while steps:
                yield shapes.TransferLine(progress=steps.popleft())
        yield shapes.TransferLine(outcome=task.result())
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task


ROUTES = (
    Route(
        "POST",
        "/v1/local/upload",
        "Store a file or folder of this machine",
        upload,
        answer=shapes.TransferLine,
        media="lines",
        body=shapes.UploadRequest,
        local=True,
    ),
    Route(
        "POST",
        "/v1/local/download",
        "Fetch a file or folder to this machine",
        download,
        answer=shapes.TransferLine,
        media="lines",
        body=shapes.DownloadRequest,
        local=True,
    ),
)
