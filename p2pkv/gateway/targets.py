"""Request targets: percent-encoded paths and queries from bytes, and back.

Keys are any bytes, so nothing here goes through text on its way. Imports nothing heavy: the command line loads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote_from_bytes, unquote_to_bytes

from p2pkv.errors import InvalidError

Value = str | bytes | int | float | bool | None


def segment(data: bytes | str) -> str:
    """One segment of a path. Dots are encoded where a bare one would mean this or the upper folder."""
    raw = data.encode() if isinstance(data, str) else bytes(data)
    return raw.decode().replace(".", "%2E") if raw in {b".", b".."} else quote_from_bytes(raw, safe="")


def file_target(name: str) -> str:
    """The path of a file or link, whole in one segment so that no program rewrites it on the way."""
    return f"/v1/files/{segment(name)}"


def stream_name(name: str | None, to: str) -> str:
    """The full name of a stream that goes to a folder. Raises InvalidError where it has none."""
    if not name:
        raise InvalidError("a stream has no name of its own", "give it one")
    return "/".join(part for part in (to.rstrip("/"), name) if part)


def query(values: Mapping[str, Value]) -> str:
    """The query of a target, with its question mark. None and False are left out."""
    pairs = [f"{name}={_text(value)}" for name, value in values.items() if value is not None and value is not False]
    return "?" + "&".join(pairs) if pairs else ""


def _text(value: Value) -> str:
    if value is True:
        return "1"
    return quote_from_bytes(value if isinstance(value, bytes) else str(value).encode(), safe="")


def parse_query(raw: str) -> list[tuple[str, bytes]]:
    """The pairs of a raw query, in order. A plus is a space, as forms send it."""
    pairs = []
    for part in raw.split("&"):
        if part:
            name, _, value = part.partition("=")
            pairs.append((_plain(name).decode("utf-8", "replace"), _plain(value)))
    return pairs


def _plain(text: str) -> bytes:
    return unquote_to_bytes(text.replace("+", " ").encode("utf-8", "surrogateescape"))
