"""The endpoints of keys and records."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from p2pkv.errors import InvalidError, NotFoundError
from p2pkv.gateway import bodies, shapes
from p2pkv.gateway.answers import bytes_answer, json_answer, lines_answer
from p2pkv.gateway.batches import BatchShape, batch_shape
from p2pkv.gateway.pipe import closing
from p2pkv.gateway.routes import Call, Param, Route
from p2pkv.outcomes import Acks, LookupTrace, Record, ReplicaInfo


async def list_keys(call: Call) -> web.StreamResponse:
    keys = call.peer.keys(call.values["prefix"] or b"")
    return await lines_answer(call, keys, lambda pair: shapes.key_line(*pair))


async def get_records(call: Call) -> web.StreamResponse:
    values = call.values
    records = call.peer.get(
        call.key,
        name=values["name"],
        prefix=values["prefix"] or "",
        limit=values["limit"],
        after=values["after"] or None,
        reverse=values["reverse"],
        order=values["order"] or "time",
        since_s=values["since"],
        until_s=values["until"],
    )
    return await lines_answer(call, records, shapes.record_line)


async def watch(call: Call) -> web.StreamResponse:
    records = call.peer.watch(call.key, after=call.values["after"] or None)
    return await lines_answer(call, records, shapes.record_line, endless=True)


async def post_records(call: Call) -> web.StreamResponse:
    if call.request.content_type == shapes.NDJSON:
        return await _put_many(call)
    return await _put(call, call.values["name"], call.values["if_version"])


async def put_record(call: Call) -> web.StreamResponse:
    match = call.request.headers.get("If-Match", "").strip().strip('"')
    return await _put(call, call.name, call.values["if_version"] or match or None)


async def _put(call: Call, name: str | None, if_version: str | None) -> web.StreamResponse:
    values = call.values
    outcome = await call.peer.put(
        call.key,
        await bodies.value(call.request),
        name=name,
        once=values["once"],
        own=values["own"],
        if_version=if_version,
        ttl_s=values["ttl"],
        acks=values["acks"] or "quorum",
    )
    return json_answer(shapes.put_line(outcome), 201)


async def _put_many(call: Call) -> web.StreamResponse:
    values = call.values
    for name in ("name", "once", "if_version"):
        if values[name]:
            raise InvalidError(f"parameter {name!r} goes with one record, not with many")
    outcomes = call.peer.put_many(
        call.key, bodies.values(call.request), ttl_s=values["ttl"], own=values["own"], acks=values["acks"] or "quorum"
    )
    return await lines_answer(call, outcomes, shapes.put_line)


async def put_batch(call: Call) -> web.StreamResponse:
    changes = await bodies.changes(call.request)
    outcome = await call.peer.put_batch(changes, acks=call.values["acks"] or "quorum")
    return json_answer(batch_shape(outcome), 201)


async def delete_key(call: Call) -> web.StreamResponse:
    return json_answer(shapes.Deleted(await call.peer.delete(call.key, acks=call.values["acks"] or "quorum")))


async def delete_record(call: Call) -> web.StreamResponse:
    acks: Acks = call.values["acks"] or "quorum"
    return json_answer(shapes.Deleted(await call.peer.delete(call.key, name=call.name, acks=acks)))


async def get_record(call: Call) -> web.StreamResponse:
    record = await _find(call)
    headers = {"ETag": f'"{record.version}"'}
    if record.version in _etags(call.request.headers.get("If-None-Match", "")):
        return web.Response(status=304, headers=headers)
    if call.values["raw"]:
        headers |= {"Content-Type": "application/octet-stream", "Content-Security-Policy": "sandbox"}
        return await bytes_answer(call, call.peer.stream(call.key, record), record.size, headers)
    response = json_answer(shapes.record_line(record))
    response.headers.update(headers)
    return response


async def _find(call: Call) -> Record:
    """The record of that name, and of the version where one is asked for. A shared one comes before an owned one."""
    wanted = call.values["version"]
    async with closing(call.peer.get(call.key, name=call.name)) as records:
        async for record in records:
            if not wanted or record.version == wanted:
                return record
    detail = f"no record {call.name!r} under the key" + (" has that version" if wanted else "")
    raise NotFoundError(detail, "it was replaced or deleted meanwhile; get it again" if wanted else "")


def _etags(header: str) -> set[str]:
    return {tag.strip().removeprefix("W/").strip('"') for tag in header.split(",")}


async def count(call: Call) -> web.StreamResponse:
    return json_answer(shapes.Count(await call.peer.count(call.key, prefix=call.values["prefix"] or "")))


async def where(call: Call) -> web.StreamResponse:
    return json_answer(await call.peer.where(call.key))


async def trace(call: Call) -> web.StreamResponse:
    return json_answer(await call.peer.trace(call.key))


_PREFIX = Param("prefix", "text", "only records whose name begins so")
_AFTER = Param("after", "text", "only records behind this cursor")
_VERSION = Param("if_version", "text", "compare-and-set: only where this version stands")
_PUT = (
    Param("once", "flag", "write-once: refuse where the name exists, and for ever after"),
    Param("own", "flag", "only its author may replace or delete it"),
    _VERSION,
    Param("ttl", "seconds", "how long the record lives"),
    Param("acks", "acks", "how many replicas must have it durably"),
)
_DELETE = (Param("acks", "acks", "how many replicas must have the deletion durably"),)
_BATCH = (Param("acks", "acks", "how many replicas must have each record durably: quorum or all"),)
_GET = (
    Param("name", "text", "only the record of this name"),
    _PREFIX,
    Param("limit", "count", "at most so many"),
    _AFTER,
    Param("reverse", "flag", "newest first"),
    Param("order", "order", "by time or by name"),
    Param("since", "seconds", "only records put from then on, in seconds since 1970"),
    Param("until", "seconds", "only records put before then"),
)
_GET_ONE = (
    Param("raw", "flag", "the value's bytes"),
    Param("version", "text", "this version alone"),
)
_NAME = Param("name", "text", "the record's name; without one, a unique name that sorts by time")
_LINES: dict[str, Any] = {"media": "lines"}
KEY, RECORD = "/v1/keys/{key}", "/v1/keys/{key}/{name}"

ROUTES = (
    Route(
        "GET",
        "/v1/keys",
        "Keys that this peer holds",
        list_keys,
        (Param("prefix", "bytes", "only keys that begin so"),),
        shapes.KeyLine,
        **_LINES,
    ),
    Route("GET", KEY, "The records of a key", get_records, _GET, shapes.RecordLine, **_LINES),
    Route("POST", KEY, "Put a record, or many", post_records, (_NAME, *_PUT), shapes.PutLine, status=201, body="value"),
    Route("DELETE", KEY, "Delete all records of a key", delete_key, _DELETE, shapes.Deleted),
    Route("GET", RECORD, "One record", get_record, _GET_ONE, shapes.RecordLine),
    Route("PUT", RECORD, "Put a record under a name", put_record, _PUT, shapes.PutLine, status=201, body="bytes"),
    Route("DELETE", RECORD, "Delete a record", delete_record, _DELETE, shapes.Deleted),
    Route(
        "POST",
        "/v1/batch",
        "Put and delete records of several keys, all of them or none",
        put_batch,
        _BATCH,
        BatchShape,
        status=201,
        body="changes",
    ),
    Route("GET", "/v1/count/{key}", "The number of records of a key", count, (_PREFIX,), shapes.Count),
    Route("GET", "/v1/watch/{key}", "Records as they arrive", watch, (_AFTER,), shapes.RecordLine, **_LINES),
    Route("GET", "/v1/where/{key}", "Who holds a key", where, (), list[ReplicaInfo]),
    Route("GET", "/v1/trace/{key}", "How a lookup ran, hop by hop", trace, (), LookupTrace),
)
