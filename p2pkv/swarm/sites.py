"""Who holds the pages of a key: looked up once each, and remembered for a short while.

Owns that memory. Whoever finds a page's replicas changed has its site forgotten.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from p2pkv.core.pages import PageName, place_of_page
from p2pkv.ids import Place
from p2pkv.limits import PAGE_SITES_MAX, PAGE_SITES_S, PAGES_ASKED_AT_ONCE_MAX
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.lookup import Lookups
from p2pkv.swarm.neighbourhood import Neighbourhood


@dataclass(frozen=True)
class Site:
    """Who holds a page."""

    place: Place
    contacts: list[Contact]
    here: bool
    replicas: int  # that should hold it, the silent ones too: else a writer among the dead were the majority
    until_s: float


class Sites:
    """The replicas of the pages that batches went to lately."""

    def __init__(self, lookups: Lookups, neighbourhood: Neighbourhood) -> None:
        self._lookups = lookups
        self._neighbourhood = neighbourhood
        self._known: OrderedDict[Place, Site] = OrderedDict()
        self._finding: dict[Place, asyncio.Task[Site]] = {}
        self._slots = asyncio.Semaphore(PAGES_ASKED_AT_ONCE_MAX)

    async def of(self, key: bytes, page: PageName) -> Site:
        place = place_of_page(key, page)
        site = self._known.get(place)
        if site is not None and site.until_s > asyncio.get_running_loop().time():
            return site
        finding = self._finding.get(place)
        if finding is None:  # batches that run side by side go to the same pages
            finding = self._finding[place] = asyncio.create_task(self._find(place))
            finding.add_done_callback(lambda done: self._found(place, done))
        return await asyncio.shield(finding)

    def _found(self, place: Place, finding: asyncio.Task[Site]) -> None:
        del self._finding[place]
        if finding.cancelled() or finding.exception() is not None:
            return
        self._known[place] = finding.result()
        self._known.move_to_end(place)
        if len(self._known) > PAGE_SITES_MAX:
            self._known.popitem(last=False)

    async def _find(self, place: Place) -> Site:
        await self._lookups.ready()
        async with self._slots:
            found = await self._lookups.find_nodes(place)
        self._lookups.require_swarm()  # again: the silence of most may have shown just now
        here = self._neighbourhood.keeps(place)
        contacts = [contact for contact in found.contacts if contact.kind != "stock"]
        contacts = contacts[: self._neighbourhood.k - here]
        replicas = min(self._neighbourhood.k, found.replicas + here)
        return Site(place, contacts, here, replicas, asyncio.get_running_loop().time() + PAGE_SITES_S)

    def forget(self, place: Place) -> None:
        self._known.pop(place, None)

    async def close(self) -> None:
        finding = list(self._finding.values())
        for task in finding:
            task.cancel()
        await asyncio.gather(*finding, return_exceptions=True)
