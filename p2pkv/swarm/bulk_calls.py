"""Typed methods whose messages are too long for a datagram: the same messages as RPC's, carried by bulk transfer.

A call costs one exchange whatever its length, where RPC would take one for every few records. It is worth that only
where there is much to say; whoever calls keeps to RPC for the rest, and for peers that take no bulk transfer.

Owns the table of methods, and how long a silent peer is waited for. Knows nothing of what they do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

from p2pkv import wire
from p2pkv.errors import RemoteError, SilentError
from p2pkv.limits import BULK_REPLY_BYTES_MAX, CALL_LOOK_S, CALL_S_MAX, RPC_DEADLINE_S
from p2pkv.swarm.bulk import BulkService
from p2pkv.swarm.contact import Contact

log = logging.getLogger(__name__)
Q = TypeVar("Q")
R = TypeVar("R")


class _Service(NamedTuple):
    decode: wire.Decode
    handler: Callable[[Any], Awaitable[Any]]


class BulkCalls:
    """Calls long methods of other peers, and answers those who call ours."""

    def __init__(self, service: BulkService) -> None:
        self._service = service
        self._methods: dict[bytes, _Service] = {}
        self._decoders: dict[str, wire.Decode] = {}
        service.on_call = self._on_call

    def register(self, method: wire.Method[Q, R], handler: Callable[[Q], Awaitable[R]]) -> None:
        """Answer a method. The handler raises RemoteError to refuse."""
        self._methods[method.name.encode()] = _Service(wire.decoder_of(method.request), handler)

    def methods(self) -> list[bytes]:
        """The names of those that are answered here."""
        return list(self._methods)

    async def call(self, contact: Contact, method: wire.Method[Q, R], request: Q) -> R:
        """Ask a contact that takes bulk transfer. Raises RemoteError, SilentError."""
        body = wire.encode(request)
        exchange = self._service.call(contact.address, method.name.encode(), body, deadline_s=CALL_S_MAX)
        answer = await self._heard(contact, asyncio.ensure_future(exchange))
        decode = self._decoders.get(method.name)
        if decode is None:
            decode = self._decoders[method.name] = wire.decoder_of(method.reply)
        reply: R = wire.decoded(decode, answer, "misbehaved")
        return reply

    async def _heard(self, contact: Contact, exchange: asyncio.Future[memoryview]) -> memoryview:
        """Its outcome, as long as the contact is heard; at work it may be for longer than a datagram is waited for."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            while True:
                done, _ = await asyncio.wait([exchange], timeout=CALL_LOOK_S)
                if done:
                    return exchange.result()
                waited_s = loop.time() - began_s
                quiet_s = self._service.quiet_s(contact.address) if self._service.open_to(contact.address) else waited_s
                if quiet_s > RPC_DEADLINE_S:
                    raise SilentError(f"not heard for {quiet_s:.1f} s")
        finally:
            exchange.cancel()

    async def _on_call(self, name: bytes, body: memoryview) -> bytes:
        service = self._methods.get(name)
        if service is None:
            raise RemoteError("unknown-method", name.decode(errors="replace"))
        reply = wire.encode(await service.handler(wire.decoded(service.decode, body)))
        if len(reply) > BULK_REPLY_BYTES_MAX:
            log.error("an answer of %s has %d bytes", name.decode(), len(reply))
            raise RemoteError("failed", "the answer is too long")
        return reply
