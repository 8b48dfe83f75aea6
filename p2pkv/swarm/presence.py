"""Asks the replicas of pages whether they hold certain versions, many in one message.

Theory of operation. Every replica of the pages is asked once for all the versions that it should hold, 10 bytes each
(`core.reconciliation.item_of`), and answers from memory, by what its store has made durable. A version that a majority
of its page's replicas has is as safe as a put makes it. Who is silent has nothing.

Never stores or drops anything, and believes no replica for another.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from p2pkv import messages
from p2pkv.core.pages import PageName
from p2pkv.core.reconciliation import CELL_BYTES, item_of
from p2pkv.core.records import Version, content_hash
from p2pkv.core.replication import write_quorum
from p2pkv.errors import RemoteError
from p2pkv.limits import FETCH_ITEMS_MAX, HOLDS_ITEMS_MAX
from p2pkv.swarm.bulk_calls import BulkCalls
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.inventory import StoreInventory
from p2pkv.swarm.protocol import PeerProtocol
from p2pkv.swarm.sites import Site, Sites


class Presence:
    """What replicas say they hold."""

    def __init__(self, protocol: PeerProtocol, calls: BulkCalls, sites: Sites, inventory: StoreInventory) -> None:
        self._protocol = protocol
        self._calls = calls
        self._sites = sites
        self._inventory = inventory

    async def safe(self, key: bytes, pages: Sequence[PageName], versions: Sequence[Version]) -> list[bool]:
        """Of each version, which belongs to a page of the key: does a majority of the page's replicas hold it?

        Raises UnreachableError and IncompleteError where this peer is cut off.
        """
        names = list(dict.fromkeys(pages))
        found = await asyncio.gather(*(self._sites.of(key, page) for page in names))
        sites = dict(zip(names, found, strict=True))
        items = [item_of(sites[page].place, content_hash(v)) for page, v in zip(pages, versions, strict=True)]
        counts = await self._own(items, [sites[page] for page in pages])
        shares: dict[Contact, list[int]] = defaultdict(list)
        for index, page in enumerate(pages):
            for contact in sites[page].contacts:
                shares[contact].append(index)
        answers = await asyncio.gather(*(self._ask(c, [items[i] for i in share]) for c, share in shares.items()))
        for share, held in zip(shares.values(), answers, strict=True):
            for index, here in zip(share, held, strict=False):
                counts[index] += here
        return [count >= write_quorum(sites[page].replicas) for count, page in zip(counts, pages, strict=True)]

    async def _own(self, items: Sequence[bytes], sites: Sequence[Site]) -> list[int]:
        """This peer's own share."""
        if not any(site.here for site in sites):
            return [0] * len(items)
        cells = {item[:CELL_BYTES].hex().encode() for item in items}
        try:
            await self._inventory.fresh(messages.RECORDS, sorted(cells))
        except RemoteError:  # it is still being read
            return [0] * len(items)
        return [int(site.here and self._inventory.records.has(item)) for item, site in zip(items, sites, strict=True)]

    async def _ask(self, contact: Contact, items: Sequence[bytes]) -> list[bool]:
        """What a contact says, as far as it answers."""
        held: list[bool] = []
        try:
            while len(held) < len(items):
                left = len(items) - len(held)
                some = items[len(held) : len(held) + (HOLDS_ITEMS_MAX if contact.bulk else FETCH_ITEMS_MAX)]
                request = messages.Holds(b"".join(some))
                if left > FETCH_ITEMS_MAX and contact.bulk:
                    reply = await self._calls.call(contact, messages.HOLDS, request)
                else:
                    reply = await self._protocol.call(contact, messages.HOLDS, request)
                if len(reply.held) != len(some):
                    raise RemoteError("misbehaved", "a wrong number of answers")
                held += reply.held
        except RemoteError:
            pass
        return held
