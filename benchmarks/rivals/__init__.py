"""Who is measured: each system behind the same small interface, with what it does not do stated beside it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from benchmarks.rivals.base import Rival


@dataclass(frozen=True)
class Entry:
    """One system of the comparison. `lacks` is what its figures do not pay for."""

    label: str
    requires: str  # the module that must be installed
    module: str
    settings: dict[str, int | str]
    lacks: str
    impaired: bool = True  # take part in the runs with loss and death

    @property
    def installed(self) -> bool:
        try:
            return find_spec(self.requires) is not None
        except ModuleNotFoundError:
            return False

    def make(self) -> Rival:
        rival: Rival = import_module(f"benchmarks.rivals.{self.module}").make(**self.settings)
        return rival


_STOCK_LACKS = (
    "one value per key, in memory, no signatures; `set` returns True even when every replica failed; "
    "a get ends at the first value"
)
ENTRIES = {
    "stock-8": Entry("kademlia, k=8", "kademlia", "stock", {"k": 8}, f"Python. {_STOCK_LACKS}"),
    "stock-20": Entry("kademlia, k=20", "kademlia", "stock", {"k": 20}, f"Python. {_STOCK_LACKS}", impaired=False),
    "opendht": Entry(
        "OpenDHT",
        "opendht",
        "open_dht",
        {},
        "C++. In memory; a put is called done whichever of the replicas stored it; no quorum reads. Rate limits lifted",
    ),
    "p2pkv-memory": Entry(
        "p2pkv, memory",
        "p2pkv.peer",
        "p2pkv_peers",
        {"store": "memory"},
        "Python. Signed records, acknowledged by a majority of 8 replicas, quorum reads; nothing on disk",
    ),
    "p2pkv-disk": Entry(
        "p2pkv, disk",
        "p2pkv.peer",
        "p2pkv_peers",
        {"store": "disk"},
        "Python. The same, every acknowledged replica synced to disk",
    ),
}
