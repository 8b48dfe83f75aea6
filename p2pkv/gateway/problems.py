"""Every failure as application/problem+json. Owns which error becomes which answer; no traceback leaves the peer."""

from __future__ import annotations

import logging

import msgspec
from aiohttp import web

from p2pkv.errors import InvalidError, NotFoundError, P2pkvError, RemoteError, UnreachableError
from p2pkv.gateway import shapes

log = logging.getLogger("p2pkv.gateway")
MEND_LOG = "the peer's log says more"


class UnauthorizedError(P2pkvError):
    """The token is missing or wrong."""

    exit_code = 4
    kind = "unauthorized"
    http_status = 401


class ForbiddenError(P2pkvError):
    """A foreign host or origin, or an endpoint of the Unix socket alone."""

    exit_code = 4
    kind = "forbidden"
    http_status = 403


class BusyError(P2pkvError):
    """Too many requests at once."""

    kind = "busy"
    http_status = 503


class UnsatisfiableError(InvalidError):
    """The byte range lies outside the file of `size` bytes."""

    kind = "range"
    http_status = 416

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message)
        self.size = size


def explained(error: BaseException) -> P2pkvError:
    """What an exception is to a user. One that nobody expected is logged."""
    if isinstance(error, P2pkvError):
        return error
    if isinstance(error, RemoteError):
        return UnreachableError(f"a peer of the swarm failed: {error}")
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        return NotFoundError(message) if isinstance(error, FileNotFoundError) else P2pkvError(message)
    log.error("a request failed unexpectedly", exc_info=error)
    return P2pkvError(f"unexpected {type(error).__name__}", MEND_LOG)


def response_of(error: P2pkvError) -> web.Response:
    """The answer that an error is."""
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    if isinstance(error, UnsatisfiableError):
        headers["Content-Range"] = f"bytes */{error.size}"
    if isinstance(error, UnauthorizedError):
        headers["WWW-Authenticate"] = 'Bearer realm="p2pkv"'
    body = shapes.encode(shapes.problem_of(error))
    return web.Response(body=body, status=error.http_status, content_type=shapes.PROBLEM, headers=headers)


def response_of_http(error: web.HTTPException) -> web.Response:
    """The answer to a request that the server itself refuses: no such endpoint, wrong method, body too large."""
    similar: P2pkvError = InvalidError(error.reason, "GET /openapi.json says what is wanted")
    if error.status == 404:
        similar = NotFoundError("no such endpoint", "GET /openapi.json lists them")
    problem = msgspec.structs.replace(shapes.problem_of(similar), status=error.status)
    headers = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
    return web.Response(body=shapes.encode(problem), status=error.status, content_type=shapes.PROBLEM, headers=headers)
