"""A watch's leases at the replicas of the key's pages, renewed in rounds.

Theory of operation. A round finds the replicas of the place and asks a read quorum of them, and a spare one, for
leases. Every majority that acknowledges a put has a member in common with every read quorum. So where a read quorum of
today's replicas says that its leases stood unbroken since the last round, everything that was acknowledged meanwhile
has been pushed: the round is sound. After any other round the watch has to read. That a page splits is pushed like a
record, and nothing is stored in its children before a majority has it: so a watch that is told takes leases of the
children, reads, and misses nothing.

Owns which replicas granted leases. Reads and judges no version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from p2pkv import messages
from p2pkv.core.pages import ROOT, PageName, PageTree, place_of_page
from p2pkv.core.replication import read_quorum
from p2pkv.errors import RemoteError, UnreachableError
from p2pkv.ids import NodeID, Place
from p2pkv.limits import (
    PAGES_ASKED_AT_ONCE_MAX,
    WATCH_DEADLINE_S,
    WATCH_LEASE_S,
    WATCH_LEASE_S_MAX,
    WATCH_PAGE_S,
    WATCH_PAGES_MAX,
    WATCH_RENEW_S,
    WATCH_S,
    WATCH_SPARE_LEASES,
)
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.leases import Leases, Sink
from p2pkv.swarm.lookup import Found, Lookups
from p2pkv.swarm.neighbourhood import Neighbourhood
from p2pkv.swarm.protocol import PeerProtocol


class Network:
    """What subscriptions of this peer share."""

    def __init__(
        self,
        protocol: PeerProtocol,
        lookups: Lookups,
        neighbourhood: Neighbourhood,
        leases: Leases,
        node_id: NodeID,
        tree_of: Callable[[bytes], PageTree],
    ) -> None:
        """`tree_of` tells what this peer believes of a key's pages."""
        self.protocol = protocol
        self.lookups = lookups
        self.neighbourhood = neighbourhood
        self.leases = leases
        self.node_id = node_id
        self.tree_of = tree_of


class Subscription:
    """The leases of one watch at one place."""

    def __init__(self, network: Network, place: Place, watch: bytes, sink: Sink) -> None:
        self.covered = False  # the last round got a read quorum of leases
        self._network = network
        self._place = place
        self._watch = watch
        self._sink = sink
        self._leased: dict[bytes, Contact | None] = {}  # by NodeID; None: this peer itself
        self._quorum = 1
        self._lease_ms = 0

    async def renew(self, lease_s: float) -> bool:
        """One round; was it sound? Raises nothing: where nobody answers, nothing is leased."""
        network, before = self._network, self._leased
        here = network.neighbourhood.keeps(self._place)
        try:
            found = await self._find(here)
        except UnreachableError:  # no contact at all
            self._leased, self.covered = {}, False
            return False
        replicas = min(network.neighbourhood.k, found.replicas + here)
        quorum = read_quorum(replicas) if replicas else 1
        kept: set[bytes] = set()
        leased: dict[bytes, Contact | None] = {}
        if self._renew_own(here):
            kept.add(network.node_id)
        if here:
            leased[network.node_id] = None
        self._lease_ms = int(lease_s * 1000)
        await self._lease(found.contacts[:replicas], quorum + WATCH_SPARE_LEASES, leased, kept)
        sound = len(kept & before.keys()) >= max(quorum, self._quorum)
        self._leased, self._quorum, self.covered = leased, quorum, len(leased) >= quorum
        return sound

    async def _find(self, here: bool) -> Found:
        """The replicas that answer, as many of them as are wanted; silent ones are not waited for."""
        lookups, k = self._network.lookups, self._network.neighbourhood.k

        def need(remote: int) -> int:
            return max(0, min(remote, read_quorum(min(k, remote + here)) + WATCH_SPARE_LEASES - here)) if remote else 0

        return await lookups.ask(self._place, lambda contact: lookups.nodes_of(contact, self._place), need=need)

    def _renew_own(self, here: bool) -> bool:
        """This peer's own lease, as long as it is a replica; did it stand already?"""
        if here:
            self._network.leases.hold(self._place, self._watch, self._sink)
        else:
            self._network.leases.release(self._place, self._watch)
        return here and self._network.node_id in self._leased

    async def _lease(
        self, contacts: Sequence[Contact], wanted: int, leased: dict[bytes, Contact | None], kept: set[bytes]
    ) -> None:
        """Ask for as many leases as are wanted: where one stands already first, then where it is nearest."""
        waiting = [contact for contact in contacts if contact.kind != "stock"]
        waiting.sort(key=lambda contact: contact.id not in self._leased)
        while waiting and len(leased) < wanted:
            missing = wanted - len(leased)
            asked, waiting = waiting[:missing], waiting[missing:]
            for contact, reply in zip(asked, await asyncio.gather(*map(self._ask, asked)), strict=True):
                if reply is not None and reply.lease_ms > 0:
                    leased[contact.id] = contact
                    if reply.unbroken:
                        kept.add(contact.id)

    async def _ask(self, contact: Contact) -> messages.WatchReply | None:
        request = messages.Watch(self._place, self._watch, self._lease_ms)
        try:
            return await self._network.protocol.call(contact, messages.WATCH, request, deadline_s=WATCH_DEADLINE_S)
        except RemoteError:
            return None

    async def _end(self, contact: Contact) -> None:
        request = messages.Watch(self._place, self._watch, 0)
        try:
            await self._network.protocol.call(contact, messages.WATCH, request, deadline_s=WATCH_DEADLINE_S)
        except RemoteError:
            return  # the lease ends by itself

    def end(self) -> None:
        """End all leases; the replicas are told behind the caller's back."""
        self._network.leases.release(self._place, self._watch)
        for contact in self._leased.values():
            if contact is not None:
                self._network.protocol.spawn(self._end(contact))
        self._leased = {}


class Subscriptions:
    """The leases of one watch at all pages of its key."""

    def __init__(self, network: Network, key: bytes, watch: bytes, sink: Sink) -> None:
        self.whole = False  # the last round covered every page
        self._network = network
        self._key = key
        self._watch = watch
        self._sink = sink
        self._pages: dict[PageName, Subscription] = {}

    async def renew(self) -> bool:
        """One round of every page; was each sound? Of a page that is new it is not."""
        self._follow()
        slots = asyncio.Semaphore(PAGES_ASKED_AT_ONCE_MAX)
        lease_s = min(max(WATCH_LEASE_S, 4 * self.interval_s), WATCH_LEASE_S_MAX)

        async def renew(subscription: Subscription) -> bool:
            async with slots:
                return await subscription.renew(lease_s)

        subscriptions = list(self._pages.values())
        sound = await asyncio.gather(*map(renew, subscriptions))
        self.whole = all(subscription.covered for subscription in subscriptions) and not self.grown
        return all(sound) and not self.grown

    def notice(self, page: PageName) -> None:
        """A replica says that a page of ours is split."""
        if page in self._pages:
            self._network.tree_of(self._key).noticed.add(page)

    @property
    def grown(self) -> bool:
        """Are there pages without leases?"""
        return any(page not in self._pages for page in self._known())

    @property
    def interval_s(self) -> float:
        """Between two rounds: the more pages, the longer."""
        return max(WATCH_RENEW_S, WATCH_PAGE_S * len(self._pages))

    @property
    def pause_s(self) -> float:
        """Between two reads where leases are missing."""
        return max(WATCH_S, WATCH_PAGE_S * len(self._known()))

    def _known(self) -> list[PageName]:
        """The pages that may still take records, stock peers' values in the root included."""
        tree = self._network.tree_of(self._key)
        return [page for page in tree.below(ROOT) if page not in tree.closed or page == ROOT]

    def _follow(self) -> None:
        """Take up pages that were noticed, as many as a watch may have, and leave those that are closed."""
        closed = self._network.tree_of(self._key).closed - {ROOT}
        for page in closed & self._pages.keys():
            self._pages.pop(page).end()
        for page in self._known():
            if page not in self._pages and len(self._pages) < WATCH_PAGES_MAX:
                place = place_of_page(self._key, page)
                self._pages[page] = Subscription(self._network, place, self._watch, self._sink)

    def end(self) -> None:
        for subscription in self._pages.values():
            subscription.end()
