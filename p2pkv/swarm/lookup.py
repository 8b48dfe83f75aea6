"""Lookups of one peer: finds the k nearest live contacts of a target, and asks them whatever the caller wants to know.

Owns the searches under way and what it learnt from them about who is silent and how fast the swarm answers. The rules
of a search are `core.lookup`'s, its tasks are `search`'s.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Collection, Coroutine, Iterable
from typing import Any, Protocol

from kademlia.node import Node

from p2pkv.core.lookup import Lookup, Need, doubt_s
from p2pkv.core.rtt import RttEstimator
from p2pkv.errors import IncompleteError, P2pkvError, SilentError, UnreachableError
from p2pkv.ids import ID_BYTES
from p2pkv.limits import (
    ALPHA_DEFAULT,
    CUT_OFF_PING_S,
    CUT_OFF_SAMPLE,
    K_DEFAULT,
    LOOKUP_PATIENCE_MIN_S,
    LOOKUPS_LINGERING_MAX,
    LOST_S,
)
from p2pkv.outcomes import LookupTrace
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.environment import Environment
from p2pkv.swarm.isolation import Isolation, majority
from p2pkv.swarm.search import Answer, Question, Search
from p2pkv.swarm.silence import Silences

PORT_MAX = 65_535

__all__ = ["Answer", "Found", "Lookups", "Question"]


class Router(Protocol):
    """What is needed of the routing table."""

    def __len__(self) -> int: ...
    def find_neighbors(self, node: Node, k: int | None = None, exclude: Node | None = None) -> list[Contact]: ...
    def contacts(self) -> list[Contact]: ...


class LookupProtocol(Protocol):
    """What is needed of the protocol."""

    @property
    def router(self) -> Router: ...
    @property
    def source_node(self) -> Node: ...
    @property
    def former(self) -> Collection[Contact]: ...
    def contact_for(self, node_id: bytes, address: tuple[str, int]) -> Contact: ...
    def call_find_node(self, node_to_ask: Contact, node_to_find: Node) -> Awaitable[tuple[bool, Any]]: ...
    def call_ping(self, node_to_ask: Contact) -> Coroutine[Any, Any, tuple[bool, Any]]: ...


class Found:
    """The outcome of a lookup. It grows until `settle` where the lookup was told to linger, and is fixed else."""

    def __init__(self, search: Search) -> None:
        self._search = search

    @property
    def contacts(self) -> list[Contact]:
        """The at most k nearest live contacts, nearest first: those that answered. Never this peer itself."""
        return [candidate.contact for candidate in self._search.lookup.nearest]

    @property
    def replicas(self) -> int:
        """How many contacts should hold what belongs at the target: at most k, those that fail counted too."""
        return self._search.lookup.replicas

    @property
    def answers(self) -> dict[bytes, object]:
        """What the question brought, by NodeID; of all who were asked, not of the nearest alone."""
        return self._search.answers

    @property
    def failures(self) -> dict[bytes, str]:
        """Why others did not answer, by NodeID."""
        return self._search.failures

    def answered_of(self, count: int) -> int:
        """How many of the `count` nearest answered so far; the others are silent, and whoever answered stands in."""
        return self._search.lookup.answered_of(count)

    @property
    def began_s(self) -> float:
        """By the loop's clock."""
        return self._search.began_s

    @property
    def trace(self) -> LookupTrace:
        return self._search.trace()

    @property
    def pending(self) -> list[asyncio.Task[None]]:
        """Questions that still go on."""
        return self._search.tasks

    def address_of(self, node_id: bytes) -> str:
        """HOST:PORT of a contact that was asked; empty for others."""
        for candidate in self._search.lookup.asked:
            if candidate.node_id == node_id:
                return f"{candidate.contact.ip}:{candidate.contact.port}"
        return ""

    async def settle(self) -> None:
        """Wait until all of the k nearest have answered or failed, where the lookup lingers. Never raises."""
        await asyncio.shield(self._search.settled)


class Lookups:
    """This peer's lookups."""

    def __init__(
        self, protocol: LookupProtocol, env: Environment, k: int = K_DEFAULT, alpha: int = ALPHA_DEFAULT
    ) -> None:
        self.k = k
        self.silences = Silences()
        self.joined: asyncio.Event | None = None  # of a peer that joins a swarm: it has looked around there
        self._isolation = Isolation(protocol.router, self.silences, k)
        self._closed = False
        self._protocol = protocol
        self._env = env
        self._alpha = alpha
        self._typical_rtt = RttEstimator()
        self._searches: dict[Search, None] = {}  # with questions under way, in the order of their beginning
        self._lingering: dict[bytes, Search] = {}  # slow contacts that a question behind its lookup waits for
        self._probes: dict[bytes, asyncio.Task[None]] = {}

    async def find_nodes(self, target: bytes, k: int | None = None) -> Found:
        """The k nearest live contacts of a target. Stock peers are asked and found like ours."""
        return await self.ask(target, lambda contact: self.nodes_of(contact, target), k=k)

    async def nodes_of(self, contact: Contact, target: bytes) -> Answer:
        """The plain question, which stock peers understand too: who is nearest to the target?"""
        happened, nodes = await self._protocol.call_find_node(contact, Node(target))
        if not happened:
            raise SilentError
        return Answer(nodes or ())

    async def ask(
        self,
        target: bytes,
        question: Question,
        *,
        need: Need = None,
        k: int | None = None,
        eager: bool = False,
        linger: bool = False,
    ) -> Found:
        """Put a question to the k nearest live contacts of a target, as they are found.

        `need`: how many of these must answer (or a function of how many there are), all by default. `eager`: ask all
        of them, and not only as many as are needed. `linger`: go on behind the return until all have answered or
        failed; `Found.settle` waits for it. Silence raises nothing; an empty routing table makes an empty outcome.
        """
        k = k or self.k
        own_id = self._protocol.source_node.id
        lookup: Lookup[Contact] = Lookup(target, k, self._alpha, need=need, eager=eager, own_id=own_id)
        self._seed(lookup, target, k)
        search = Search(self, lookup, question, linger=linger)
        self._searches[search] = None
        if self._closed:
            search.abandon()
        else:
            self._probe_silent()
        try:
            await search.run()
        finally:
            self._forget_if_idle(search)
        return Found(search)

    async def ready(self) -> None:
        """Wait where this peer is just joining and has found somebody; then as `require_swarm`."""
        if self.joined is not None and not self.joined.is_set() and len(self._protocol.router):
            await self.joined.wait()
        self.require_swarm()

    def require_swarm(self) -> None:
        """Raise UnreachableError where others are expected and none is known, IncompleteError where most are silent.

        A peer that is not joined yet, or cut off, must not take itself, or its side, for all that there are.
        """
        if self.joined is not None:
            if not len(self._protocol.router):
                raise UnreachableError(
                    "no peer of the swarm is known", "start with --bootstrap HOST:PORT of a running peer"
                )
            if not self.joined.is_set():
                raise IncompleteError("this peer is still joining the swarm", "try again in a second")
        self._isolation.require_majority(self._protocol.former, asyncio.get_running_loop().time())

    def knows_swarm(self) -> bool:
        """Does this peer know who the replicas of a place are, as far as it can tell?"""
        try:
            self.require_swarm()
        except P2pkvError:
            return False
        return True

    async def hears_most(self, since_s: float) -> bool:
        """Do most of the contacts live, as far as can be told at once? Asks those that were not heard since then."""
        contacts = self._protocol.router.contacts()
        if len(contacts) > CUT_OFF_SAMPLE:
            contacts = self._env.random.sample(contacts, CUT_OFF_SAMPLE)
        quiet = [contact for contact in contacts if contact.last_seen_s < since_s]
        heard = len(contacts) - len(quiet)
        return majority(heard, len(contacts)) or await self._hears_most_of(quiet, heard, len(contacts))

    async def _hears_most_of(self, quiet: list[Contact], heard: int, others: int) -> bool:
        """Ask the quiet ones, until with those heard already they are most of the others."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + CUT_OFF_PING_S
        waiting = {loop.create_task(self._protocol.call_ping(contact)) for contact in quiet}
        try:
            while waiting and not majority(heard, others) and (left_s := deadline_s - loop.time()) > 0:
                done, waiting = await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                heard += sum(ping.result()[0] for ping in done)
        finally:
            for ping in waiting:
                ping.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        return majority(heard, others)

    async def close(self) -> None:
        """End all lookups and whatever goes on behind them."""
        searches = list(self._searches)
        tasks = [task for search in searches for task in search.tasks]
        self._closed = True
        for search in searches:
            search.abandon()
        for probe in self._probes.values():
            probe.cancel()
        await asyncio.gather(*tasks, *self._probes.values(), return_exceptions=True)

    # --- what a search needs ---

    def patience_s(self, contact: Contact) -> float:
        """How long a lookup waits for a contact: by its own round trips, else by those that the swarm usually takes.

        One that keeps an earlier question waiting for so long that it is in doubt is not waited for at all: what one
        lookup has found out the hard way, the others need not.
        """
        usual_s = self._usual_s(contact)
        return 0.0 if contact.outstanding and self._quiet_s(contact) > doubt_s(usual_s) else usual_s

    def doubted_in_s(self, contact: Contact, most_s: float = math.inf) -> float:
        """How much longer a contact has to be silent to be in doubt; infinite where nothing is asked of it.

        `most_s`: it may be taken to be at most so far away.
        """
        if self.silences.is_silent(contact):
            return 0.0
        if not contact.outstanding:
            return math.inf
        usual_s = max(LOOKUP_PATIENCE_MIN_S, min(self._usual_s(contact), most_s))
        return doubt_s(usual_s) - self._quiet_s(contact)

    def _usual_s(self, contact: Contact) -> float:
        rtt: RttEstimator = contact.rtt
        return rtt.patience_among_s(self._typical_rtt)

    @staticmethod
    def _quiet_s(contact: Contact) -> float:
        return asyncio.get_running_loop().time() - contact.quiet_since_s

    def quickest_s(self, contact: Contact) -> float:
        """The quickest answer that it ever gave, or else that anybody gave; infinite before the first."""
        return contact.rtt.least_s if contact.rtt.samples else self._typical_rtt.least_s

    def contacts_of(self, nodes: Iterable[tuple[bytes, str, int]]) -> list[tuple[bytes, Contact]]:
        """Nodes that a peer named, as contacts; malformed ones, and those that were silent lately, are left out."""
        contacts = [self._protocol.contact_for(node[0], (node[1], node[2])) for node in nodes if _is_node(node)]
        return [(contact.id, contact) for contact in contacts if not self.silences.is_silent(contact)]

    def answered(self, contact: Contact, rtt_s: float) -> None:
        self._typical_rtt.observe(rtt_s)
        self.silences.forget(contact)

    def silent(self, contact: Contact, asked_s: float) -> None:
        """It did not answer. If it was heard otherwise meanwhile, it lives and was just busy."""
        if contact.last_seen_s <= asked_s:
            self.silences.note(contact, asyncio.get_running_loop().time())

    def may_linger(self, search: Search, contact: Contact) -> bool:
        """May one question to this slow contact go on, to learn whether it lives? One is enough."""
        if contact.id in self._lingering or len(self._lingering) >= LOOKUPS_LINGERING_MAX:
            return False
        self._lingering[contact.id] = search
        return True

    def released(self, search: Search, contact: Contact) -> None:
        """A question of a search is over."""
        if self._lingering.get(contact.id) is search:
            del self._lingering[contact.id]
        self._forget_if_idle(search)

    # --- helpers ---

    def _forget_if_idle(self, search: Search) -> None:
        if search.enough.done() and not search.running:
            self._searches.pop(search, None)

    def _seed(self, lookup: Lookup[Contact], target: bytes, k: int) -> None:
        """Begin from the nearest contacts of our own table: k, as many to take the places of the dead, and the silent.

        Where everybody is silent, it was we who were cut off: ask them all the same.
        """
        contacts = self._protocol.router.find_neighbors(Node(target), 2 * k + min(len(self.silences), 2 * k))
        heard = [(contact.id, contact) for contact in contacts if not self.silences.is_silent(contact)]
        lookup.add(heard or [(contact.id, contact) for contact in contacts])
        if heard and len(heard) < len(contacts):
            lookup.add_silent((contact.id, contact) for contact in contacts)
        if len(contacts) < k:
            lookup.add_silent((contact.id, contact) for contact in self._lost_lately())

    def _lost_lately(self) -> list[Contact]:
        """Evicted contacts, which count among the replicas of a small swarm for a while: those who are cut off from
        the majority must not take themselves for the whole swarm as soon as they have forgotten it."""
        now_s = asyncio.get_running_loop().time()
        return [contact for contact in self._protocol.former if now_s < contact.failed_s + LOST_S]

    def _probe_silent(self) -> None:
        """Ask contacts that were silent, beside whatever is under way, whether they are back."""
        for contact in self.silences.due(asyncio.get_running_loop().time()):
            self.probe(contact)

    def probe(self, contact: Contact) -> None:
        """Ask a contact, beside whatever is under way, whether it lives."""
        if contact.id not in self._probes and len(self._probes) < LOOKUPS_LINGERING_MAX:
            probe = asyncio.get_running_loop().create_task(self._ping(contact))
            probe.add_done_callback(lambda _: self._probes.pop(contact.id))
            self._probes[contact.id] = probe

    async def _ping(self, contact: Contact) -> None:
        asked_s = asyncio.get_running_loop().time()
        happened, _ = await self._protocol.call_ping(contact)
        if happened:
            self.silences.back(contact, asyncio.get_running_loop().time())
        else:
            self.silent(contact, asked_s)


def _is_node(node: object) -> bool:
    """Is it what peers call a node? Stock peers send whatever they like."""
    if not isinstance(node, tuple | list) or len(node) != 3:
        return False
    node_id, ip, port = node
    return (
        isinstance(node_id, bytes)
        and len(node_id) == ID_BYTES
        and isinstance(ip, str)
        and isinstance(port, int)
        and 0 < port <= PORT_MAX
    )
