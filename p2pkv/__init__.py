"""p2pkv: a peer-to-peer store for records and files on Kademlia.

The names below are the public interface. They are resolved on first use, so that `import p2pkv` (and with it
the command line) costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from p2pkv.version import VERSION as __version__  # noqa: N811

if TYPE_CHECKING:
    from p2pkv.client import Client as Client
    from p2pkv.errors import P2pkvError as P2pkvError
    from p2pkv.outcomes import BatchChange as BatchChange
    from p2pkv.outcomes import FileInfo as FileInfo
    from p2pkv.outcomes import PutOutcome as PutOutcome
    from p2pkv.outcomes import Record as Record
    from p2pkv.peer import Peer as Peer

_HOMES = {
    "BatchChange": "p2pkv.outcomes",
    "Client": "p2pkv.client",
    "FileInfo": "p2pkv.outcomes",
    "P2pkvError": "p2pkv.errors",
    "Peer": "p2pkv.peer",
    "PutOutcome": "p2pkv.outcomes",
    "Record": "p2pkv.outcomes",
}

__all__ = ["BatchChange", "Client", "FileInfo", "P2pkvError", "Peer", "PutOutcome", "Record", "__version__"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'p2pkv' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
