"""The description of the interface as OpenAPI 3.1, made from the table of routes and the types of the answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from p2pkv.gateway import shapes
from p2pkv.gateway.answers import json_answer
from p2pkv.gateway.batches import ChangeLine
from p2pkv.gateway.routes import Call, Kind, Param, Route
from p2pkv.version import VERSION

_SCHEMAS: dict[Kind, dict[str, Any]] = {
    "text": {"type": "string"},
    "bytes": {"type": "string", "description": "percent-encoded bytes"},
    "count": {"type": "integer", "minimum": 0},
    "seconds": {"type": "number", "minimum": 0},
    "flag": {"type": "string", "enum": ["0", "1", "false", "true"]},
    "acks": {"type": "string", "enum": ["1", "quorum", "all"]},
    "order": {"type": "string", "enum": ["time", "name"]},
}
_MEDIA = {
    "json": "application/json",
    "lines": shapes.NDJSON,
    "bytes": "application/octet-stream",
    "text": "text/plain",
    "events": "text/event-stream",
}
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_BYTES = {"schema": {"type": "string", "format": "binary"}}


def describe(routes: Sequence[Route]) -> dict[str, Any]:
    """The whole document."""
    types = [shapes.Problem, shapes.End, shapes.ValueLine, ChangeLine, *_types(routes)]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    refs = {repr(type_): schema for type_, schema in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, refs)
    return {
        "openapi": "3.1.0",
        "info": {"title": "p2pkv", "version": VERSION, "description": "A running peer's HTTP interface."},
        "security": [{"token": []}, {}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "<home>/http.token"}},
        },
    }


def _types(routes: Sequence[Route]) -> list[Any]:
    bodies = [route.body for route in routes if route.body is not None and not isinstance(route.body, str)]
    return [*(route.answer for route in routes if route.answer is not None), *bodies]


def _operation(route: Route, refs: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": route.handler.__name__,
        "parameters": [
            *({"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in _names(route)),
            *(_parameter(param) for param in route.params),
        ],
        "responses": {
            str(route.status): {"description": "done", "content": _content(route, refs)},
            "default": {
                "description": "a problem",
                "content": {shapes.PROBLEM: {"schema": refs[repr(shapes.Problem)]}},
            },
        },
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": _body(route, refs)}
    if route.local:
        operation["description"] = "On the Unix socket alone."
    if route.public:
        operation["security"] = [{}]
    return operation


def _names(route: Route) -> list[str]:
    return _PLACEHOLDER.findall(route.path)


def _parameter(param: Param) -> dict[str, Any]:
    return {"name": param.name, "in": "query", "description": param.about, "schema": _SCHEMAS[param.kind]}


def _content(route: Route, refs: dict[str, Any]) -> dict[str, Any]:
    if route.answer is None:
        return {_MEDIA[route.media]: _BYTES if route.media == "bytes" else {"schema": {"type": "string"}}}
    schema = refs[repr(route.answer)]
    if route.media == "lines":
        schema = {"oneOf": [schema, refs[repr(shapes.End)]], "description": "each line; the last one is an End"}
    return {_MEDIA[route.media]: {"schema": schema}}


def _body(route: Route, refs: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(route.body, str):
        return {"application/json": {"schema": refs[repr(route.body)]}}
    if route.body == "changes":
        return {shapes.NDJSON: {"schema": refs[repr(ChangeLine)]}}
    many = {shapes.NDJSON: {"schema": refs[repr(shapes.ValueLine)]}} if route.body == "value" else {}
    return {"application/octet-stream": _BYTES, **many}


async def openapi(call: Call) -> web.StreamResponse:
    return json_answer(describe(call.serving.routes))


ROUTES = (Route("GET", "/openapi.json", "This description", openapi, answer=dict[str, Any]),)
