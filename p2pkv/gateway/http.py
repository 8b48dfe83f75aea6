"""The HTTP server of a peer: its table of routes, its two listening sockets, its start and stop.

Owns the Unix socket file. Knows nothing of what the endpoints do.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from p2pkv.errors import InvalidError, P2pkvError
from p2pkv.gateway import access, dashboard, events, files, local, node, openapi, records
from p2pkv.gateway.ports import HomeLike, PeerLike, PlainHome
from p2pkv.gateway.problems import (
    BusyError,
    ForbiddenError,
    UnauthorizedError,
    explained,
    response_of,
    response_of_http,
)
from p2pkv.gateway.routes import Call, Route
from p2pkv.gateway.serving import Serving
from p2pkv.gateway.ways import URL_NAME, has_unix_sockets
from p2pkv.limits import HTTP_LINE_BYTES_MAX, HTTP_REQUESTS_MAX, HTTP_STOP_S

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Address = tuple[str, int]

CLIENT_LEFT = 499  # the client closed the connection before it had all of the answer

ROUTES: tuple[Route, ...] = (
    *records.ROUTES,
    *files.ROUTES,
    *local.ROUTES,
    *node.ROUTES,
    *events.ROUTES,
    *openapi.ROUTES,
    *dashboard.ROUTES,
)


class Gateway:
    """Serves a peer on its home's Unix socket and, where `http` is given, on a loopback address with a token.

    `http` is `(host, port)` or "host:port"; None or "off" for the Unix socket alone. `config` is what /v1/config shows.
    """

    def __init__(
        self,
        peer: PeerLike,
        home: HomeLike | Path,
        http: Address | str | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        request_stop: Callable[[], None] = lambda: None,
    ) -> None:
        """`request_stop` is called where a client asks the peer to leave; whoever runs it sees to that."""
        self.url: str | None = None
        self._home: HomeLike = PlainHome(home) if isinstance(home, Path) else home
        self._http = _address(http)
        self._peer = peer
        self._config = config or {}
        self._request_stop = request_stop
        self._serving: Serving | None = None
        self._runner: web.AppRunner | None = None
        self._socket_inode: tuple[int, int] | None = None

    @property
    def dashboard_url(self) -> str | None:
        """The dashboard's address with the token: for the owner's eyes."""
        return f"{self.url}/?token={self._serving.token}" if self.url and self._serving else None

    async def start(self) -> None:
        """Listen. Raises P2pkvError or OSError and leaves nothing behind where it cannot."""
        token = access.token_of(self._home.token)
        self._serving = Serving(self._peer, token, self._config, ROUTES, self._request_stop)
        self._runner = web.AppRunner(
            _application(self._serving),
            access_log=None,
            handler_cancellation=True,  # a client that closes its connection cancels what it asked for
            auto_decompress=False,  # a short body cannot become a long one
            max_line_size=HTTP_LINE_BYTES_MAX,
            shutdown_timeout=HTTP_STOP_S,
        )
        try:
            await self._runner.setup()
            await self._listen(self._runner)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Give running streams their last line, then close. Idempotent."""
        if self._serving is not None:
            self._serving.end_streams()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self._remove_socket()
        self.url = None

    async def _listen(self, runner: web.AppRunner) -> None:
        if has_unix_sockets():
            await web.SockSite(runner, self._bind_unix()).start()
        elif self._http is None:
            raise P2pkvError("this system has no Unix sockets, so HTTP is the only way in", "leave out `--http off`")
        if self._http is not None:
            host, port = self._http
            site = web.TCPSite(runner, host, port)
            await site.start()
            bound = next(address for address in runner.addresses if isinstance(address, tuple))
            self.url = f"http://{f'[{host}]' if ':' in host else host}:{bound[1]}"
            (self._home.folder / URL_NAME).write_text(f"{self.url}\n")

    def _bind_unix(self) -> socket.socket:
        """The home's socket, open to its owner alone from its first moment. A dead peer's is replaced."""
        path = self._home.socket
        _clear(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            listener.bind(os.fspath(path))
        except OSError as error:
            listener.close()
            raise P2pkvError(
                f"cannot listen on {path}: {error.strerror}", "choose a home with a shorter path"
            ) from error
        finally:
            os.umask(mask)
        self._socket_inode = _inode(path)
        listener.setblocking(False)
        return listener

    def _remove_socket(self) -> None:
        """Only our own: another peer may have taken the place."""
        record = self._home.folder / URL_NAME
        if self.url is not None and record.exists() and record.read_text().strip() == self.url:
            record.unlink(missing_ok=True)
        if self._socket_inode is not None and _inode(self._home.socket) == self._socket_inode:
            self._home.socket.unlink(missing_ok=True)
        self._socket_inode = None


def _address(http: Address | str | None) -> Address | None:
    if http is None or http == "off":
        return None
    if isinstance(http, str):
        host, _, port = http.rpartition(":")
        if not port.isdigit() or int(port) > 65535:
            raise InvalidError(f"{http!r} is no HOST:PORT", "give one such as 127.0.0.1:8469, or off")
        http = (host.strip("[]"), int(port))
    if not access.is_loopback(http[0]):
        mend = "use 127.0.0.1, and a tunnel (ssh -L) to reach it from elsewhere"
        raise InvalidError(f"HTTP serves loopback addresses alone, not {http[0]!r}", mend)
    return http


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _clear(path: Path) -> None:
    """Remove a socket that nobody listens on. Raises P2pkvError where somebody does, or where it is no socket."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise P2pkvError(f"{path} is in the way and no socket", "move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(os.fspath(path)) == 0:
            raise P2pkvError(f"another peer serves this home ({path})", "stop it, or choose another home with --home")
    path.unlink(missing_ok=True)


def _application(serving: Serving) -> web.Application:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await _answered(serving, request, handler)

    app = web.Application(middlewares=[guard])
    for route in serving.routes:
        app.router.add_route(route.method, route.pattern, _handler(serving, route))
    return app


def _handler(serving: Serving, route: Route) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        if not access.is_local(request):
            _admit(serving, route, request)
        begun_s = time.monotonic()
        status = CLIENT_LEFT
        try:
            response = await _attempt(serving, route, request)
            status = response.status
            return response
        finally:
            serving.metrics.count(route.method, route.path, status, time.monotonic() - begun_s)

    return handle


async def _attempt(serving: Serving, route: Route, request: web.Request) -> web.StreamResponse:
    """The handler's answer, or its failure as a problem."""
    try:
        return await route.handler(Call(serving, route, request))
    except web.HTTPException:
        raise
    except Exception as error:
        if isinstance(error, ConnectionError) and (request.transport is None or request.transport.is_closing()):
            return web.Response(status=CLIENT_LEFT)  # with the last line in its hands, or tired of waiting
        return response_of(explained(error))


def _admit(serving: Serving, route: Route, request: web.Request) -> None:
    """Raise where a request over TCP may not have this endpoint."""
    if not route.public:
        access.check_token(request, serving.token)
    if route.local and has_unix_sockets():
        raise ForbiddenError(
            "this endpoint is on the Unix socket alone", "use the p2pkv command, or PUT /v1/files/{path}"
        )


async def _answered(serving: Serving, request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whatever comes of a request, as an answer. Unknown endpoints are told only to who may ask."""
    serving.requests += 1
    try:
        if serving.requests > HTTP_REQUESTS_MAX:
            raise BusyError("too many requests at once", "try again shortly")
        if not access.is_local(request):
            access.check_origin(request)
        return await handler(request)
    except web.HTTPException as error:
        return response_of_http(error)
    except UnauthorizedError as error:
        return dashboard.entrance() if "text/html" in request.headers.get("Accept", "") else response_of(error)
    except P2pkvError as error:
        return response_of(error)
    finally:
        serving.requests -= 1
