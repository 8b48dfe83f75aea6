"""Who may ask: the token on the loopback address, and what a browser may be made to do by a stranger's page.

On the Unix socket the file's mode has decided already. Owns the token file, the cookie and the checks of `Host` and
`Origin`; knows no endpoint.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import secrets
import socket
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from p2pkv.gateway.problems import ForbiddenError, UnauthorizedError
from p2pkv.gateway.routes import TOKEN_PARAM
from p2pkv.gateway.targets import parse_query

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_TOKEN_BYTES_MAX = 1024
MEND_TOKEN = "send `Authorization: Bearer TOKEN` with what the file http.token in the peer's home holds"  # noqa: S105


def token_of(path: Path) -> str:
    """The token in a file, made where there is none; readable by its owner alone."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        path.chmod(0o600)
        with path.open("rb") as file:
            token = file.read(_TOKEN_BYTES_MAX).decode("ascii", "replace").strip()
        if token:
            return token
        path.unlink()
        return token_of(path)
    token = secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w") as file:
        file.write(token + "\n")
    return token


def is_local(request: web.Request) -> bool:
    """Whether it came over the Unix socket. Anything not known to have is taken for TCP."""
    connection = None if request.transport is None else request.transport.get_extra_info("socket")
    unix = getattr(socket, "AF_UNIX", None)
    return unix is not None and connection is not None and connection.family == unix


def check_origin(request: web.Request) -> None:
    """Refuse names that a stranger's DNS made point here, and writes that another site's page sends."""
    if not is_loopback(urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""):
        raise ForbiddenError("the Host is no loopback name", "use 127.0.0.1 or localhost")
    if request.method in _READING:
        return
    origin = request.headers.get("Origin")
    foreign = origin is not None and origin != f"http://{request.headers['Host']}"
    if foreign or request.headers.get("Sec-Fetch-Site", "none") not in {"same-origin", "none"}:
        raise ForbiddenError("a write from another origin")


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_token(request: web.Request, token: str) -> None:
    """Accept the token as a bearer, in the query, or as the cookie that stands for it."""
    scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
    given = [bearer.strip()] if scheme.lower() == "bearer" else []
    given += [value.decode("latin-1") for name, value in query_tokens(request)]
    cookie = request.cookies.get(cookie_name(request), "")
    if any([_equal(value, token) for value in given]) or _equal(cookie, cookie_value(token)):  # noqa: C419
        return
    raise UnauthorizedError("the token is wrong" if given or cookie else "a token is wanted", MEND_TOKEN)


def query_tokens(request: web.Request) -> list[tuple[str, bytes]]:
    return [pair for pair in parse_query(request.rel_url.raw_query_string) if pair[0] == TOKEN_PARAM]


def cookie_name(request: web.Request) -> str:
    """Cookies know no ports, peers of one machine do."""
    port = urlsplit(f"//{request.headers.get('Host', '')}").port or 80
    return f"p2pkv_{port}"


def cookie_value(token: str) -> str:
    """Not the token itself: other servers on this host name get to see the cookie."""
    return hmac.new(token.encode(), b"p2pkv dashboard session", hashlib.sha256).hexdigest()


def _equal(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted.encode())
