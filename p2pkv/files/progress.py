"""Telling how far a transfer is: counts what is done and calls back at most some ten times a second."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from p2pkv.core.carriers import counted
from p2pkv.limits import PROGRESS_INTERVAL_S, PROGRESS_PEERS_MAX
from p2pkv.outcomes import TransferProgress

Progress = Callable[[TransferProgress], None]
Phase = Literal["reading", "sending", "fetching", "done"]


class Meter:
    """Counts one transfer. `name` and `total` may change on the way (a folder learns of its files as it goes)."""

    def __init__(self, callback: Progress | None, name: str, phase: Phase, total: int | None) -> None:
        self.name = name
        self.total = total
        self.done = 0
        self.chunks_done = 0
        self.replicas = 0
        self.peers: Counter[str] = Counter()  # bytes by the peers that carry them
        self._callback = callback
        self._phase: Phase = phase
        self._began_s = asyncio.get_running_loop().time()
        self._told_s = float("-inf")

    @property
    def seconds(self) -> float:
        return asyncio.get_running_loop().time() - self._began_s

    def add(self, size_bytes: int, *, chunks: int = 1, replicas: int = 0) -> None:
        """So many more bytes are done."""
        self.done += size_bytes
        self.chunks_done += chunks
        if replicas:
            self.replicas = min(self.replicas, replicas) if self.replicas else replicas
        now_s = asyncio.get_running_loop().time()
        if self._callback and now_s - self._told_s >= PROGRESS_INTERVAL_S:
            self._told_s = now_s
            self._tell(self._phase)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count, by peer, what chunks carry within; the whole succeeded where nothing is raised: always told."""
        with counted() as self.peers:
            yield
        self.finish()

    def finish(self) -> None:
        """The whole succeeded: always told."""
        self._tell("done")

    def _tell(self, phase: Phase) -> None:
        if self._callback:
            peers = dict(self.peers.most_common(PROGRESS_PEERS_MAX))
            step = TransferProgress(self.name, phase, self.done, self.total, self.chunks_done, self.replicas, peers)
            self._callback(step)
