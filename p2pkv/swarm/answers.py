"""Answers already given, for requests that come again because our answer was lost or late.

Owns this bounded memory: by number, by bytes and by age. A request that is still being worked on is not in it.
"""

from __future__ import annotations

from collections import OrderedDict

from p2pkv.limits import RPC_ANSWER_CACHE_S, RPC_ANSWERS_CACHED_BYTES_MAX, RPC_ANSWERS_CACHED_MAX
from p2pkv.swarm.environment import Address

Question = tuple[Address, bytes]
"""Sender and message id: the id alone could be guessed or copied by another."""


class Answers:
    """The last answers, oldest first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Question, tuple[float, bytes]] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, question: Question, now_s: float) -> bytes | None:
        entry = self._kept.get(question)
        return entry[1] if entry is not None and entry[0] > now_s else None

    def keep(self, question: Question, datagram: bytes, now_s: float) -> None:
        kept = self._kept
        before = kept.pop(question, None)
        if before is not None:
            self.size_bytes -= len(before[1])
        kept[question] = (now_s + RPC_ANSWER_CACHE_S, datagram)
        self.size_bytes += len(datagram)
        while len(kept) > RPC_ANSWERS_CACHED_MAX or self.size_bytes > RPC_ANSWERS_CACHED_BYTES_MAX:
            self._drop_oldest()

    def expire(self, now_s: float) -> None:
        """Forget what is too old to be asked for again."""
        while self._kept and next(iter(self._kept.values()))[0] <= now_s:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, (_, datagram) = self._kept.popitem(last=False)
        self.size_bytes -= len(datagram)
