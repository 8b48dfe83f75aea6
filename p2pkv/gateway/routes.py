"""What an endpoint is: its path, parameters and answer. One table of these is both the server's routes and its
description, so the two cannot diverge. Owns the reading of paths and parameters; serves nothing itself.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args
from urllib.parse import unquote_to_bytes

from aiohttp import web

from p2pkv.errors import InvalidError
from p2pkv.gateway.ports import PeerLike
from p2pkv.gateway.targets import parse_query
from p2pkv.outcomes import Acks, Order

if TYPE_CHECKING:
    from p2pkv.gateway.serving import Serving

Kind = Literal["text", "bytes", "count", "seconds", "flag", "acks", "order"]
Media = Literal["json", "lines", "bytes", "text", "events"]
TOKEN_PARAM = "token"  # noqa: S105 - its name, no secret
_FLAGS = {"": True, "1": True, "true": True, "0": False, "false": False}


class Param(NamedTuple):
    """A parameter of the query."""

    name: str
    kind: Kind
    about: str


@dataclass(frozen=True)
class Route:
    """One endpoint. `answer` is the type of the answer, or of each line of it; None where it is bytes or text."""

    method: str
    path: str
    summary: str
    handler: Callable[[Call], Awaitable[web.StreamResponse]]
    params: tuple[Param, ...] = ()
    answer: Any = None
    media: Media = "json"
    status: int = 200
    body: Any = None  # a type for JSON, "bytes", "value" for one value or many, "changes" for a batch
    local: bool = False  # of the Unix socket alone
    public: bool = False  # served without the token

    @property
    def pattern(self) -> str:
        """The path as aiohttp wants it. Key and name may be empty; a file path has many segments."""
        path = self.path
        for placeholder, expression in (("key", "[^/]*"), ("name", "[^/]*"), ("path", r"[\s\S]+")):
            path = path.replace(f"{{{placeholder}}}", f"{{{placeholder}:{expression}}}")
        return path


class Call:
    """A request to an endpoint, its parameters checked."""

    def __init__(self, serving: Serving, route: Route, request: web.Request) -> None:
        self.serving = serving
        self.route = route
        self.request = request
        self.values = _values(route, request.rel_url.raw_query_string)

    @property
    def peer(self) -> PeerLike:
        return self.serving.peer

    @property
    def key(self) -> bytes:
        """The key in the path: the very bytes, whatever they are."""
        key = self._segment("{key}")
        if not key:
            raise InvalidError("an empty key", "give at least one byte")
        return key

    @property
    def name(self) -> str:
        return _text(self._segment("{name}"), "name")

    @property
    def path(self) -> str:
        """The file path: all of the rest, slashes encoded or not."""
        return _text(self._segment("{path}", rest=True), "path")

    def _segment(self, placeholder: str, rest: bool = False) -> bytes:
        index = self.route.path.split("/").index(placeholder)
        parts = self.request.rel_url.raw_path.split("/", index if rest else -1)
        return unquote_to_bytes(parts[index])


def _values(route: Route, raw_query: str) -> dict[str, Any]:
    """The parameters by name, None or False where not given. Raises InvalidError on an unknown or malformed one."""
    known = {param.name: param.kind for param in route.params}
    values: dict[str, Any] = {name: False if kind == "flag" else None for name, kind in known.items()}
    seen = set()
    for name, raw in parse_query(raw_query):
        if name == TOKEN_PARAM:
            continue
        if name not in known or name in seen:
            what = "given twice" if name in seen else "unknown here"
            raise InvalidError(f"parameter {name!r} is {what}", f"this endpoint knows: {', '.join(known) or 'none'}")
        seen.add(name)
        values[name] = raw if known[name] == "bytes" else _parsed(name, known[name], _text(raw, name))
    return values


def _parsed(name: str, kind: Kind, text: str) -> Any:
    if kind == "flag" and text in _FLAGS:
        return _FLAGS[text]
    if kind == "count" and re.fullmatch(r"[0-9]{1,15}", text):
        return int(text)
    if kind == "seconds" and re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text):
        return float(text)
    if kind == "text" or (kind == "acks" and text in get_args(Acks)) or (kind == "order" and text in get_args(Order)):
        return text
    raise InvalidError(f"parameter {name}={text!r} makes no sense", _WANTED.get(kind, ""))


def _text(raw: bytes, what: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise InvalidError(f"the {what} is not UTF-8") from None


_WANTED = {
    "flag": "give 1 or 0",
    "count": "give a whole number from 0",
    "seconds": "give a number of seconds",
    "acks": "give 1, quorum or all",
    "order": "give time or name",
}
