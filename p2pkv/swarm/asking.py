"""The calling half of RPC: requests under way, their resends, and what their answers tell of a contact.

Theory of operation. A contact that is not proven yet is asked for proof with every request, and the request is padded
until the contact has given us a cookie: then it may answer in full. An answer counts only from the address that was
asked, for a message id that is under way, and from the NodeID that was meant.

Owns the requests under way, bounded per contact and altogether. What an answer or a silence means for the routing
table is for its `Events` to decide.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from functools import partial
from typing import Any, Protocol

from p2pkv import wire
from p2pkv.core.rtt import RttEstimator
from p2pkv.errors import RemoteError, SilentError
from p2pkv.limits import (
    RPC_DEADLINE_S,
    RPC_OUTSTANDING_MAX,
    RPC_OUTSTANDING_PER_CONTACT_MAX,
    RPC_RESENDS_MAX,
    RPC_WORKING_S_MAX,
)
from p2pkv.swarm.calls import BACKOFF, Call, CallTimer, Done
from p2pkv.swarm.contact import NO_ID, Contact
from p2pkv.swarm.environment import Address, Environment
from p2pkv.swarm.identity import Identity, is_key_of, verify
from p2pkv.swarm.udp import Endpoint

log = logging.getLogger(__name__)

IDS_DRAWN = 64  # message ids drawn at once: one system call for all


class Events(Protocol):
    """Who wants to know how contacts do."""

    def on_answered(self, contact: Contact, now_s: float) -> None: ...
    def on_silent(self, contact: Contact, since_s: float, now_s: float) -> None: ...
    def on_replaced(self, contact: Contact) -> None: ...


class Asker:
    """Sends requests and matches answers."""

    def __init__(
        self, env: Environment, identity: Identity, flags: int, counters: Counter[str], events: Events
    ) -> None:
        self.outstanding: dict[bytes, Call] = {}
        self.endpoint: Endpoint | Any = None
        self._env = env
        self._node_id = identity.node_id
        self._flags = flags
        self._counters = counters
        self._events = events
        self._timer = CallTimer(self._on_due)
        self._typical_rtt = RttEstimator()  # of all contacts
        self._ids: list[bytes] = []
        self._queued = 0
        self._closed = False
        self._loop = asyncio.get_running_loop()

    # --- asking ---

    async def ask(
        self,
        contact: Contact,
        body: bytes,
        decode: wire.Decode,
        *,
        deadline_s: float | None = None,
        resends_max: int = RPC_RESENDS_MAX,
        padded: bool = True,
        rto_s_min: float = 0.0,
    ) -> Any:
        """Send a request and wait for its answer. Raises RemoteError, SilentError.

        `rto_s_min`: it is sent again no sooner than after this, as the answer takes its time. An answer that says only
        that our address is not proven brings the cookie for it, so one more try is made.
        """
        for attempt in (0, 1):
            try:
                return await self._ask(
                    contact, body, decode, deadline_s or RPC_DEADLINE_S, resends_max, padded, rto_s_min
                )
            except RemoteError as error:
                if error.code != "cookie" or attempt or not contact.cookie:
                    raise
        raise AssertionError("unreachable")

    async def _ask(
        self,
        contact: Contact,
        body: bytes,
        decode: wire.Decode,
        deadline_s: float,
        resends_max: int,
        padded: bool,
        rto_s_min: float,
    ) -> Any:
        if contact.outstanding >= RPC_OUTSTANDING_PER_CONTACT_MAX or contact.waiting:
            await self._wait_turn(contact)
        if self._closed or len(self.outstanding) >= RPC_OUTSTANDING_MAX:
            self._pass_turn(contact)
            raise SilentError("closed") if self._closed else RemoteError("busy", "too many requests under way here")
        future: asyncio.Future[Any] = self._loop.create_future()
        call = self._send(contact, body, decode, partial(_settle, future), deadline_s, resends_max, padded, rto_s_min)
        try:
            return await future
        finally:
            self._withdraw(call)

    def begin(
        self, contact: Contact, body: bytes, decode: wire.Decode, done: Done, deadline_s: float | None = None
    ) -> Call | None:
        """The same without a task, for a proven contact: the outcome comes by `done`, which never comes at once.

        None where something is in the way and the request has to wait: then `ask`.
        """
        if contact.outstanding >= RPC_OUTSTANDING_PER_CONTACT_MAX or contact.waiting or not contact.cookie:
            return None
        if self._closed or len(self.outstanding) >= RPC_OUTSTANDING_MAX:
            return None
        return self._send(contact, body, decode, done, deadline_s or RPC_DEADLINE_S, RPC_RESENDS_MAX, True)

    def _send(
        self,
        contact: Contact,
        body: bytes,
        decode: wire.Decode,
        done: Done,
        deadline_s: float,
        resends_max: int,
        padded: bool,
        rto_s_min: float = 0.0,
    ) -> Call:
        loop = self._loop
        message_id = self._ids.pop() if self._ids else self._draw_id()
        trailer = contact.trailer or self._trailer(contact, len(body), padded)
        datagram = wire.request_frame(message_id, body, trailer)
        now_s = loop.time()
        rto_s = max(contact.rtt.rto_among_s(self._typical_rtt), rto_s_min)
        call = Call(message_id, contact, datagram, decode, done, self._withdraw, now_s, deadline_s, resends_max, rto_s)
        call.proving = not contact.verified and contact.kind != "stock"
        self.outstanding[message_id] = call
        if not contact.outstanding:
            contact.quiet_since_s = now_s
        contact.outstanding += 1
        self._counters["requests_sent"] += 1
        self.endpoint.sendto(datagram, contact.address)
        self._timer.add(call, call.next_moment_s(now_s, self._env.random), loop)
        return call

    def _withdraw(self, call: Call) -> None:
        """The call is over; its contact may be asked something else."""
        if call.over:
            return
        call.over = True
        self.outstanding.pop(call.message_id, None)
        call.contact.outstanding -= 1
        if call.contact.waiting:
            self._pass_turn(call.contact)

    def _finish(self, call: Call, result: Any, error: RemoteError | None) -> None:
        self._withdraw(call)
        try:
            call.done(result, error)
        except Exception:  # a bug of whoever asked must not stop others' answers
            log.exception("an answer could not be taken")

    def _draw_id(self) -> bytes:
        size = wire.MESSAGE_ID_BYTES
        drawn = self._env.random_bytes(IDS_DRAWN * size)
        self._ids = [drawn[offset : offset + size] for offset in range(0, len(drawn), size)]
        return self._ids.pop()

    def _trailer(self, contact: Contact, body_bytes: int, padded: bool) -> bytes:
        """The extension for a contact; kept at the contact once it stays the same."""
        prove = not contact.verified and contact.kind != "stock"
        flags = self._flags | (wire.PROVE if prove else 0)
        extension = wire.Extension(wire.VERSION, self._node_id, flags, cookie_yours=contact.cookie)
        if padded and not contact.cookie and contact.kind != "stock":
            return wire.padded_trailer(extension, wire.HEAD_BYTES + body_bytes)
        trailer = wire.trailer(extension)
        if not prove:
            contact.trailer = trailer
        return trailer

    async def _wait_turn(self, contact: Contact) -> None:
        """First come, first served, when a contact has as many requests as it may."""
        if self._queued >= RPC_OUTSTANDING_MAX:
            raise RemoteError("busy", "too many requests wait here")
        turn: asyncio.Future[None] = self._loop.create_future()
        contact.waiting.append(turn)
        self._queued += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_turn(contact)
            raise
        finally:
            self._queued -= 1

    @staticmethod
    def _pass_turn(contact: Contact) -> None:
        while contact.waiting:
            turn = contact.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    # --- answers ---

    def on_answer(self, frame: wire.Frame, address: Address) -> None:
        """A reply or a typed error came."""
        call = self.outstanding.get(frame.message_id)
        if call is None:
            self._counters["replies_unasked"] += 1  # late, repeated or invented
            return
        if call.contact.address != address:
            self._counters["replies_from_others"] += 1
            return
        try:
            if frame.kind == wire.ERROR and self._is_at_work(call, frame):
                return
            result = self._judge(call, frame)
        except RemoteError as error:
            self._finish(call, None, error)
        else:
            self._finish(call, result, None)

    def _is_at_work(self, call: Call, frame: wire.Frame) -> bool:
        """Did the contact say that its answer takes longer? Then it lives, and is waited for; not for ever, though."""
        contact, extension, now_s = call.contact, frame.extension, self._loop.time()
        if extension is None or contact.id not in (NO_ID, extension.node_id):
            return False
        if wire.parse_fault(frame.body).code != "working":
            return False
        call.deadline_s = max(call.deadline_s, min(now_s + RPC_DEADLINE_S, call.sent_s + RPC_WORKING_S_MAX))
        call.resends_left = RPC_RESENDS_MAX
        contact.failures = 0
        contact.last_seen_s = contact.quiet_since_s = now_s
        self._counters["answers_awaited"] += 1
        return True

    def _judge(self, call: Call, frame: wire.Frame) -> Any:
        """The decoded answer; raises what it says or what is wrong with it."""
        contact, extension = call.contact, frame.extension
        now_s = self._loop.time()
        if extension is not None:
            if contact.kind == "stock":
                contact.kind = "unknown"  # its id was never proven: let it begin anew and prove it
                raise self._replaced(contact)
            self._learn(call, extension)
        elif contact.kind == "p2pkv":
            raise self._replaced(contact)
        else:
            contact.kind = "stock"
        if call.resends and contact.rtt.trusted:
            contact.rtt.back_off(call.rto_s / BACKOFF)
        else:
            contact.rtt.observe(now_s - call.sent_s)
            if not call.resends:
                self._typical_rtt.observe(now_s - call.sent_s)
        contact.failures = 0
        contact.last_seen_s = contact.quiet_since_s = now_s
        self._events.on_answered(contact, now_s)
        if frame.kind == wire.ERROR:
            raise wire.parse_fault(frame.body)
        return wire.decoded(call.decode, frame.body, "misbehaved")

    def _replaced(self, contact: Contact) -> SilentError:
        contact.trailer = b""
        self._events.on_replaced(contact)
        return SilentError("another peer answers at its address")

    def _learn(self, call: Call, extension: wire.Extension) -> None:
        """Take cookie and proof. Raises SilentError where another peer answers than the one that was meant."""
        contact = call.contact
        if contact.id == NO_ID:
            contact.identify(extension.node_id)
        elif contact.id != extension.node_id:
            raise self._replaced(contact)
        if call.proving and not contact.verified:
            self._check_proof(call, extension)
        contact.kind = "p2pkv"
        contact.ephemeral = bool(extension.flags & wire.EPHEMERAL)
        contact.bulk = bool(extension.flags & wire.BULK)
        if extension.cookie_for_you and extension.cookie_for_you != contact.cookie:
            contact.cookie = extension.cookie_for_you
            contact.trailer = b""

    def _check_proof(self, call: Call, extension: wire.Extension) -> None:
        contact = call.contact
        text = wire.proof_text(call.message_id, contact.id, self._node_id)
        proven = is_key_of(extension.public_key, contact.id) and verify(extension.public_key, text, extension.proof)
        if not proven:
            self._counters["proofs_wrong"] += 1
            raise RemoteError("misbehaved", "its NodeID is not proven")
        contact.public_key = extension.public_key
        contact.verified = True
        contact.trailer = b""

    # --- time ---

    def _on_due(self, call: Call, now_s: float) -> None:
        """No answer yet: send again, or give up."""
        if now_s < call.deadline_s and call.resends_left > 0:
            call.resends_left -= 1
            call.resends += 1
            self._counters["requests_resent"] += 1
            self.endpoint.sendto(call.datagram, call.contact.address)
            moment_s = call.next_moment_s(now_s, self._env.random)
            self._timer.add(call, moment_s, self._loop)
            return
        self._counters["silences"] += 1
        self._events.on_silent(call.contact, call.sent_s, now_s)
        self._finish(call, None, SilentError(f"no answer within {now_s - call.sent_s:.1f} s"))

    def close(self) -> None:
        """No answer is waited for any more."""
        self._closed = True
        self._timer.close()
        for call in list(self.outstanding.values()):
            self._finish(call, None, SilentError("closed"))


def _settle(future: asyncio.Future[Any], result: Any, error: RemoteError | None) -> None:
    """Wake up whoever awaits the answer."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
