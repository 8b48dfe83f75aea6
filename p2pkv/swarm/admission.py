"""Address cookies: who shows one has received what we sent to that address.

Owns the secret and the cookies. Without one, an answer is at most AMPLIFICATION_MAX times its request, and nothing is
written: so a forged sender address buys nothing.
"""

from __future__ import annotations

from collections import OrderedDict

from blake3 import blake3

from p2pkv import wire
from p2pkv.limits import COOKIE_EPOCH_S, COOKIES_CACHED_MAX
from p2pkv.swarm.environment import Address

SECRET_BYTES = 32
COOKIE_BYTES = 8


class Pass:
    """What answers to one address carry during one epoch."""

    __slots__ = ("before", "cookie", "epoch", "trailer")

    def __init__(self, epoch: int, cookie: bytes, before: bytes, trailer: bytes) -> None:
        self.epoch = epoch
        self.cookie = cookie
        self.before = before  # of the epoch before: still good
        self.trailer = trailer  # the extension of answers, encoded


class Admission:
    """Gives cookies out and knows them again."""

    def __init__(self, secret: bytes, node_id: bytes, flags: int = 0) -> None:
        self._secret = secret
        self._node_id = node_id
        self._flags = flags
        self._passes: OrderedDict[Address, Pass] = OrderedDict()

    def __len__(self) -> int:
        return len(self._passes)

    def pass_of(self, address: Address, now_s: float) -> Pass:
        """The cookie of an address and the extension that brings it there."""
        epoch = int(now_s / COOKIE_EPOCH_S)
        known = self._passes.get(address)
        if known is not None and known.epoch == epoch:
            return known
        cookie = self._cookie(address, epoch)
        extension = wire.Extension(wire.VERSION, self._node_id, self._flags, cookie_for_you=cookie)
        fresh = Pass(epoch, cookie, self._cookie(address, epoch - 1), wire.trailer(extension))
        self._passes[address] = fresh
        if len(self._passes) > COOKIES_CACHED_MAX:
            self._passes.popitem(last=False)
        return fresh

    def admits(self, pass_: Pass, cookie: bytes) -> bool:
        """Is this a cookie that we sent to the address lately?"""
        return bool(cookie) and cookie in (pass_.cookie, pass_.before)

    def proof_trailer(self, pass_: Pass, public_key: bytes, proof: bytes) -> bytes:
        """The extension of an answer that proves our NodeID."""
        return wire.trailer(
            wire.Extension(
                wire.VERSION,
                self._node_id,
                self._flags,
                cookie_for_you=pass_.cookie,
                public_key=public_key,
                proof=proof,
            )
        )

    def _cookie(self, address: Address, epoch: int) -> bytes:
        text = f"{address[0]} {address[1]} {epoch}".encode()
        return blake3(text, key=self._secret).digest(length=COOKIE_BYTES)
