"""Server-sent events: what happens in the peer, and of its state only what changed."""

from __future__ import annotations

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from p2pkv.gateway.events import contact_state, contacts_difference, difference, frame, status_state
from p2pkv.outcomes import ContactInfo
from tests.gateway.fake_peer import NODE, FakePeer


async def next_event(response):
    fields = {}
    while True:
        line = (await response.content.readline()).decode().rstrip("\n")
        if not line and fields:
            return fields["event"], json.loads(fields["data"])
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value


async def test_happenings_reach_the_reader(tcp, peer):
    async with tcp("GET", "/v1/events") as response:
        assert response.content_type == "text/event-stream"
        peer.queue.put_nowait({"event": "put", "key": "a\nb"})
        assert await next_event(response) == ("peer", {"event": "put", "key": "a\nb"})


async def test_state_comes_whole_once_and_then_only_what_changed(unix, peer, monkeypatch):
    monkeypatch.setattr("p2pkv.gateway.events.HTTP_EVENTS_PERIOD_S", 0.01)
    async with unix("GET", "/v1/events?state=1") as response:
        kind, status = await next_event(response)
        assert (kind, status["node"], status["counters"]) == ("status", NODE, {"rpc.requests": 7})
        assert "uptime_s" not in status
        kind, peers = await next_event(response)
        assert (kind, peers["gone"], [contact["node"] for contact in peers["changed"]]) == ("peers", [], [NODE])
        peer.counters["rpc.requests"] = 8
        assert await next_event(response) == ("status", {"counters": {"rpc.requests": 8}})
        peer.contacts = []
        assert await next_event(response) == ("status", {"contacts": 0})
        assert await next_event(response) == ("peers", {"changed": [], "gone": [NODE]})


async def test_the_stream_ends_when_the_peer_stops(unix, gateway):
    async with unix("GET", "/v1/events") as response:
        await gateway.stop()
        assert (await response.content.read()).startswith(b":")


async def test_time_passing_is_no_change():
    contact = ContactInfo(NODE, "127.0.0.1:1", "p2pkv", 1.5, 10.0, 1.0, 0)
    later = msgspec.structs.replace(contact, age_s=70.4, idle_s=61.4)
    before, after = contact_state(contact, 1000.0), contact_state(later, 1060.0)
    assert contacts_difference({NODE: before}, {NODE: after}) == {}
    status = await FakePeer().status()
    assert (
        difference(status_state(status, 100.0), status_state(msgspec.structs.replace(status, uptime_s=72.9), 160.0))
        == {}
    )


plain = st.one_of(st.none(), st.integers(), st.text())
states = st.dictionaries(st.sampled_from("abcd"), st.one_of(plain, st.dictionaries(st.sampled_from("xyz"), plain)))


@given(states, states)
def test_old_state_and_difference_make_the_new_state(old, new):
    """As the dashboard applies it, one level into objects. Fields never vanish from a status."""
    rebuilt = dict(old)
    for name, value in difference(old, new).items():
        both = isinstance(value, dict) and isinstance(rebuilt.get(name), dict)
        rebuilt[name] = {**rebuilt[name], **value} if both else value
    for name, value in new.items():
        got = rebuilt[name]
        if isinstance(value, dict):
            got = {key: item for key, item in got.items() if key in value}
        assert got == value


@given(st.text(), st.text())
def test_an_event_is_always_one_frame(kind, text):
    lines = frame(kind, {"text": text}).decode().split("\n")
    assert len(lines) == 4
    assert json.loads(lines[1].removeprefix("data: ")) == {"text": text}
