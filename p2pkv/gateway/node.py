"""The endpoints of the peer itself: status, contacts, settings, maintenance, stop, metrics."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from p2pkv.gateway import shapes
from p2pkv.gateway.answers import json_answer
from p2pkv.gateway.routes import Call, Route
from p2pkv.outcomes import ContactInfo, Sighting, Status


async def status(call: Call) -> web.StreamResponse:
    return json_answer(await call.peer.status())


async def peers(call: Call) -> web.StreamResponse:
    return json_answer(await call.peer.peers())


async def seen_as(call: Call) -> web.StreamResponse:
    return json_answer(await call.peer.seen_as())


async def config(call: Call) -> web.StreamResponse:
    return json_answer(call.serving.config)


async def verify(call: Call) -> web.StreamResponse:
    return json_answer(await call.peer.verify())


async def repair(call: Call) -> web.StreamResponse:
    return json_answer(await call.peer.repair())


async def stop(call: Call) -> web.StreamResponse:
    """Ask the peer to stop; the answer is on its way before anything closes."""
    call.serving.request_stop()
    return json_answer(shapes.Stopping(True), 202)


async def metrics(call: Call) -> web.StreamResponse:
    return web.Response(body=await call.serving.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


ROUTES = (
    Route("GET", "/v1/status", "This peer at a glance", status, answer=Status),
    Route("GET", "/v1/peers", "Its contacts", peers, answer=list[ContactInfo]),
    Route("GET", "/v1/seen-as", "How its contacts see it", seen_as, answer=list[Sighting]),
    Route("GET", "/v1/config", "What it was started with", config, answer=dict[str, Any]),
    Route("POST", "/v1/verify", "Check stored bytes against their hashes", verify, answer=dict[str, Any]),
    Route("POST", "/v1/repair", "Bring replicas back to full count now", repair, answer=dict[str, Any]),
    Route("POST", "/v1/stop", "Leave gracefully", stop, answer=shapes.Stopping, status=202),
    Route("GET", "/metrics", "Prometheus metrics", metrics, media="text"),
)
