"""Sizes, durations and addresses as people write them, and back.

Owns these notations alone; knows no option and no peer. Every parser raises InvalidError on anything it cannot read.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import datetime

from p2pkv.errors import InvalidError

_SIZE = re.compile(r"(\d{1,18})(?:\.(\d{1,6}))?\s*(?:([KMGTPE])(i?B?|b)|B)?", re.IGNORECASE | re.ASCII)
_UNITS = "KMGTPE"
_DURATION = re.compile(
    r"(?:(\d{1,6})w)?(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,9}(?:\.\d{1,6})?)s)?", re.ASCII
)
_SECONDS = (7 * 86_400, 86_400, 3600, 60, 1)
_PORT_MAX = 65_535
SIZE_BYTES_MAX = 1 << 63


def parse_size(text: str) -> int:
    """Bytes of `500`, `64k`, `500M`, `10GiB` (powers of 1024) or `10GB` (powers of 1000)."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidError(f"not a size: {text!r}", "write it like 500M or 10GiB")
    whole, fraction, unit, suffix = match.groups()
    factor = _factor(unit, suffix)
    size_bytes = int(whole) * factor + int(fraction or 0) * factor // int(10 ** len(fraction or ""))
    if size_bytes >= SIZE_BYTES_MAX:
        raise InvalidError(f"size out of range: {text!r}", "write less than 8EiB")
    return size_bytes


def _factor(unit: str | None, suffix: str | None) -> int:
    if unit is None:
        return 1
    base = 1000 if (suffix or "").lower() == "b" else 1024
    return int(base ** (_UNITS.index(unit.upper()) + 1))


def format_size(size_bytes: float) -> str:
    """A size for people: `0 B`, `1.5 KiB`, `10.0 GiB`."""
    if size_bytes < 1024:
        return f"{size_bytes:.0f} B"
    for unit in _UNITS:
        size_bytes /= 1024
        if size_bytes < 1023.95 or unit == _UNITS[-1]:
            break
    return f"{size_bytes:.1f} {unit}iB"


def parse_duration(text: str) -> float:
    """Seconds of `90`, `90s`, `10m`, `2h30m`, `1d` or `1w`."""
    text = text.strip().lower()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text):
        return float(text)
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        raise InvalidError(f"not a duration: {text!r}", "write it like 90s, 10m, 2h30m or 1d")
    return float(sum(float(part) * scale for part, scale in zip(match.groups(), _SECONDS, strict=True) if part))


def parse_time(text: str, now_s: float) -> float:
    """Seconds since the epoch of an ISO 8601 date or time (local where it names no zone), or of a duration ago."""
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        pass
    try:
        return now_s - parse_duration(text)
    except InvalidError:
        raise InvalidError(f"not a time: {text!r}", "write it like 2026-11-24, 2026-11-24T09:30 or 90m (ago)") from None


def format_duration(seconds: float) -> str:
    """A duration for people, in its two largest units: `0s`, `42s`, `2h30m`, `3d4h`."""
    left, parts = int(seconds), []
    for scale, unit in ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        count, left = divmod(left, scale)
        if count:
            parts.append(f"{count}{unit}")
        elif parts:
            break
    return "".join(parts[:2]) or "0s"


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT` or `[::1]:PORT`. Port 0 is allowed: whoever connects to it refuses it."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > _PORT_MAX:
        raise InvalidError(f"not an address: {text!r}", f"write it as HOST:PORT with a port from 0 to {_PORT_MAX}")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not host or re.search(r"[\s\[\]/]", host) or (":" in host) != bracketed:
        raise InvalidError(f"not an address: {text!r}", "write it as HOST:PORT, an IPv6 address as [::1]:PORT")
    return host, int(port)


def format_address(host: str, port: int) -> str:
    """The notation that `parse_address` reads."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


Value = bytes | AsyncIterator[bytes]
"""A record's value: its bytes, or a stream of them."""


def checked_value(value: Value) -> Value:
    """A user's value as bytes or a stream of them. Raises InvalidError."""
    if isinstance(value, bytes | AsyncIterator):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    raise InvalidError(f"a value is bytes, not {type(value).__name__}", "encode it: value.encode()")
