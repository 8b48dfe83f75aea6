"""Every error that p2pkv raises on purpose.

`P2pkvError` is what a user can meet: it carries the exit code of the command line, the problem type of HTTP, and the
mend. `RemoteError` is a fault of another peer and never a reason to stop. Our own bugs are asserts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from p2pkv.outcomes import PutOutcome


class P2pkvError(Exception):
    """Something failed. `str(error)` says what; `mend` says what to do about it (may be empty)."""

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "failed"
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, mend: str = "") -> None:
        super().__init__(message)
        self.mend = mend


class InvalidError(P2pkvError):
    """The caller's arguments cannot be carried out (an empty key, a key over 1 KiB, a bad name)."""

    exit_code = 2
    kind = "invalid"
    http_status = 400


class NotFoundError(P2pkvError):
    """No such key, name or file in the swarm, and the answer is complete."""

    exit_code = 3
    kind = "not-found"
    http_status = 404


class RefusedError(P2pkvError):
    """Write-once, ownership, compare-and-set or quota forbids it. `current` is the version that stands, if any."""

    exit_code = 4
    kind = "refused"
    http_status = 409

    def __init__(self, message: str, mend: str = "", *, current: str = "") -> None:
        super().__init__(message, mend)
        self.current = current


class IncompleteError(P2pkvError):
    """The answer may lack something, or too few replicas acknowledged (`outcome`). The message says what, and why."""

    exit_code = 5
    kind = "incomplete"
    http_status = 503

    def __init__(self, message: str, mend: str = "", *, outcome: PutOutcome | None = None) -> None:
        super().__init__(message, mend)
        self.outcome = outcome


class UnreachableError(P2pkvError):
    """No peer runs here, or no peer of the swarm answers."""

    exit_code = 6
    kind = "unreachable"
    http_status = 502


class DamagedError(P2pkvError):
    """Stored or received bytes do not match their hash."""

    kind = "damaged"


class RemoteError(Exception):
    """A fault of another peer: it broke the protocol, refused, or was silent. `code` is one of `ERROR_CODES`."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail

    def again(self) -> RemoteError:
        """One just like it, for a further caller."""
        return RemoteError(self.code, self.detail)


class SilentError(RemoteError):
    """The contact did not answer within its time, resends included."""

    def __init__(self, detail: str = "") -> None:
        super().__init__("silent", detail)

    def again(self) -> SilentError:
        return SilentError(self.detail)


ERROR_CODES = frozenset(
    {
        "malformed",  # the request could not be parsed or broke a limit
        "unknown-method",
        "cookie",  # the sender's address is not proven yet; the reply carries a fresh cookie
        "busy",  # a bound was reached; come back later
        "working",  # no end of the call: the request came, and its answer takes longer
        "refused",  # ownership, write-once or compare-and-set
        "quota",  # the store is full
        "damaged",  # the bytes sent do not match their hash or signature
        "failed",  # the peer could not do it (its disk, its bug); the detail says more
        "silent",  # local only: no answer
        "misbehaved",  # local only: the answer broke the protocol
    }
)
