"""One typed request that a lookup puts to many contacts: encoded once, and asked without a task where nothing is in
the way.

Owns the encoded request and the way of asking. What an answer means is for the `read` that its maker gives.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from p2pkv import wire
from p2pkv.swarm.calls import Call, Done
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.rpc import RpcProtocol, decoder_of
from p2pkv.swarm.search import Answer

Q = TypeVar("Q")
R = TypeVar("R")


class TypedQuestion(Generic[Q, R]):
    """A question of lookups."""

    def __init__(
        self,
        protocol: RpcProtocol,
        method: wire.Method[Q, R],
        request: Q,
        read: Callable[[R], Answer],
        *,
        ask_stock: Callable[[Contact], Awaitable[Answer]],
        deadline_s: float | None = None,
    ) -> None:
        """`read` makes a reply an answer, or raises RemoteError; `ask_stock` asks peers that know no method of ours.

        Raises ValueError where the request does not fit a datagram.
        """
        self.read = read
        self._protocol = protocol
        self._method = method
        self._body = wire.request_body(method.name, request)
        self._decode = decoder_of(method.reply)
        self._ask_stock = ask_stock
        self._deadline_s = deadline_s

    async def __call__(self, contact: Contact) -> Answer:
        """Ask a contact whatever it takes. Raises RemoteError."""
        if contact.kind == "stock":
            return await self._ask_stock(contact)
        reply = await self._protocol.call_encoded(contact, self._method, self._body, self._deadline_s)
        return self.read(reply)

    def begin(self, contact: Contact, done: Done) -> Call | None:
        """Ask a contact that is proven already; its reply, still to be read, comes by `done`. None: it is not."""
        if contact.kind == "stock":
            return None
        return self._protocol.begin_encoded(contact, self._body, self._decode, done, self._deadline_s)
