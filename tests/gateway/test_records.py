"""Keys and records over HTTP: any bytes go in and come out, and no broken answer looks whole."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import quote_from_bytes

import aiohttp
import pytest

from p2pkv.errors import UnreachableError
from tests.gateway.conftest import until

HARD_KEYS = [b"a/b", b"a\x00b", b"\xff\xfe", b"..", b".", b"%2F", b"a b+c", b"?x=1#y", b"{key}", "ключ".encode(), b"\n"]


@pytest.mark.parametrize("key", HARD_KEYS)
@pytest.mark.parametrize("where", ["unix", "tcp"])
async def test_any_key_round_trips(key, where, peer, unix, tcp):
    http = {"unix": unix, "tcp": tcp}[where]
    target = "/v1/keys/" + (quote_from_bytes(key, safe="") if key.strip(b".") else key.decode().replace(".", "%2E"))
    status, outcome = await http.json("POST", target, data=b"21.4")
    assert (status, outcome["reached"], outcome["stored"]) == (201, True, 8)
    assert list(peer.records) == [key]
    records = await http.lines("GET", target)
    assert [record.get("value") for record in records] == ["21.4", None]
    assert records[-1] == {"complete": True, "count": 1}


async def test_a_slash_that_is_not_encoded_separates_key_and_name(unix, peer):
    await unix.json("PUT", "/v1/keys/a/b%2Fc", data=b"x")
    assert [record.name for record in peer.records[b"a"]] == ["b/c"]


async def test_values_that_are_no_text_come_in_base64(unix):
    await unix.json("POST", "/v1/keys/k", data=b"\xff\x00")
    record = (await unix.lines("GET", "/v1/keys/k"))[0]
    assert record["value_base64"] == "/wA="
    assert "value" not in record


async def test_parameters_reach_the_peer(unix, peer):
    query = "?name=n&once=1&own=true&if_version=v7&ttl=1.5&acks=all"
    await unix.json("POST", "/v1/keys/k" + query, data=b"x")
    wanted = {"name": "n", "once": True, "own": True, "if_version": "v7", "ttl_s": 1.5, "acks": "all"}
    assert peer.calls == [("put", wanted)]


@pytest.mark.parametrize(
    "target",
    [
        "?limit=x",
        "?limit=-1",
        "?reverse=maybe",
        "?limt=1",
        "?limit=1&limit=2",
        "?order=size",
        "?after=%FF",
        "?limit=1e9",
    ],
)
async def test_malformed_parameters_are_problems(unix, target):
    status, problem = await unix.json("GET", "/v1/keys/k" + target)
    assert (status, problem["type"], problem["exit_code"]) == (400, "invalid", 2)
    assert problem["detail"]


async def test_paging(unix):
    for number in range(5):
        await unix.json("POST", "/v1/keys/k", data=str(number).encode())
    first = await unix.lines("GET", "/v1/keys/k?limit=2")
    rest = await unix.lines("GET", f"/v1/keys/k?after={first[1]['cursor']}")
    assert [record["value"] for record in first[:-1] + rest[:-1]] == list("01234")
    backwards = await unix.lines("GET", "/v1/keys/k?reverse=1&limit=1")
    assert backwards[0]["value"] == "4"


async def test_an_absent_key_is_an_empty_complete_answer(unix):
    assert await unix.lines("GET", "/v1/keys/nothing") == [{"complete": True, "count": 0}]


async def test_an_incomplete_answer_says_so_at_its_end(unix, peer):
    for _ in range(3):
        await unix.json("POST", "/v1/keys/k", data=b"x")
    peer.fail_after = 2
    *records, end = await unix.lines("GET", "/v1/keys/k")
    assert len(records) == 2
    assert (end["complete"], end["count"], end["reason"]) == (False, 2, "page 3 is silent")
    assert end["problem"] | {"type": "incomplete", "exit_code": 5, "mend": "try again"} == end["problem"]


async def test_a_failure_before_the_first_record_is_a_plain_problem(unix, peer):
    peer.fail_after, peer.fail_with = 0, UnreachableError("nobody answers")
    assert (await unix.json("GET", "/v1/keys/k"))[0] == 502


async def test_an_unexpected_failure_shows_no_traceback(unix, peer, caplog):
    peer.fail_after, peer.fail_with = 0, RuntimeError("secret detail")
    status, problem = await unix.json("GET", "/v1/keys/k")
    assert (status, problem["type"]) == (500, "failed")
    assert "secret" not in json.dumps(problem)
    assert "secret detail" in caplog.text


async def test_too_few_acknowledgements_are_a_problem_with_the_outcome(unix, peer):
    peer.stored = 2
    status, problem = await unix.json("POST", "/v1/keys/k", data=b"x")
    assert (status, problem["type"], problem["exit_code"]) == (503, "incomplete", 5)
    assert (problem["outcome"]["stored"], problem["outcome"]["needed"]) == (2, 5)
    assert problem["outcome"]["failures"][0]["reason"] == "silent"


async def test_write_once_refuses_and_names_what_stands(unix):
    await unix.json("PUT", "/v1/keys/k/n?once=1", data=b"x")
    status, problem = await unix.json("PUT", "/v1/keys/k/n?once=1", data=b"y")
    assert (status, problem["type"], problem["current"], problem["exit_code"]) == (409, "refused", "v0", 4)


async def test_named_record_raw_etag_and_deletion(unix, peer):
    await unix.json("PUT", "/v1/keys/k/n", data=b"\x00\xff")
    async with unix("GET", "/v1/keys/k/n?raw=1") as response:
        assert await response.read() == b"\x00\xff"
        etag = response.headers["ETag"]
    async with unix("GET", "/v1/keys/k/n?raw=1", headers={"If-None-Match": etag}) as response:
        assert response.status == 304
    assert (await unix.json("GET", "/v1/keys/k/n?version=other"))[0] == 404
    await unix.json("PUT", "/v1/keys/k/n", data=b"z", headers={"If-Match": etag})
    assert peer.calls[-1][1]["if_version"] == etag.strip('"')
    assert await unix.json("DELETE", "/v1/keys/k/n") == (200, {"deleted": 1})
    status, problem = await unix.json("GET", "/v1/keys/k/n")
    assert (status, problem["type"]) == (404, "not-found")


async def test_a_value_too_long_for_memory_goes_both_ways(unix):
    value = bytes(range(256)) * 4096 * 9  # 9 MiB
    await unix.json("PUT", "/v1/keys/k/long", data=value)
    assert (await unix.lines("GET", "/v1/keys/k"))[0]["value"] is None
    async with unix("GET", "/v1/keys/k/long?raw=1") as response:
        assert await response.read() == value


async def test_many_records_in_one_request(unix, peer):
    body = b'{"value": "a"}\n\n{"value_base64": "/w=="}\n{"value": "c"}'
    headers = {"Content-Type": "application/x-ndjson"}
    lines = await unix.lines("POST", "/v1/keys/k?ttl=60", data=body, headers=headers)
    assert [line["reached"] for line in lines[:-1]] == [True] * 3
    assert lines[-1] == {"complete": True, "count": 3}
    assert [record.value for record in peer.records[b"k"]] == [b"a", b"\xff", b"c"]
    assert peer.calls == [("put_many", {"ttl_s": 60.0, "own": False, "acks": "quorum"})]


async def test_a_batch_is_bounded_and_its_faults_are_named(unix, peer):
    headers = {"Content-Type": "application/x-ndjson"}
    line = b'{"key": "k", "name": "n", "value": "v"}\n'
    status, outcome = await unix.json("POST", "/v1/batch", data=line, headers=headers)
    assert (status, outcome["committed"], outcome["records"][0]["key"]) == (201, True, "k")
    for body, why in (
        (line * 1001, "line 1001: the batch is too large"),
        (line + b"[]", "line 2"),
        (line[:-2] + b', "if_version": "v"}', "compare-and-set"),
        (b'{"key": "k", "key_base64": "aw==", "value": ""}', "line 1"),
    ):
        status, problem = await unix.json("POST", "/v1/batch", data=body, headers=headers)
        assert (status, problem["type"]) == (400, "invalid")
        assert why in problem["detail"]
    refused = line.replace(b'"n"', b'"refused"')
    status, problem = await unix.json("POST", "/v1/batch?acks=all", data=refused, headers=headers)
    assert (status, problem["type"], problem["exit_code"]) == (409, "refused", 4)
    assert len(peer.calls) == 2


async def test_outcomes_come_while_the_body_is_being_sent(unix):
    sent = asyncio.Event()

    async def body():
        yield b'{"value": "a"}\n'
        await sent.wait()
        yield b'{"value": "b"}\n'

    async with unix("POST", "/v1/keys/k", data=body(), headers={"Content-Type": "application/x-ndjson"}) as response:
        assert json.loads(await response.content.readline())["reached"]
        sent.set()
        assert json.loads(await response.content.readline())["reached"]
        assert json.loads(await response.content.readline())["complete"]


@pytest.mark.parametrize(
    "line", [b"{", b'{"value": 1}', b'{"name": "n", "value": "x"}', b"{}", b'{"value_base64": "?"}']
)
async def test_a_malformed_line_is_named(unix, line):
    headers = {"Content-Type": "application/x-ndjson"}
    end = (await unix.lines("POST", "/v1/keys/k", data=b'{"value": "a"}\n' + line, headers=headers))[-1]
    assert (end["complete"], end["count"], end["problem"]["type"]) == (False, 1, "invalid")
    assert end["reason"].startswith("line 2: ")


async def test_keys_of_all_kinds_are_listed(unix):
    for key in ("a%2F1", "a%FF", "b"):
        await unix.json("POST", f"/v1/keys/{key}", data=b"x")
    lines = await unix.lines("GET", "/v1/keys?prefix=a")
    assert lines == [
        {"count": 1, "key": "a/1"},
        {"count": 1, "key_base64": "Yf8="},
        {"complete": True, "count": 2},
    ]
    assert len(await unix.lines("GET", "/v1/keys?prefix=a%FF")) == 2


async def test_watch_tells_at_once_and_ends_with_its_reader(unix, peer):
    async with unix("GET", "/v1/watch/k") as response:
        assert response.status == 200
        await until(lambda: peer.running == 1)
        await unix.json("POST", "/v1/keys/k", data=b"news")
        assert json.loads(await response.content.readline())["value"] == "news"
        response.close()
    await until(lambda: peer.running == 0)


async def test_a_watch_ends_with_a_last_line_when_the_peer_stops(unix, gateway):
    async with unix("GET", "/v1/watch/k") as response:
        await gateway.stop()
        end = json.loads(await response.content.readline())
    assert (end["complete"], end["problem"]["type"]) == (False, "unreachable")


async def test_closing_the_connection_cancels_a_get(unix, peer):
    await unix.json("POST", "/v1/keys/k", data=b"x")
    peer.hold.clear()
    with pytest.raises(asyncio.TimeoutError):
        await unix.json("GET", "/v1/keys/k", timeout=aiohttp.ClientTimeout(0.2))
    await until(lambda: peer.running == 0)


async def test_count_where_trace_and_the_peer_itself(unix, peer):
    await unix.json("POST", "/v1/keys/k", data=b"x")
    assert await unix.json("GET", "/v1/count/k") == (200, {"count": 1})
    assert (await unix.json("GET", "/v1/where/k"))[1][0]["holds"] is True
    assert (await unix.json("GET", "/v1/trace/k"))[1]["hops"][0]["outcome"] == "answered"
    assert (await unix.json("GET", "/v1/status"))[1]["contacts"] == 1
    assert (await unix.json("GET", "/v1/peers"))[1][0]["rtt_ms"] == 1.5
    assert (await unix.json("GET", "/v1/config"))[1] == {"k": 8}
    assert (await unix.json("POST", "/v1/verify"))[1] == {"chunks_checked": 3}
    assert (await unix.json("POST", "/v1/repair"))[1] == {"restored": 0}
    assert (await unix.json("POST", "/v1/stop"))[0] == 202
    assert peer.stopping


async def test_unknown_endpoints_and_methods_are_problems(unix):
    status, problem = await unix.json("GET", "/v2/nothing")
    assert (status, problem["type"]) == (404, "not-found")
    async with unix("DELETE", "/v1/status") as response:
        assert (response.status, response.headers["Allow"]) == (405, "GET")
        assert response.content_type == "application/problem+json"
    assert (await unix.json("GET", "/v1/keys//n"))[0] in {400, 404}
