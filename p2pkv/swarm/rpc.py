"""RPC on the frame of rpcudp, with everything that the library leaves out: resends, bounds, typed errors, proof.

A subclass may define `rpc_name(self, sender_address, *args)` as with rpcudp, plain or async, and call
`self.name(address, *args)` for `(True, reply)` or `(False, None)`. Methods with typed messages are registered and
called by `wire.Method`.

Owns what ties the two halves (`asking`, `answering`) to a transport. Knows nothing of routing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from functools import lru_cache
from inspect import signature
from typing import Any, TypeVar

import msgspec
from rpcudp.protocol import RPCProtocol

from p2pkv import wire
from p2pkv.errors import RemoteError
from p2pkv.limits import RPC_DEADLINE_S
from p2pkv.swarm.answering import Answerer, Service
from p2pkv.swarm.asking import Asker
from p2pkv.swarm.calls import Call, Done
from p2pkv.swarm.contact import NO_ID, Contact, Sender
from p2pkv.swarm.environment import Address, Environment
from p2pkv.swarm.identity import Identity
from p2pkv.swarm.udp import canonical

log = logging.getLogger(__name__)

Q = TypeVar("Q")
R = TypeVar("R")
Bulk = Callable[[bytes, Address], None]

STOCK_ARGS: dict[str, Any] = {
    "stun": wire.StunArgs,
    "ping": wire.PingArgs,
    "find_node": wire.FindArgs,
    "find_value": wire.FindArgs,
    "store": wire.StoreArgs,
}


@lru_cache(256)
def _decoder_of(type_: Any) -> wire.Decode:
    return wire.decoder_of(type_)


def decoder_of(type_: Any) -> wire.Decode:
    """A decoder of one type, made once."""
    return _decoder_of(type_)


def _decode_plain_args(body: bytes) -> list[wire.Plain]:
    args = wire.decode_plain(body)
    if not isinstance(args, list):
        raise TypeError("arguments are a list")
    return args


class RpcProtocol(RPCProtocol):  # type: ignore[misc]
    """Calls and answers on one transport."""

    def __init__(self, env: Environment | None = None, identity: Identity | None = None, *, flags: int = 0) -> None:
        RPCProtocol.__init__(self, wait_timeout=RPC_DEADLINE_S)
        self.env = env or Environment()
        self.identity = identity or Identity.generate(self.env.random_bytes)
        self.counters: Counter[str] = Counter()
        self.bulk_handler: Bulk | None = None
        self._asker = Asker(self.env, self.identity, flags, self.counters, self)
        self._answerer = Answerer(self.env, self.identity, flags, self.counters, self)
        self._outstanding = self._asker.outstanding
        self._tasks: set[asyncio.Task[Any]] = set()
        self._meetings: dict[Contact, asyncio.Task[Any]] = {}
        for name in dir(type(self)):
            if name.startswith("rpc_"):
                self._answerer.services[name.removeprefix("rpc_")] = self._stock_service(name)

    # --- transport ---

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._asker.endpoint = self._answerer.endpoint = transport

    def error_received(self, exc: Exception) -> None:
        self.counters["socket_errors"] += 1

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Whatever comes. Never raises."""
        self.counters["received"] += 1
        address: Address = addr if len(addr) == 2 else canonical(addr)
        if data and data[0] >= wire.BULK_MIN:
            self._on_bulk(data, address)
            return
        try:
            frame = wire.parse_frame(data)
        except RemoteError:
            self.counters["malformed"] += 1
            return
        if frame.kind == wire.REQUEST:
            self._answerer.on_request(frame, address, len(data))
        else:
            self._asker.on_answer(frame, address)

    def _on_bulk(self, data: bytes, address: Address) -> None:
        if self.bulk_handler is None:
            self.counters["bulk_unhandled"] += 1
            return
        try:
            self.bulk_handler(data, address)
        except Exception:
            self.counters["handlers_failed"] += 1
            log.exception("the bulk handler failed")

    async def close(self) -> None:
        """End every call, handler and task. The transport is its owner's."""
        self._asker.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._answerer.close()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task that ends with this protocol at the latest."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a background task failed", exc_info=task.exception())

    # --- typed methods ---

    def register(
        self, method: wire.Method[Q, R], handler: Callable[[Sender, Q], R | Awaitable[R]], *, prompt: bool = False
    ) -> None:
        """Answer a method. The handler returns the reply or an awaitable of it, and raises RemoteError to refuse.

        `prompt`: it is a coroutine that mostly ends in its first step, which is run without a task (`eager`).
        """
        decode = decoder_of(method.request)
        self._answerer.services[method.name] = Service(decode, handler, method.needs_cookie, prompt=prompt)

    async def call(
        self,
        contact: Contact,
        method: wire.Method[Q, R],
        request: Q,
        deadline_s: float | None = None,
        *,
        rto_s_min: float = 0.0,
    ) -> R:
        """Ask a contact. Raises RemoteError with its code, SilentError where no answer came in time."""
        body = wire.request_body(method.name, request)
        return await self.call_encoded(contact, method, body, deadline_s, rto_s_min=rto_s_min)

    async def call_encoded(
        self,
        contact: Contact,
        method: wire.Method[Q, R],
        body: bytes,
        deadline_s: float | None = None,
        *,
        rto_s_min: float = 0.0,
    ) -> R:
        """The same with a request from `wire.request_body`, which many contacts may get."""
        if method.needs_cookie and not contact.cookie and contact.kind != "stock":
            await self.meet(contact)
        if contact.kind == "stock":
            raise RemoteError("unknown-method", "a stock kademlia peer")
        reply: R = await self._asker.ask(
            contact, body, decoder_of(method.reply), deadline_s=deadline_s, rto_s_min=rto_s_min
        )
        return reply

    def begin_encoded(
        self, contact: Contact, body: bytes, decode: wire.Decode, done: Done, deadline_s: float | None = None
    ) -> Call | None:
        """Ask a contact whose cookie we have, without a task; the outcome comes by `done`. None: use `call_encoded`."""
        return self._asker.begin(contact, body, decode, done, deadline_s)

    async def meet(self, contact: Contact) -> None:
        """Have a contact prove itself and give us a cookie; concurrent callers share one ping. Raises RemoteError."""
        task = self._meetings.get(contact)
        if task is None:
            task = self._meetings[contact] = self.spawn(self._meet(contact))
        error = await asyncio.shield(task)
        if error is not None:
            raise RemoteError(error.code, error.detail) if type(error) is RemoteError else type(error)(error.detail)

    async def _meet(self, contact: Contact) -> RemoteError | None:
        try:
            await self.ping_contact(contact)
        except RemoteError as error:
            return error
        finally:
            del self._meetings[contact]
        return None

    async def ping_contact(self, contact: Contact, **options: Any) -> bytes:
        """A contact's NodeID as it says it. Raises RemoteError."""
        body = wire.request_body("ping", (self.identity.node_id,))
        node_id: bytes = await self._asker.ask(contact, body, decoder_of(wire.Id), **options)
        return node_id

    # --- rpcudp's manner of calling ---

    def __getattr__(self, name: str) -> Any:
        """What this protocol answers itself (`rpc_name`) can be called at others; anything else is an error."""
        if name.startswith("_") or not hasattr(type(self), f"rpc_{name}"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

        def call(address: Address, *args: object) -> Awaitable[tuple[bool, Any]]:
            return self._call_stock(address, name, args)

        return call

    async def _call_stock(self, address: Address, name: str, args: tuple[object, ...]) -> tuple[bool, Any]:
        body = wire.request_body(name, args)
        contact = Contact(NO_ID, *address)
        try:
            return True, await self._asker.ask(contact, body, wire.decode_plain)
        except RemoteError:
            return False, None

    def _stock_service(self, attribute: str) -> Service:
        """An `rpc_` method of the class: typed where it is kademlia's, plain values else."""
        method = getattr(self, attribute)
        args_type = STOCK_ARGS.get(attribute.removeprefix("rpc_"))
        if args_type is not None:
            astuple = msgspec.structs.astuple
            return Service(
                decoder_of(args_type),
                lambda sender, args: method(sender.address, *astuple(args)),
                needs_cookie=False,
                stock_write=attribute == "rpc_store",
            )
        shape = signature(method)

        def handler(sender: Sender, args: list[object]) -> Any:
            try:
                shape.bind(sender.address, *args)
            except TypeError as error:
                raise RemoteError("malformed", str(error)) from None
            return method(sender.address, *args)

        return Service(_decode_plain_args, handler, needs_cookie=False)

    # --- what a protocol with a routing table knows ---

    def contact_of(self, node_id: bytes, address: Address) -> Contact | None:
        """The proven contact with this id at this address."""
        return None

    def on_heard(self, sender: Sender, extension: wire.Extension | None, proven: bool) -> None:
        """A request came that could be read. `proven`: it carried our cookie."""

    def on_answered(self, contact: Contact, now_s: float) -> None:
        """A call of ours was answered."""

    def on_silent(self, contact: Contact, since_s: float, now_s: float) -> None:
        """A call that was sent at `since_s` was not."""

    def on_replaced(self, contact: Contact) -> None:
        """Another peer answers at a contact's address."""

    async def prove(self, sender: Sender) -> bool:
        """Make a sender answer at its address."""
        contact = Contact(NO_ID, *sender.address)
        try:
            await self.ping_contact(contact, resends_max=1, padded=False)
        except RemoteError:
            return False
        return True
