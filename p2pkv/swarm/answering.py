"""The answering half of RPC: which handler a request gets, and what may be sent back to whom.

Theory of operation. A handler that returns at once, or in its first step (`prompt`), is answered without a task; one
that waits (for the disk) runs as a task, bounded in number. Answers leave together when the loop has read what has
come: sent one by one, each would wake up its asker for itself, which costs 15 % more. A request whose id came before
is answered from memory; while its handler still runs, its sender is told so: a slow disk is no dead peer.
To an address that is not proven, no answer is longer
than AMPLIFICATION_MAX times the request: p2pkv senders get a cookie instead, stock senders fewer nodes, or the answer
after they have answered a ping.

Owns the handlers' tasks, the answers kept, and the cookies. Errors are typed replies to p2pkv senders and silence to
stock ones, which could not read them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, NamedTuple, Protocol

from p2pkv import wire
from p2pkv.errors import RemoteError
from p2pkv.limits import AMPLIFICATION_MAX, HANDLERS_RUNNING_MAX, RPC_PAYLOAD_BYTES_MAX
from p2pkv.swarm.admission import SECRET_BYTES, Admission, Pass
from p2pkv.swarm.answers import Answers, Question
from p2pkv.swarm.contact import NO_ID, Contact, Sender
from p2pkv.swarm.eager import Begun
from p2pkv.swarm.environment import Address, Environment
from p2pkv.swarm.identity import Identity

log = logging.getLogger(__name__)

Handler = Callable[[Sender, Any], Any]
"""Takes a decoded request; returns the reply, or an awaitable of it. Raises RemoteError to refuse."""


class Service(NamedTuple):
    """What answers one method."""

    decode: wire.Decode
    handler: Handler
    needs_cookie: bool
    stock_write: bool = False  # a stock peer's store: done only for a proven address
    prompt: bool = False  # a coroutine that mostly ends in its first step, and needs no task for that


class Inquiry:
    """One request being answered."""

    __slots__ = ("allowance", "extension", "pass_", "question", "sender")

    def __init__(
        self, question: Question, sender: Sender, extension: wire.Extension | None, pass_: Pass, allowance: int
    ) -> None:
        self.question = question
        self.sender = sender
        self.extension = extension
        self.pass_ = pass_
        self.allowance = allowance  # bytes that may go back


class Host(Protocol):
    """What answering needs to know of peers."""

    def contact_of(self, node_id: bytes, address: Address) -> Contact | None: ...
    def on_heard(self, sender: Sender, extension: wire.Extension | None, proven: bool) -> None: ...
    def prove(self, sender: Sender) -> Awaitable[bool]: ...


UNBOUNDED = 1 << 30
_WORKING = RemoteError("working")


class _UnprovenError(Exception):
    """A stock sender asked for more than its address may have before it is proven."""


async def _ready(reply: object) -> object:
    return reply


class Answerer:
    """Runs handlers and sends their answers."""

    def __init__(self, env: Environment, identity: Identity, flags: int, counters: Counter[str], host: Host) -> None:
        self.services: dict[str, Service] = {}
        self.answers = Answers()
        self.running: dict[Question, asyncio.Task[None]] = {}
        self.endpoint: Any = None
        self._leaving: list[tuple[bytes, Address]] = []
        self._loop = asyncio.get_running_loop()
        self.admission = Admission(env.random_bytes(SECRET_BYTES), identity.node_id, flags)
        self._identity = identity
        self._counters = counters
        self._host = host

    def on_request(self, frame: wire.Frame, address: Address, size: int) -> None:
        """A request came. Never raises."""
        now_s = self._loop.time()
        question = (address, frame.message_id)
        extension = frame.extension
        pass_ = self.admission.pass_of(address, now_s)
        proven = extension is not None and self.admission.admits(pass_, extension.cookie_yours)
        before = self.answers.get(question, now_s)
        if before is not None or question in self.running:
            if before is None and extension is not None:
                before = wire.fault_frame(frame.message_id, _WORKING, pass_.trailer)
            self._repeat(before, address, UNBOUNDED if proven else AMPLIFICATION_MAX * size)
            return
        node_id = extension.node_id if extension is not None else NO_ID
        contact = self._host.contact_of(node_id, address)
        allowance = UNBOUNDED if proven else AMPLIFICATION_MAX * size
        inquiry = Inquiry(question, Sender(node_id, address, contact), extension, pass_, allowance)
        try:
            self._serve(inquiry, frame.body, proven)
        except RemoteError as error:
            self._refuse(inquiry, error)

    def _repeat(self, before: bytes | None, address: Address, allowance: int) -> None:
        self._counters["requests_repeated"] += 1
        if before is not None and len(before) <= allowance:
            self.endpoint.sendto(before, address)

    def _serve(self, inquiry: Inquiry, body: bytes, proven: bool) -> None:
        request = wire.parse_request(body)
        service = self.services.get(request.method)
        if service is None:
            self._counters["methods_unknown"] += 1
            raise RemoteError("unknown-method", request.method)
        args = wire.decoded(service.decode, request.args)
        if inquiry.extension is None:
            self._identify_stock(inquiry, args)
        self._host.on_heard(inquiry.sender, inquiry.extension, proven)
        if (service.needs_cookie or (service.stock_write and inquiry.extension is not None)) and not proven:
            raise RemoteError("cookie", "show the cookie of this answer")
        if service.stock_write and inquiry.allowance < UNBOUNDED:
            self._start(inquiry, request.method, self._proven_first(inquiry, service, args))
            return
        try:
            reply = service.handler(inquiry.sender, args)
            reply = Begun(reply) if service.prompt else reply
        except RemoteError:
            raise
        except Exception:
            raise self._bug(request.method) from None
        if isinstance(reply, Begun) and reply.done:
            reply = reply.result
        elif isawaitable(reply):
            self._start(inquiry, request.method, reply)
            return
        try:
            self._answer(inquiry, reply)
        except _UnprovenError:
            self._start(inquiry, request.method, _ready(reply))

    def _identify_stock(self, inquiry: Inquiry, args: object) -> None:
        """Stock senders name themselves in the arguments."""
        node_id = getattr(args, "node_id", NO_ID)
        address = inquiry.sender.address
        contact = self._host.contact_of(node_id, address)
        inquiry.sender = Sender(node_id, address, contact)
        if contact is not None and contact.kind == "stock":
            inquiry.allowance = UNBOUNDED  # it answered at its address, and cannot show a cookie

    # --- handlers that wait ---

    def _start(self, inquiry: Inquiry, method: str, reply: Awaitable[Any]) -> None:
        if len(self.running) >= HANDLERS_RUNNING_MAX:
            close = getattr(reply, "close", None)
            if close is not None:
                close()
            raise RemoteError("busy", "too many requests being worked on")
        task = self._loop.create_task(self._finish(inquiry, method, reply))
        self.running[inquiry.question] = task

    async def _finish(self, inquiry: Inquiry, method: str, reply: Awaitable[Any]) -> None:
        try:
            result = await reply
            try:
                self._answer(inquiry, result)
            except _UnprovenError:
                await self._prove_first(inquiry)
                self._answer(inquiry, result)
        except RemoteError as error:
            self._refuse(inquiry, error)
        except Exception:
            self._refuse(inquiry, self._bug(method))
        finally:
            self.running.pop(inquiry.question, None)

    def _bug(self, method: str) -> RemoteError:
        """Our own fault: the log has it, the asker gets a typed error."""
        self._counters["handlers_failed"] += 1
        log.exception("the handler of %s failed", method)
        return RemoteError("failed", "an internal error")

    # --- answers ---

    def _answer(self, inquiry: Inquiry, reply: object) -> None:
        body = wire.encode(reply)
        if len(body) > RPC_PAYLOAD_BYTES_MAX:
            log.error("an answer of %d bytes does not fit: %.80r", len(body), reply)
            self._counters["handlers_failed"] += 1
            raise RemoteError("failed", "the answer does not fit a datagram")
        datagram = wire.reply_frame(inquiry.question[1], body, self._trailer(inquiry))
        if len(datagram) > inquiry.allowance:
            self._answer_less(inquiry, reply)
            return
        self._send(inquiry, datagram)

    def _send(self, inquiry: Inquiry, datagram: bytes) -> None:
        self._counters["replies_sent"] += 1
        self.answers.keep(inquiry.question, datagram, self._loop.time())
        self._leave(datagram, inquiry.question[0])

    def _leave(self, datagram: bytes, address: Address) -> None:
        """Send it with the others that this turn of the loop makes."""
        if not self._leaving:
            self._loop.call_soon(self._flush)
        self._leaving.append((datagram, address))

    def _flush(self) -> None:
        leaving, self._leaving = self._leaving, []
        for datagram, address in leaving:
            self.endpoint.sendto(datagram, address)

    def _trailer(self, inquiry: Inquiry) -> bytes:
        """Cookie, and the proof where it was asked for. Stock senders could not read it."""
        extension = inquiry.extension
        if extension is None:
            return b""
        if not extension.flags & wire.PROVE:
            return inquiry.pass_.trailer
        text = wire.proof_text(inquiry.question[1], self._identity.node_id, extension.node_id)
        return self.admission.proof_trailer(inquiry.pass_, self._identity.public_key, self._identity.sign(text))

    def _answer_less(self, inquiry: Inquiry, reply: object) -> None:
        """The answer is too long for an address that is not proven."""
        self._counters["answers_withheld"] += 1
        if inquiry.extension is not None:
            raise RemoteError("cookie", "show the cookie of this answer")
        if not isinstance(reply, list):
            raise _UnprovenError
        node_bytes = len(wire.encode(reply)) // max(1, len(reply)) + 1
        room = inquiry.allowance - wire.HEAD_BYTES - 3
        datagram = wire.reply_frame(inquiry.question[1], wire.encode(reply[: max(0, room // node_bytes)]), b"")
        if len(datagram) <= inquiry.allowance:
            self._send(inquiry, datagram)

    async def _proven_first(self, inquiry: Inquiry, service: Service, args: object) -> Any:
        """Nothing is written for an address that may be forged."""
        await self._prove_first(inquiry)
        reply = service.handler(inquiry.sender, args)
        return await reply if isawaitable(reply) else reply

    async def _prove_first(self, inquiry: Inquiry) -> None:
        """Make a stock sender answer a ping, so that it may have an answer in full."""
        if not await self._host.prove(inquiry.sender):
            raise RemoteError("cookie", "the address is not proven")
        inquiry.allowance = UNBOUNDED

    def _refuse(self, inquiry: Inquiry, error: RemoteError) -> None:
        self._counters[f"refused_{error.code}"] += 1
        if inquiry.extension is None:
            return
        fault = RemoteError("failed", error.detail) if error.code in {"silent", "misbehaved"} else error
        datagram = wire.fault_frame(inquiry.question[1], fault, self._trailer(inquiry))
        if len(datagram) <= inquiry.allowance:
            self._leave(datagram, inquiry.question[0])

    async def close(self) -> None:
        await asyncio.sleep(0)  # a task that is cancelled before its first step would leave its handler unawaited
        tasks = list(self.running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
