"""The endpoints of files: listing, content with ranges, upload, removal, health."""

from __future__ import annotations

import mimetypes
import re
from email.utils import formatdate
from urllib.parse import quote

from aiohttp import web

from p2pkv.gateway import bodies, shapes
from p2pkv.gateway.answers import bytes_answer, json_answer, lines_answer
from p2pkv.gateway.pipe import closing
from p2pkv.gateway.ports import ByteRange
from p2pkv.gateway.problems import UnsatisfiableError
from p2pkv.gateway.routes import Call, Param, Route
from p2pkv.outcomes import FileInfo, TransferOutcome

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


async def list_files(call: Call) -> web.StreamResponse:
    values = call.values
    return await lines_answer(call, call.peer.list_files(values["prefix"] or "", recursive=not values["flat"]))


async def get_file(call: Call) -> web.StreamResponse:
    """The content, or a range of it. The file is opened again for a range, since its size must be known first."""
    info, blocks = await call.peer.open_file(call.path)
    headers = _headers(info)
    async with closing(blocks):
        if _unchanged(call.request, info):
            return web.Response(status=304, headers=headers)
        part = _range(call.request, info)
        if part is None:
            return await bytes_answer(call, blocks, info.size, headers)
    return await _part(call, info, headers, part)


async def _part(call: Call, whole: FileInfo, headers: dict[str, str], part: ByteRange) -> web.StreamResponse:
    info, blocks = await call.peer.open_file(call.path, byte_range=part)
    async with closing(blocks):
        if info.hash != whole.hash:
            raise UnsatisfiableError("the file was replaced meanwhile", info.size)
        headers["Content-Range"] = f"bytes {part[0]}-{part[1]}/{info.size}"
        return await bytes_answer(call, blocks, part[1] - part[0] + 1, headers, 206)


async def head_file(call: Call) -> web.StreamResponse:
    info, blocks = await call.peer.open_file(call.path)
    async with closing(blocks):
        headers = _headers(info)
    if _unchanged(call.request, info):
        return web.Response(status=304, headers=headers)
    response = web.StreamResponse(headers={**headers, "Content-Length": str(info.size)})
    await response.prepare(call.request)
    return response


async def put_file(call: Call) -> web.StreamResponse:
    values = call.values
    outcome = await call.peer.upload(
        bodies.blocks(call.request),
        call.path,
        replicas=values["replicas"],
        erasure=values["erasure"],
        encrypt=values["encrypt"],
        once=values["once"],
        acks=values["acks"] or "quorum",
    )
    return json_answer(outcome, 201)


async def delete_file(call: Call) -> web.StreamResponse:
    values = call.values
    deleted = await call.peer.delete_file(call.path, recursive=values["recursive"], acks=values["acks"] or "quorum")
    return json_answer(shapes.Deleted(deleted))


async def stat_file(call: Call) -> web.StreamResponse:
    return json_answer(shapes.stat_shape(await call.peer.stat_file(call.path)))


def _headers(info: FileInfo) -> dict[str, str]:
    """What is known of a file. A stranger's page must not run with the rights of the dashboard: hence the sandbox."""
    name = info.name.rpartition("/")[2]
    guessed, encoding = mimetypes.guess_type(name)
    return {
        "Content-Type": guessed if guessed and not encoding else "application/octet-stream",
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-cache",
        "Accept-Ranges": "bytes",
        "ETag": f'"{info.hash}"',
        "Last-Modified": formatdate(max(info.mtime, 0), usegmt=True),
        shapes.FILE_HEADER: shapes.file_header(info),
    }


def _unchanged(request: web.Request, info: FileInfo) -> bool:
    tags = request.headers.get("If-None-Match")
    if tags is None:
        return False
    return tags.strip() == "*" or info.hash in {tag.strip().removeprefix("W/").strip('"') for tag in tags.split(",")}


def _range(request: web.Request, info: FileInfo) -> ByteRange | None:
    """The part asked for (RFC 9110, section 14). None: the whole, also where the header is none that we know."""
    header = request.headers.get("Range")
    matched = _RANGE.fullmatch(header.strip()) if header else None
    condition = request.headers.get("If-Range")
    if matched is None or (condition is not None and condition.strip('"') != info.hash):
        return None
    first, last = matched.groups()
    if (first and last and int(last) < int(first)) or not (first or last):
        return None
    start = int(first) if first else max(info.size - int(last), 0)
    end = min(int(last), info.size - 1) if first and last else info.size - 1
    if start > end:
        raise UnsatisfiableError(f"the file has {info.size} bytes", info.size)
    return start, end


_PUT = (
    Param("replicas", "count", "how many replicas; as many as the swarm keeps where not given"),
    Param("erasure", "text", "K/N: every chunk as N shards on N peers, any K of which bring it back"),
    Param("encrypt", "flag", "encrypt it; the key lies in the link"),
    Param("once", "flag", "refuse where the name exists"),
    Param("acks", "acks", "how many replicas must have each part durably"),
)
_DELETE = (
    Param("recursive", "flag", "also a folder, with all in it"),
    Param("acks", "acks", "how many replicas must have the deletion durably"),
)
FILE = "/v1/files/{path}"

ROUTES = (
    Route(
        "GET",
        "/v1/files",
        "Files and folders",
        list_files,
        (
            Param("prefix", "text", "only names that begin so"),
            Param("flat", "flag", "folders alone, not what is in them"),
        ),
        FileInfo,
        "lines",
    ),
    Route("GET", FILE, "A file's content", get_file, media="bytes"),
    Route("HEAD", FILE, "A file's headers", head_file, media="bytes"),
    Route("PUT", FILE, "Store a file", put_file, _PUT, TransferOutcome, status=201, body="bytes"),
    Route("DELETE", FILE, "Delete a file", delete_file, _DELETE, shapes.Deleted),
    Route("GET", "/v1/stat/{path}", "A file's manifest and health", stat_file, (), shapes.FileStatShape),
)
