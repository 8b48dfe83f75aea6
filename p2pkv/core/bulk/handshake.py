"""Proof of address before anything is held for a stranger.

Theory of operation. The initiator says HELLO; the responder answers COOKIE and keeps nothing: the cookie holds the
id that it will use and a keyed hash over address, both ids and the time. The initiator brings the cookie back in
OPEN, with its first data right behind. Only who can read at an address can open a connection from it, and the
answer is never larger than the question. A cookie is good in its epoch and the next, so it takes no clock but our
own.

Owns the secret. Never knows connections.
"""

from __future__ import annotations

import hmac

from blake3 import blake3

from p2pkv.core.bulk.packets import PROOF_BYTES, Cookie, Hello
from p2pkv.limits import BULK_COOKIE_EPOCH_S

SECRET_BYTES = 32


class Doorman:
    """Gives out cookies and checks them."""

    def __init__(self, secret: bytes) -> None:
        assert len(secret) == SECRET_BYTES
        self._secret = secret

    def answer(self, hello: Hello, address: tuple[str, int], responder: int, now: float) -> Cookie:
        """The cookie for a hello; `responder` is a random id."""
        epoch = self._epoch(now)
        proof = self._proof(address, hello.initiator, responder, epoch)
        return Cookie(hello.initiator, responder, epoch, proof)

    def admits(self, cookie: Cookie, address: tuple[str, int], now: float) -> bool:
        """Whether we gave this cookie to this address not long ago."""
        if cookie.epoch not in {self._epoch(now), self._epoch(now) - 1}:
            return False
        proof = self._proof(address, cookie.initiator, cookie.responder, cookie.epoch)
        return hmac.compare_digest(proof, cookie.proof)

    @staticmethod
    def _epoch(now: float) -> int:
        return int(now / BULK_COOKIE_EPOCH_S) & 0xFFFFFFFF

    def _proof(self, address: tuple[str, int], initiator: int, responder: int, epoch: int) -> bytes:
        text = f"{address[0]} {address[1]} {initiator} {responder} {epoch}".encode()
        return blake3(text, key=self._secret).digest(length=PROOF_BYTES)
