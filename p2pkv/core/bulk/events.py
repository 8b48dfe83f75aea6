"""What a connection tells its driver, and what a driver tells a connection about offers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Accept:
    """The request may come."""


@dataclass(frozen=True, slots=True)
class Reject:
    """The request shall not come; its sender hears why. `code` is one of errors.ERROR_CODES."""

    code: str
    detail: str = ""


Admit = Callable[[int, bytes, int], Accept | Reject]
"""Kind, topic and size of the data: asked as soon as they are known, before the data has come."""


@dataclass(frozen=True, slots=True)
class Requested:
    """A request of the peer has come whole. `Connection.reply` or `Connection.refuse` must follow."""

    stream: int
    kind: int  # one of messages.KINDS
    topic: bytes
    data: memoryview  # of memory that is nobody else's


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The peer has lost interest in a request that was `Requested`."""

    stream: int


@dataclass(frozen=True, slots=True)
class Replied:
    """The reply to a request of ours has come whole."""

    stream: int
    data: memoryview  # of memory that is nobody else's


@dataclass(frozen=True, slots=True)
class Failed:
    """A request of ours was refused, or cannot be carried any further."""

    stream: int
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Closed:
    """The connection has ended; every request of ours that was open has `Failed` before."""

    code: str


Event = Requested | Cancelled | Replied | Failed | Closed
