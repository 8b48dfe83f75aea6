"""Drives one lookup with asyncio: a call or a task a question, one timer for those who keep it waiting.

Owns the questions under way and what they brought. Every rule of the search lies in `core.lookup`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from p2pkv.core.candidates import Candidate, State
from p2pkv.core.lookup import Failure, Lookup
from p2pkv.core.lookup_trace import trace_of
from p2pkv.errors import RemoteError, SilentError, UnreachableError
from p2pkv.limits import LOOKUP_LINGER_S
from p2pkv.outcomes import LookupTrace
from p2pkv.swarm.contact import Contact

log = logging.getLogger(__name__)

Node = tuple[bytes, str, int]
"""NodeID, IP address and port, as peers name each other."""


@dataclass(slots=True)
class Answer:
    """What a question brought: the nodes that the contact named, and whatever else the caller asked for."""

    nodes: Iterable[Node]
    payload: object = None


Question = Callable[[Contact], Awaitable[Answer]]
"""Asks one contact. Raises RemoteError where the contact is silent or at fault.

One that has `begin` and `read` too (`question.TypedQuestion`) is asked without a task where that can be.
"""


class Running(Protocol):
    """A question under way: a task or a call."""

    def cancel(self) -> Any: ...


class SearchOwner(Protocol):
    """What a search needs of the `Lookups` that it belongs to."""

    def patience_s(self, contact: Contact) -> float: ...
    def contacts_of(self, nodes: Iterable[Node]) -> list[tuple[bytes, Contact]]: ...
    def answered(self, contact: Contact, rtt_s: float) -> None: ...
    def silent(self, contact: Contact, asked_s: float) -> None: ...
    def may_linger(self, search: Search, contact: Contact) -> bool: ...
    def released(self, search: Search, contact: Contact) -> None: ...


class Search:
    """One lookup under way. Questions to those who kept it waiting may go on behind its end: they tell who lives."""

    def __init__(self, owner: SearchOwner, lookup: Lookup[Contact], question: Question, *, linger: bool) -> None:
        self.lookup = lookup
        self.answers: dict[bytes, object] = {}
        self.failures: dict[bytes, str] = {}
        self.running: dict[bytes, Running] = {}
        self._owner = owner
        self._question = question
        self._begin = getattr(question, "begin", None)
        self._linger = linger
        self._loop = asyncio.get_running_loop()
        self.began_s = self.ended_s = self._loop.time()
        self.enough: asyncio.Future[None] = self._loop.create_future()
        self.settled: asyncio.Future[None] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Until enough have answered. Cancelling it ends all questions."""
        self._step()
        try:
            await self.enough
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """End it now, with every question."""
        self._settle()
        for node_id in list(self.running):
            self._cancel(node_id)

    def abandon(self) -> None:
        """The peer stops. Whoever waits for the outcome is told so."""
        if not self.enough.done():
            self.enough.set_exception(UnreachableError("the peer stops", "ask another peer, or start it again"))
            self.enough.exception()  # seen, where nobody waits any more
        self.cancel()

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """Those of the questions under way that are tasks."""
        return [running for running in self.running.values() if isinstance(running, asyncio.Task)]

    def _cancel(self, node_id: bytes) -> None:
        """A task says itself when it has ended; a call has."""
        running = self.running[node_id]
        running.cancel()
        if not isinstance(running, asyncio.Task):
            del self.running[node_id]

    def trace(self) -> LookupTrace:
        now_s = self.ended_s if self.enough.done() else self._loop.time()
        return trace_of(self.lookup, lambda contact: f"{contact.ip}:{contact.port}", self.began_s, now_s)

    # --- steps ---

    def _step(self) -> None:
        """Ask whom there is to ask; find out whether that was all."""
        if self.settled.done():
            return
        for candidate in self.lookup.next_questions(self._loop.time(), self._owner.patience_s):
            self._spawn(candidate)
        if self.lookup.finished:
            self._finished()
        else:
            self._arm()

    def _finished(self) -> None:
        if not self.enough.done():
            self.ended_s = self._loop.time()
            self.enough.set_result(None)
            if self._linger:
                self._deadline = self._loop.call_later(LOOKUP_LINGER_S, self._end)
                self.lookup.need_all()
                self._step()
                return
        self._end()

    def _end(self) -> None:
        """Nothing that comes from now on counts. Whoever was slow may still show that it lives."""
        self._settle()
        for candidate in self.lookup.in_flight:
            if candidate.state is State.ASKED or not self._owner.may_linger(self, candidate.contact):
                self._cancel(candidate.node_id)

    def _settle(self) -> None:
        for timer in (self._timer, self._deadline):
            if timer:
                timer.cancel()
        if not self.settled.done():
            self.settled.set_result(None)

    def _arm(self) -> None:
        """One timer for all that are in flight; it is set anew only after it fired."""
        if self._timer is None:
            due_s = self.lookup.next_timer_s()
            if due_s is not None:
                self._timer = self._loop.call_at(due_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.lookup.on_time(self._loop.time())
        self._step()

    # --- questions ---

    def _spawn(self, candidate: Candidate[Contact]) -> None:
        call = self._begin and self._begin(candidate.contact, partial(self._on_reply, candidate))
        if call is not None:
            self.running[candidate.node_id] = call
        else:
            self._spawn_task(candidate)

    def _spawn_task(self, candidate: Candidate[Contact]) -> None:
        task = self._loop.create_task(self._ask(candidate))
        self.running[candidate.node_id] = task
        task.add_done_callback(partial(self._done, candidate))

    def _done(self, candidate: Candidate[Contact], task: asyncio.Task[None]) -> None:
        """A question is over. One that was cancelled from outside counts as silent, so that no lookup waits for it."""
        del self.running[candidate.node_id]
        if task.cancelled() and not self.settled.done():
            self._fail(candidate.contact, SilentError("cancelled"))
        self._step()
        self._owner.released(self, candidate.contact)

    def _on_reply(self, candidate: Candidate[Contact], reply: object, error: RemoteError | None) -> None:
        """A call is over. Where only our cookie had run out, the question is put again in full."""
        if error is not None and error.code == "cookie":
            self._spawn_task(candidate)
            return
        del self.running[candidate.node_id]
        answer: Answer | None = None
        try:
            if error is None:
                answer = self._question.read(reply)  # type: ignore[attr-defined]
        except RemoteError as fault:
            error = fault
        except Exception as fault:
            self._broken(fault)
        self._judge(candidate, answer, error)
        self._step()
        self._owner.released(self, candidate.contact)

    async def _ask(self, candidate: Candidate[Contact]) -> None:
        try:
            answer = await self._question(candidate.contact)
        except RemoteError as error:
            self._judge(candidate, None, error)
        except Exception as error:
            self._broken(error)
        else:
            self._judge(candidate, answer, None)

    def _judge(self, candidate: Candidate[Contact], answer: Answer | None, error: RemoteError | None) -> None:
        """What an answer or its absence tells of the contact."""
        contact = candidate.contact
        if isinstance(error, SilentError):
            self._owner.silent(contact, candidate.asked_s)
        else:
            self._owner.answered(contact, self._loop.time() - candidate.asked_s)
        if error is not None:
            self._fail(contact, error)
        elif answer is not None:
            self._take(contact, answer)

    def _take(self, contact: Contact, answer: Answer) -> None:
        if not self.settled.done():
            self.answers[contact.id] = answer.payload
            self.lookup.on_answer(contact.id, self._owner.contacts_of(answer.nodes), self._loop.time())

    def _fail(self, contact: Contact, error: RemoteError) -> None:
        if not self.settled.done():
            self.failures[contact.id] = str(error)
            failure: Failure = "silent" if isinstance(error, SilentError) else "error"
            self.lookup.on_failure(contact.id, failure, self._loop.time())

    def _broken(self, error: Exception) -> None:
        """The question itself is broken: the caller must know, or the log where it has gone on."""
        if not self.enough.done():
            self.enough.set_exception(error)
        elif not self.settled.done():
            log.error("a question broke behind its lookup", exc_info=error)
            self.cancel()
