"""Files over HTTP: ranges, conditions, streams both ways, cancelled and broken transfers."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import unquote

import aiohttp
import pytest

from p2pkv.errors import IncompleteError
from tests.gateway.conftest import until

CONTENT = bytes(range(256)) * 1000  # four blocks of the fake peer


@pytest.fixture
async def stored(peer):
    peer.files["photos/cat é.jpg"] = CONTENT
    return "/v1/files/photos/cat%20%C3%A9.jpg"


async def test_upload_and_download_stream(unix, peer):
    async def body():
        for at in range(0, len(CONTENT), 10_000):
            yield CONTENT[at : at + 10_000]

    status, outcome = await unix.json("PUT", "/v1/files/a/b%2Fc?replicas=3&erasure=4/6&encrypt=1&acks=all", data=body())
    assert (status, outcome["size"]) == (201, len(CONTENT))
    wanted = {"name": "a/b/c", "replicas": 3, "erasure": "4/6", "encrypt": True, "once": False, "acks": "all"}
    assert peer.calls == [("upload", wanted)]
    async with unix("GET", "/v1/files/a/b/c") as response:
        assert await response.read() == CONTENT


async def test_headers_of_a_file(unix, stored):
    async with unix("HEAD", stored) as response:
        assert response.status == 200
        assert response.headers["Content-Length"] == str(len(CONTENT))
        assert response.headers["Accept-Ranges"] == "bytes"
        assert response.headers["Last-Modified"] == "Sun, 09 Sep 2001 01:46:40 GMT"
        assert json.loads(unquote(response.headers["P2pkv-File"]))["name"] == "photos/cat é.jpg"
        assert "sandbox" in response.headers["Content-Security-Policy"]
        assert await response.read() == b""


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=10-99", slice(10, 100)),
        ("bytes=255000-", slice(255_000, None)),
        ("bytes=-5", slice(-5, None)),
        ("bytes=100-999999999", slice(100, None)),
        ("bytes=-999999999", slice(None)),
    ],
)
async def test_ranges(unix, stored, header, part):
    async with unix("GET", stored, headers={"Range": header}) as response:
        assert response.status == 206
        body = await response.read()
        assert body == CONTENT[part]
        first = len(CONTENT[: part.start]) if part.start else 0
        assert response.headers["Content-Range"] == f"bytes {first}-{first + len(body) - 1}/{len(CONTENT)}"


@pytest.mark.parametrize("header", ["bytes=256000-", "bytes=999999-1000000", "bytes=-0"])
async def test_ranges_outside_the_file(unix, stored, header, peer):
    async with unix("GET", stored, headers={"Range": header}) as response:
        assert response.status == 416
        assert response.headers["Content-Range"] == "bytes */256000"
        assert (await response.json(content_type=None))["type"] == "range"
    assert peer.running == 0


@pytest.mark.parametrize("header", ["bytes=9-1", "bytes=-", "lines=1-2", "bytes=0-1,5-6", "bytes=x-y"])
async def test_ranges_that_make_no_sense_give_the_whole(unix, stored, header):
    async with unix("GET", stored, headers={"Range": header}) as response:
        assert response.status == 200
        assert await response.read() == CONTENT


async def test_conditions(unix, stored, peer):
    async with unix("GET", stored) as response:
        etag = response.headers["ETag"]
    for tags in (etag, f'"x", W/{etag}', "*"):
        async with unix("GET", stored, headers={"If-None-Match": tags}) as response:
            assert (response.status, await response.read()) == (304, b"")
    headers = {"Range": "bytes=0-3", "If-Range": '"another"'}
    async with unix("GET", stored, headers=headers) as response:
        assert response.status == 200
    async with unix("GET", stored, headers={"Range": "bytes=0-3", "If-Range": etag}) as response:
        assert response.status == 206


async def test_an_empty_file(unix, peer):
    await unix.json("PUT", "/v1/files/empty", data=b"")
    assert peer.files["empty"] == b""
    async with unix("GET", "/v1/files/empty") as response:
        assert (response.status, await response.read()) == (200, b"")
    async with unix("GET", "/v1/files/empty", headers={"Range": "bytes=0-"}) as response:
        assert response.status == 416


async def test_a_download_that_fails_midway_is_cut_off(unix, stored, peer):
    peer.fail_after, peer.fail_with = 2, IncompleteError("chunk 2 is gone")
    with pytest.raises(aiohttp.ClientPayloadError):
        async with unix("GET", stored) as response:
            assert response.status == 200
            await response.read()


async def test_a_download_that_fails_at_once_is_a_problem(unix, stored, peer):
    peer.fail_after, peer.fail_with = 0, IncompleteError("chunk 0 is gone")
    assert (await unix.json("GET", stored))[0] == 503


@pytest.mark.parametrize("head", [b"Content-Length: 1000\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_an_upload_whose_connection_breaks_stores_nothing(gateway, home, peer, head):
    _, writer = await asyncio.open_unix_connection(str(home / "peer.sock"))
    writer.write(b"PUT /v1/files/x HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n5\r\nhello\r\n")
    await writer.drain()
    await until(lambda: peer.running)
    writer.close()
    await until(lambda: not peer.running)
    assert peer.files == {}


async def test_a_compressed_body_is_refused(unix, peer):
    status, problem = await unix.json("PUT", "/v1/files/x", data=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert (status, problem["type"]) == (400, "invalid")
    assert peer.files == {}


async def test_listing_stat_and_deletion(unix, stored, peer):
    peer.files["other"] = b""
    lines = await unix.lines("GET", "/v1/files?prefix=photos/")
    assert [line.get("name") for line in lines] == ["photos/cat é.jpg", None]
    stat = (await unix.json("GET", stored.replace("/files/", "/stat/")))[1]
    assert (stat["healthy"], stat["info"]["size"], stat["link"]) == (True, len(CONTENT), "p2pkv:photos/cat é.jpg")
    assert await unix.json("DELETE", stored) == (200, {"deleted": 1})
    assert (await unix.json("DELETE", stored))[0] == 404
    assert (await unix.json("GET", "/v1/files/%FF"))[1]["type"] == "invalid"


async def test_local_upload_and_download(unix, peer, home):
    source, target = home / "source", home / "target"
    source.write_bytes(CONTENT)
    lines = await unix.lines(
        "POST", "/v1/local/upload", json={"path": str(source), "name": "n", "to": "f", "once": True}
    )
    assert [next(iter(line)) for line in lines] == ["progress", "outcome", "complete"]
    assert peer.calls[0][1] | {"name": "n", "to": "f", "once": True} == peer.calls[0][1]
    lines = await unix.lines("POST", "/v1/local/download", json={"name": "n", "target": str(target), "range": [1, 3]})
    assert lines[1]["outcome"]["size"] == 3
    assert target.read_bytes() == CONTENT[1:4]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"path": "relative"}, 400),
        ({"path": "/no/such/file"}, 404),
        ({"paths": []}, 400),
        ({}, 400),
        ({"path": "/x", "acks": "some"}, 400),
        ({"path": "/a\0b"}, 400),
    ],
)
async def test_local_requests_that_make_no_sense(unix, body, status):
    assert (await unix.json("POST", "/v1/local/upload", json=body))[0] == status


async def test_closing_the_connection_cancels_a_local_transfer(unix, peer, home):
    (home / "source").write_bytes(CONTENT)
    peer.hold.clear()
    async with unix("POST", "/v1/local/upload", json={"path": str(home / "source")}) as response:
        assert "progress" in json.loads(await response.content.readline())
        response.close()
    await until(lambda: peer.cancelled == 1)
    assert peer.files == {}
