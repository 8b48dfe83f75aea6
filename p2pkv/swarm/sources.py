"""The replicas of one page as a reader sees them: this peer's own share and other peers behind one face.

Owns the opening of a page: which replicas answer, whether they are enough to be complete, and which of them agree.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from p2pkv import messages
from p2pkv.core.pages import PageName, place_of_page
from p2pkv.core.records import Version
from p2pkv.core.replication import read_quorum
from p2pkv.core.views import Views
from p2pkv.errors import IncompleteError, RemoteError, UnreachableError
from p2pkv.ids import Place
from p2pkv.limits import (
    BEYOND_QUORUM_S,
    SILENT_REPLICAS_RETRIES_MAX,
    SILENT_REPLICAS_RETRY_S,
)
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.lookup import Answer, Found, Lookups, Question
from p2pkv.swarm.neighbourhood import Neighbourhood
from p2pkv.swarm.protocol import PeerProtocol
from p2pkv.swarm.question import TypedQuestion
from p2pkv.swarm.replica import Replica
from p2pkv.swarm.runs import Runs, check_batches, checked


class Source(Protocol):
    """One replica of a page."""

    async def find(self, request: messages.FindRecords) -> messages.FindRecordsReply: ...
    async def find_names(self, request: messages.FindNames) -> messages.FindNamesReply: ...
    async def mend(self, key: bytes, page: PageName, versions: list[Version]) -> None: ...


class LocalSource:
    """This peer's own share."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def find(self, request: messages.FindRecords) -> messages.FindRecordsReply:
        return await self._replica.find(request)

    async def find_names(self, request: messages.FindNames) -> messages.FindNamesReply:
        return await self._replica.find_names(request)

    async def mend(self, key: bytes, page: PageName, versions: list[Version]) -> None:
        await self._replica.store_versions(key, versions, [place_of_page(key, page)] * len(versions))


class RemoteSource:
    """Another peer's share. Every method raises RemoteError where that peer fails."""

    def __init__(self, protocol: PeerProtocol, runs: Runs, contact: Contact) -> None:
        self._protocol = protocol
        self._runs = runs
        self.contact = contact

    async def find(self, request: messages.FindRecords) -> messages.FindRecordsReply:
        """It may travel together with what others ask of the contact."""
        return await self._runs.find(self.contact, request)

    async def find_names(self, request: messages.FindNames) -> messages.FindNamesReply:
        reply = await self._protocol.call(self.contact, messages.FIND_NAMES, request)
        return _checked_names(reply, len(request.names))

    async def mend(self, key: bytes, page: PageName, versions: list[Version]) -> None:
        depths = bytes([len(page)]) * len(versions)
        request = messages.StoreRecords(key, versions, force=True, depths=depths)
        await self._protocol.call(self.contact, messages.STORE_RECORDS, request)


def _checked_names(reply: messages.FindNamesReply, count: int) -> messages.FindNamesReply:
    if not 0 < reply.answered <= count:
        raise RemoteError("misbehaved", "a wrong number of names")
    check_batches(reply.batches)
    return reply


Reply = messages.FindRecordsReply | messages.FindNamesReply
Settle = Callable[[bytes, Place, Iterable[bytes]], Awaitable[bool]]
"""Brings committed batches to their end in one page of a key; True where that may have changed what is read there."""


async def _none_waits(key: bytes, place: Place, batches: Iterable[bytes]) -> bool:
    return False


@dataclass
class Opening:
    """The first answers of a page's replicas."""

    sources: list[Source]
    replies: list[Reply]  # one a source
    replicas: int  # how many should hold the page
    quorum: int  # how many must be heard for a complete answer
    failures: list[str] = field(default_factory=list)
    strangers: int = 0  # peers that answered and are none of the replicas
    enough: list[Source] = field(default_factory=list)  # where views differ: all of these make a quorum of each
    everybody: bool = False  # all who can be had were asked, of one mind or not
    apart: bool = False  # some view has no quorum here, and others of it may answer

    @property
    def split(self) -> bool:
        """Does any of them say that the page is split?"""
        return any(reply.split for reply in self.replies)

    @property
    def batches(self) -> set[bytes]:
        """In which versions of the page wait somewhere."""
        return {batch for reply in self.replies for batch in reply.batches}

    @property
    def unaware(self) -> list[Source]:
        """Those who do not say so."""
        return [source for source, reply in zip(self.sources, self.replies, strict=True) if not reply.split]

    def require_quorum(self) -> None:
        """Raise where too few replicas answered to be sure that nothing is missing."""
        if not self.replicas:
            raise UnreachableError(
                "no peer of the swarm is known", "start with --bootstrap HOST:PORT of a running peer"
            )
        if len(self.sources) < self.quorum:
            why = f" ({'; '.join(self.failures[:3])})" if self.failures else ""
            raise IncompleteError(
                f"{len(self.sources)} of {self.replicas} replicas answered, {self.quorum} are needed{why}",
                "try again when more peers are reachable",
            )


class Sources:
    """Opens pages."""

    def __init__(
        self, protocol: PeerProtocol, runs: Runs, lookups: Lookups, replica: Replica, neighbourhood: Neighbourhood
    ) -> None:
        self._protocol = protocol
        self._runs = runs
        self._lookups = lookups
        self._replica = replica
        self._neighbourhood = neighbourhood
        self.settle: Settle = _none_waits  # what is asked where versions wait in batches

    async def close(self) -> None:
        """End what is under way."""
        await self._runs.close()

    def remote(self, contact: Contact) -> RemoteSource:
        return RemoteSource(self._protocol, self._runs, contact)

    async def open(self, key: bytes, request: messages.FindRecords | messages.FindNames) -> Opening:
        """Ask a read quorum of the page's replicas one question; again, where a batch had to be brought to its end.

        Whatever was committed before this was called waits at one of a quorum, or stands there: so what is heard to
        wait now is settled first, and what comes to wait later is passed over.
        """
        opening = await self.open_raw(request)
        if opening.batches and await self.settle(key, Place(request.place), opening.batches):
            return await self.open_raw(request)
        return opening

    async def open_raw(self, request: messages.FindRecords | messages.FindNames) -> Opening:
        """As `open`, whatever waits in batches.

        Where replicas are slow, the lookup passes them by and asks peers beyond the k nearest, which hold nothing and
        say that they are none of the replicas. They do not count: all replicas are waited for then. Only for those
        that proved to be silent others stand in, and never for all.
        """
        opening = await self._open(request, all_replicas=False, deadline_s=None)
        if opening.strangers and len(opening.sources) < opening.quorum:
            return await self._open_waiting(request)
        return await self._of_every_view(request, opening)

    async def _of_every_view(self, request: messages.FindRecords | messages.FindNames, opening: Opening) -> Opening:
        """Hear all replicas, where some of a view that has no quorum yet may be among them.

        No more than that can be had: a view of somebody who does not know yet who is dead must not keep reads waiting.
        """
        if not opening.apart:
            return opening
        wider = await self._open(request, all_replicas=True, deadline_s=None)
        return wider if len(wider.sources) >= wider.quorum else opening

    async def _open_waiting(self, request: messages.FindRecords | messages.FindNames) -> Opening:
        """Wait for all replicas; try again where all were silent but others were not: they may have been too busy."""
        retry_s = SILENT_REPLICAS_RETRY_S
        for _ in range(SILENT_REPLICAS_RETRIES_MAX):
            opening = await self._open(request, all_replicas=True, deadline_s=None)
            if opening.sources or not opening.strangers:
                return opening
            await asyncio.sleep(retry_s)
            retry_s *= 2
        return await self._open(request, all_replicas=True, deadline_s=None)

    async def open_all(
        self, key: bytes, request: messages.FindRecords | messages.FindNames, before: Opening
    ) -> Opening:
        """Ask all of them, after a quorum was of two minds, or empty. What is more than a quorum is not waited for."""
        opening = await self._open_all(request, before)
        if opening.batches and await self.settle(key, Place(request.place), opening.batches):
            return await self._open_all(request, before)
        return opening

    async def _open_all(self, request: messages.FindRecords | messages.FindNames, before: Opening) -> Opening:
        enough = before.replicas and len(before.sources) >= before.quorum
        opening = await self._open(request, all_replicas=True, deadline_s=BEYOND_QUORUM_S if enough else None)
        if len(opening.sources) < opening.quorum and (enough or opening.strangers):
            return await self._open_waiting(request)
        return await self._of_every_view(request, opening)

    async def _open(
        self,
        request: messages.FindRecords | messages.FindNames,
        *,
        all_replicas: bool,
        deadline_s: float | None,
    ) -> Opening:
        await self._lookups.ready()
        place = Place(request.place)
        view, _ = self._neighbourhood.view(place)
        request = msgspec.structs.replace(request, view=view)
        here = self._neighbourhood.keeps(place)

        question = self._question(request, place, deadline_s)

        def need(remote: int) -> int:
            return remote if all_replicas else max(0, self._quorum(remote + here) - here)

        own = [await _ask(LocalSource(self._replica), request)] if here else []
        found = await self._lookups.ask(place, question, need=need, eager=all_replicas)
        self._lookups.require_swarm()  # again: the silence of most may have shown just now
        return self._opening(place, found, own, waited=all_replicas and deadline_s is None)

    def _question(
        self, request: messages.FindRecords | messages.FindNames, place: Place, deadline_s: float | None
    ) -> Question:
        def ask_stock(contact: Contact) -> Awaitable[Answer]:
            return self._lookups.nodes_of(contact, place)

        async def ask_within(contact: Contact) -> Answer:
            if contact.kind == "stock":
                return await ask_stock(contact)
            reply = await _ask_within(self.remote(contact), request, deadline_s)
            return Answer(reply.nodes, reply)

        if deadline_s is not None:
            return ask_within
        if isinstance(request, messages.FindRecords):
            return TypedQuestion(
                self._protocol,
                messages.FIND_RECORDS,
                request,
                lambda reply: Answer(reply.nodes, checked(reply)),
                ask_stock=ask_stock,
            )
        count = len(request.names)
        return TypedQuestion(
            self._protocol,
            messages.FIND_NAMES,
            request,
            lambda reply: Answer(reply.nodes, _checked_names(reply, count)),
            ask_stock=ask_stock,
        )

    def _quorum(self, replicas: int) -> int:
        return read_quorum(min(self._neighbourhood.k, replicas)) if replicas else 0

    def _opening(self, place: Place, found: Found, own: list[Reply], *, waited: bool) -> Opening:
        replicas = min(self._neighbourhood.k, found.replicas + len(own))
        quorum = self._quorum(replicas)
        heard: list[tuple[Source, Reply]] = [(LocalSource(self._replica), reply) for reply in own]
        strangers: list[tuple[Source, Reply]] = []
        for contact in found.contacts:
            reply = found.answers.get(contact.id)
            if isinstance(reply, messages.FindRecordsReply | messages.FindNamesReply):
                (heard if reply.mine else strangers).append((self.remote(contact), reply))
        failures = [f"{found.address_of(node)}: {why}" for node, why in found.failures.items()]
        if strangers:
            failures.append(f"{len(strangers)} that answered are not among its replicas")
        if waited and 0 < len(heard) < quorum:
            heard += strangers
        sources, replies = [source for source, _ in heard], [reply for _, reply in heard]
        opening = Opening(sources, replies, replicas, quorum, failures, len(strangers))
        if any(reply.nodes for reply in replies):
            self._compare_views(place, opening)
        return opening

    def _compare_views(self, place: Place, opening: Opening) -> None:
        """Where answerers differ from this peer about who the replicas are: is a quorum of each view heard?"""
        k, (_, contacts) = self._neighbourhood.k, self._neighbourhood.view(place)
        here = self._neighbourhood.keeps(place)
        if len(contacts) + here < k:
            return
        own_id = self._neighbourhood.node_id
        views = Views(place, k, [contact.id for contact in contacts] + [own_id] * here)
        heard: dict[bytes, Source] = {}
        others = {contact.id for contact in contacts if not self._lookups.silences.is_silent(contact)}
        for source, reply in zip(opening.sources, opening.replies, strict=True):
            node_id = source.contact.id if isinstance(source, RemoteSource) else own_id
            heard[node_id] = source
            others.update(node_id for node_id, _ in self._lookups.contacts_of(reply.nodes))
            view = view_of(node_id, reply)
            if len(view) == k:
                views.add(view)
        opening.enough = [heard[node_id] for node_id in views.cover(list(heard))]
        opening.apart = any(view & others - heard.keys() for view in views.unmet(heard.keys()))


def view_of(node_id: bytes, reply: Reply) -> list[bytes]:
    """Whom an answerer takes for the replicas of a page, where it differs from the asker; empty where it does not."""
    return [node.node_id for node in reply.nodes] + [node_id] * reply.mine if reply.nodes else []


async def _ask_within(
    source: Source, request: messages.FindRecords | messages.FindNames, deadline_s: float | None
) -> Reply:
    """A replica that takes longer is slow here, not silent: it must not be taken for dead."""
    try:
        async with asyncio.timeout(deadline_s):
            return await _ask(source, request)
    except TimeoutError:
        raise RemoteError("silent", f"no answer within {deadline_s} s") from None


async def _ask(source: Source, request: messages.FindRecords | messages.FindNames) -> Reply:
    if isinstance(request, messages.FindRecords):
        return await source.find(request)
    return await source.find_names(request)
