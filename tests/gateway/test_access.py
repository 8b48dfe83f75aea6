"""Who gets in: the token, the Host, the origin, the socket's mode."""

from __future__ import annotations

import stat

import aiohttp
import pytest

from p2pkv.errors import InvalidError, P2pkvError
from p2pkv.gateway.http import ROUTES, Gateway
from tests.gateway.fake_peer import FakePeer


async def test_the_socket_and_the_token_are_the_owners_alone(gateway, home):
    assert stat.S_IMODE((home / "peer.sock").stat().st_mode) == 0o600
    assert stat.S_IMODE((home / "http.token").stat().st_mode) == 0o600
    assert len((home / "http.token").read_text().strip()) >= 32


@pytest.mark.parametrize("route", [route for route in ROUTES if not route.public], ids=lambda r: f"{r.method} {r.path}")
async def test_without_the_token_nothing_is_served(stranger, route, peer):
    target = route.path.replace("{key}", "k").replace("{name}", "n").replace("{path}", "p")
    async with stranger(route.method, target) as response:
        assert response.status == 401
    async with stranger(route.method, target, headers={"Authorization": "Bearer wrong"}) as response:
        assert response.status == 401
    assert (peer.calls, peer.stopping) == ([], False)


async def test_the_token_lasts_and_is_kept_private(peer, home):
    path = home / "http.token"
    path.write_text("chosen-by-the-owner\n")
    path.chmod(0o644)
    gateway = Gateway(peer, home, "127.0.0.1:0")
    await gateway.start()
    try:
        assert gateway.dashboard_url.endswith("/?token=chosen-by-the-owner")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        await gateway.stop()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8469", "127.0.0.1.evil.example", "", "10.0.0.1"])
async def test_a_foreign_host_is_refused(tcp, host):
    status, problem = await tcp.json("GET", "/v1/status", headers={"Host": host})
    assert (status, problem["type"]) == (403, "forbidden")


@pytest.mark.parametrize("host", ["localhost", "localhost:99", "127.0.0.1", "[::1]:5"])
async def test_loopback_names_are_fine(tcp, host):
    assert (await tcp.json("GET", "/v1/status", headers={"Host": host}))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
async def test_a_write_from_another_origin_is_refused(tcp, peer, headers):
    assert (await tcp.json("POST", "/v1/keys/k", data=b"x", headers=headers))[0] == 403
    assert peer.records == {}


async def test_a_write_from_the_own_origin_is_fine(tcp, gateway):
    headers = {"Origin": gateway.url, "Sec-Fetch-Site": "same-origin"}
    assert (await tcp.json("POST", "/v1/keys/k", data=b"x", headers=headers))[0] == 201


async def test_the_token_in_the_address_becomes_a_cookie(stranger, gateway):
    token = gateway.dashboard_url.rpartition("=")[2]
    async with stranger("GET", f"/?token={token}", allow_redirects=False) as response:
        cookie = response.headers["Set-Cookie"]
        assert (response.status, response.headers["Location"]) == (303, "/")
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and token not in cookie
    async with stranger("GET", "/") as response:
        assert response.status == 200
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert (await stranger.json("GET", "/v1/status"))[0] == 200


async def test_a_browser_without_the_cookie_is_shown_the_way_in(stranger):
    async with stranger("GET", "/", headers={"Accept": "text/html"}) as response:
        assert (response.status, response.content_type) == (401, "text/html")
        assert "http.token" in await response.text()


@pytest.mark.parametrize("which", ["upload", "download"])
async def test_local_paths_are_for_the_unix_socket_alone(tcp, which):
    assert (await tcp.json("POST", f"/v1/local/{which}", json={}))[0] == 403


async def test_http_listens_on_loopback_alone(peer, home):
    for address in ("0.0.0.0:8469", ("192.0.2.1", 1), "nonsense", "127.0.0.1:x"):
        with pytest.raises(InvalidError):
            Gateway(peer, home, address)
    assert Gateway(peer, home, "off").dashboard_url is None


async def test_stop_removes_the_socket_and_start_replaces_a_dead_one(peer, home):
    path = home / "peer.sock"
    first = Gateway(peer, home)
    await first.start()
    with pytest.raises(P2pkvError, match="another peer"):
        await Gateway(peer, home).start()
    assert path.exists()
    await first.stop()
    await first.stop()
    assert not path.exists()
    import socket

    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    second = Gateway(peer, home)
    await second.start()
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
        assert (await session.get("http://localhost/v1/status")).status == 200
    await second.stop()


async def test_a_file_in_the_way_is_not_removed(home):
    (home / "peer.sock").write_text("mine")
    with pytest.raises(P2pkvError, match="in the way"):
        await Gateway(FakePeer(), home).start()
    assert (home / "peer.sock").read_text() == "mine"


async def test_a_port_in_use_leaves_nothing_behind(gateway, tmp_path_factory, peer, home):
    other = home / "other"
    other.mkdir()
    port = int(gateway.url.rpartition(":")[2])
    with pytest.raises(OSError):
        await Gateway(peer, other, ("127.0.0.1", port)).start()
    assert not (other / "peer.sock").exists()


async def test_too_many_requests_are_told_so(unix, gateway):
    gateway._serving.requests = 512
    status, problem = await unix.json("GET", "/v1/status")
    assert (status, problem["type"]) == (503, "busy")
