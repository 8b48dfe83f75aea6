"""The two ways to a running peer: its Unix socket, and its loopback address with the token.

Where the system has no Unix sockets (Windows), the second is the only one; the peer writes down where it is. Imports
nothing heavy: the command line loads it.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from p2pkv.errors import P2pkvError, UnreachableError

_BYTES_MAX = 1024
URL_NAME = "http.url"
TOKEN_NAME = "http.token"  # noqa: S105 - its name, no secret


def has_unix_sockets() -> bool:
    return hasattr(socket, "AF_UNIX")


class Loopback(NamedTuple):
    """Where a peer serves HTTP on this machine, and what opens it."""

    host: str
    port: int
    token: str

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


def loopback_of(folder: Path) -> Loopback:
    """What the peer of a home has written down. Raises UnreachableError where none runs."""
    try:
        url, token = (_line(folder / name) for name in (URL_NAME, TOKEN_NAME))
    except OSError as error:
        raise no_peer(folder) from error
    parts = urlsplit(url)
    if not parts.hostname or not parts.port:
        raise no_peer(folder)
    return Loopback(parts.hostname, parts.port, token)


def connect(path: Path) -> socket.socket:
    """A connection to the peer whose socket is `path` (in its home). Raises UnreachableError, P2pkvError."""
    if not has_unix_sockets():
        way = loopback_of(path.parent)
        try:
            return socket.create_connection((way.host, way.port))
        except OSError as error:
            raise no_peer(path.parent) from error
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(os.fspath(path))
    except PermissionError as error:
        connection.close()
        raise P2pkvError(f"the peer of {path.parent} is another user's", "run this as that user") from error
    except OSError as error:
        connection.close()
        raise no_peer(path.parent) from error
    return connection


def headers_for(path: Path) -> dict[str, str]:
    """What each request to that peer carries."""
    return {} if has_unix_sockets() else loopback_of(path.parent).headers


def no_peer(folder: Path) -> UnreachableError:
    return UnreachableError(f"no peer runs in {folder}", "start one with `p2pkv start`")


def _line(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_BYTES_MAX).decode("ascii", "replace").strip()
