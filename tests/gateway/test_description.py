"""The interface describes itself, its page of documentation misses nothing, and its metrics can be read."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from p2pkv.gateway import shapes
from p2pkv.gateway.http import ROUTES
from p2pkv.gateway.targets import parse_query, query, segment
from p2pkv.outcomes import PutOutcome, Record, ReplicaFailure

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = (ROOT / "docs" / "http.md").read_text()
STATIC = ROOT / "p2pkv" / "gateway" / "static"


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_and_parameter_is_documented(route):
    path = route.path.replace("{name}", "{file}") if route.public else route.path
    lines = [line for line in DOCUMENT.splitlines() if line.startswith("|") and f"`{route.method} {path}`" in line]
    assert lines, f"{route.method} {route.path} is not in docs/http.md"
    for param in route.params:
        assert any(f"{param.name}=" in line for line in lines), param.name


async def test_openapi_describes_every_route(tcp):
    _, document = await tcp.json("GET", "/openapi.json")
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert described == {(route.method, route.path) for route in ROUTES}
    references = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert references <= set(document["components"]["schemas"])
    names = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(names) == len(set(names))


async def test_metrics_can_be_read(tcp, peer):
    await tcp.json("POST", "/v1/keys/k", data=b"x")
    async with tcp("GET", "/metrics") as response:
        families = {family.name: family for family in text_string_to_metric_families(await response.text())}
    assert families["p2pkv_records"].samples[0].value == 1
    assert families["p2pkv_rpc_requests"].samples[0].value == 7
    labels = {"method": "POST", "route": "/v1/keys/{key}", "status": "201"}
    assert any(sample.labels == labels and sample.value == 1 for sample in families["p2pkv_http_requests"].samples)


async def test_the_dashboard_is_served_and_needs_nothing_from_elsewhere(unix):
    for file in STATIC.iterdir():
        text = file.read_text()
        assert not re.search(r"(src|href|url|import|fetch)\W{1,3}(https?:)?//", text), file.name
        if file.suffix != ".html":
            async with unix("GET", f"/static/{file.name}") as response:
                assert (response.status, await response.text()) == (200, text)
    assert (await unix.json("GET", "/static/..%2Fhttp.py"))[0] == 404
    page = await (await unix("GET", "/")).text()
    assert "<script>" not in page and "onclick=" not in page and "style=" not in page


@given(st.binary(min_size=1))
def test_segments_and_queries_carry_any_bytes(data):
    assert segment(data).strip(".")
    assert "/" not in segment(data)
    assert parse_query(query({"prefix": data}).removeprefix("?")) == [("prefix", data)]
    assert parse_query("a=" + quote_from_bytes(data, safe=""))[0][1] == data


@given(st.binary(), st.text(), st.booleans())
def test_records_survive_json(value, name, own):
    record = Record(name, value, len(value), "ab", 1.5, "v", "c", None, own)
    assert shapes.record_of(shapes.decode(shapes.encode(shapes.record_line(record)), shapes.RecordLine)) == record


def test_outcomes_survive_json():
    outcome = PutOutcome("n", "v", 8, 3, 5, [ReplicaFailure("aa", "h:1", "silent")])
    line = shapes.decode(shapes.encode(shapes.put_line(outcome)), shapes.PutLine)
    assert (shapes.put_of(line), line.reached) == (outcome, False)
