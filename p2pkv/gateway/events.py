"""Server-sent events: what happens in the peer, and for the dashboard what changed in its state, never all again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
from aiohttp import web

from p2pkv.gateway.answers import begin, drain
from p2pkv.gateway.pipe import Pipe, closing
from p2pkv.gateway.ports import PeerLike
from p2pkv.gateway.routes import Call, Param, Route
from p2pkv.gateway.shapes import encode
from p2pkv.limits import HTTP_EVENTS_PERIOD_S
from p2pkv.outcomes import ContactInfo, Status

State = dict[str, Any]


async def events(call: Call) -> web.StreamResponse:
    """Both sources fill one pipe; the stream ends when the peer stops or the reader goes."""
    async with Pipe() as pipe:
        pipe.fill(_happenings(call.peer.events()))  # listened to from now, before the answer begins
        if call.values["state"]:
            pipe.fill(_changes(call.peer))
        with call.serving.ended_at_stop(pipe):
            response = await begin(call, "text/event-stream")
            await response.write(b": p2pkv\n\n")
            await drain(pipe, response, b": alive\n\n")
    await response.write_eof()
    return response


def frame(kind: str, data: object) -> bytes:
    """One event. JSON holds no line end, so one data line is enough."""
    name = "".join(char for char in kind if char.isprintable())
    return b"event: %b\ndata: %b\n\n" % (name.encode(), encode(data))


async def _happenings(happening: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    async with closing(happening) as source:
        async for event in source:
            yield frame("peer", event)


async def _changes(peer: PeerLike) -> AsyncIterator[bytes]:
    """The whole state first, then what differs, looked at once a period."""
    status: State = {}
    contacts: dict[str, State] = {}
    while True:
        now_s = time.time()
        status_now = status_state(await peer.status(), now_s)
        contacts_now = {contact.node: contact_state(contact, now_s) for contact in await peer.peers()}
        if changed := difference(status, status_now):
            yield frame("status", changed)
        if moved := contacts_difference(contacts, contacts_now):
            yield frame("peers", moved)
        status, contacts = status_now, contacts_now
        await asyncio.sleep(HTTP_EVENTS_PERIOD_S)


def status_state(status: Status, now_s: float) -> State:
    """A status in which nothing changes by itself: a starting time in place of an age."""
    state: State = msgspec.to_builtins(status)
    state["started"] = round(now_s - state.pop("uptime_s"))
    return state


def contact_state(contact: ContactInfo, now_s: float) -> State:
    state: State = msgspec.to_builtins(contact)
    state["first_seen"] = round(now_s - state.pop("age_s"))
    state["last_seen"] = round(now_s - state.pop("idle_s"))
    if contact.rtt_ms is not None:
        state["rtt_ms"] = round(contact.rtt_ms, 1)
    return state


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> State:
    """The fields of `new` that `old` has not, one level into objects. A time that jitters by a second is the same."""
    changed: State = {}
    for name, value in new.items():
        before = old.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            value = {key: item for key, item in value.items() if key not in before or before[key] != item}  # noqa: PLW2901
            if value:
                changed[name] = value
        elif name not in old or (before != value and not (name in _TIMES and abs(value - before) <= 1)):
            changed[name] = value
    return changed


_TIMES = frozenset({"started", "first_seen", "last_seen"})


def contacts_difference(old: Mapping[str, State], new: Mapping[str, State]) -> State:
    changed = [state for node, state in new.items() if difference(old.get(node, {}), state)]
    gone = [node for node in old if node not in new]
    return {"changed": changed, "gone": gone} if changed or gone else {}


ROUTES = (
    Route(
        "GET",
        "/v1/events",
        "What happens in the peer",
        events,
        (Param("state", "flag", "also the peer's state: whole first, then what changes"),),
        media="events",
    ),
)
