"""The dashboard's files, and the way into it: a token in the address becomes a cookie and leaves the address."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from aiohttp import web

from p2pkv.errors import NotFoundError
from p2pkv.gateway.access import cookie_name, cookie_value, is_local, query_tokens
from p2pkv.gateway.routes import Call, Route

_FOLDER = Path(__file__).parent / "static"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FILES = frozenset(
    {"dashboard.css", "dashboard.js", "state.js", "dom.js", "events.js", "files.js", "keys.js", "icon.svg"}
)
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


async def page(call: Call) -> web.StreamResponse:
    """The dashboard; with a token in the query, first the cookie and the address without the token."""
    if query_tokens(call.request) and not is_local(call.request):
        response = web.Response(status=303, headers={"Location": "/", "Cache-Control": "no-store"})
        value = cookie_value(call.serving.token)
        response.set_cookie(cookie_name(call.request), value, httponly=True, samesite="Strict", path="/")
        return response
    return _response("dashboard.html")


async def static(call: Call) -> web.StreamResponse:
    name = call.name
    if name not in _FILES:
        raise NotFoundError(f"no such file: {name}")
    return _response(name)


def entrance() -> web.Response:
    """What a browser without the cookie sees: where the token is, and a field for it."""
    response = _response("entrance.html")
    response.set_status(401)
    return response


def _response(name: str) -> web.Response:
    content_type = _TYPES[Path(name).suffix]
    return web.Response(body=_content(name), content_type=content_type, charset="utf-8", headers=_HEADERS)


@cache  # at most the files of the package
def _content(name: str) -> bytes:
    return (_FOLDER / name).read_bytes()


ROUTES = (
    Route("GET", "/", "The dashboard", page, media="text"),
    Route("GET", "/static/{name}", "The dashboard's files", static, media="text", public=True),
)
