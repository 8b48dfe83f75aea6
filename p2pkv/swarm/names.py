"""Reads records by name, from every page that may hold them.

Theory of operation. A record lies in the leaf of its name, or still in a split page above it. The pages are asked from
the top down, one behind the other, because records move down: what left a page before it was asked is in its child by
then. The versions of all pages are merged by rank. Of many records whose versions are known already, only what is newer
is asked for, of all pages of a level at once (`newer.py`), and of the pages that this leaves out by name.

Owns nothing but the questions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from p2pkv import messages
from p2pkv.core.pages import ROOT, PageName, PageTree, path_of, place_of_page
from p2pkv.core.records import Version, merge, rank
from p2pkv.core.replication import Identity, digest_of, settle
from p2pkv.limits import NAMES_ASKED_MAX, PAGES_ASKED_AT_ONCE_MAX
from p2pkv.swarm.mending import Mender
from p2pkv.swarm.newer import Newer
from p2pkv.swarm.page_reading import require_quorum
from p2pkv.swarm.signing import genuine
from p2pkv.swarm.sources import Opening, Sources

Held = dict[Identity, Version]
"""The versions of the highest rank, dead and expired ones too."""


class NameReader:
    """Questions by name."""

    def __init__(self, sources: Sources, newer: Newer, mender: Mender) -> None:
        self._sources = sources
        self._newer = newer
        self._mender = mender
        self._slots = asyncio.Semaphore(PAGES_ASKED_AT_ONCE_MAX)

    async def read(self, key: bytes, tree: PageTree, name: bytes) -> list[Version]:
        """Every owner's version under a name, the highest rank first. Raises IncompleteError."""
        held = await self.held(key, tree, ROOT, [name])
        return sorted(held.values(), key=rank, reverse=True)

    async def held(self, key: bytes, tree: PageTree, page: PageName, names: list[bytes]) -> Held:
        """What a page and those below it hold under names that belong there."""
        held: Held = {}
        split = page in tree.closed
        if not split:
            for start in range(0, len(names), NAMES_ASKED_MAX):
                split |= await self._ask(key, page, names[start : start + NAMES_ASKED_MAX], held)
        if split:
            tree.noticed.add(page)
            await self.below(key, tree, page, names, held)
        return held

    async def below(self, key: bytes, tree: PageTree, page: PageName, names: list[bytes], held: Held) -> None:
        """Merge in what the children of a split page hold under the names."""
        shares: dict[PageName, list[bytes]] = {}
        for name in names:
            path = path_of(name)
            if len(path) > len(page):
                shares.setdefault(path[: len(page) + 1], []).append(name)
        children = await asyncio.gather(*(self.held(key, tree, child, share) for child, share in shares.items()))
        for child in children:
            _merge_in(held, child.values())

    async def newer(self, key: bytes, tree: PageTree, page: PageName, versions: Sequence[Version]) -> Held:
        """Of versions that a split page holds: what outranks them in the pages below it. Raises IncompleteError."""
        return await self._downwards(key, tree, _shares_below(page, versions), versions)

    async def newer_from(self, key: bytes, tree: PageTree, shares: Mapping[PageName, Sequence[Version]]) -> Held:
        """Of versions that belong to pages: what outranks them there and below. Raises IncompleteError."""
        return await self._downwards(key, tree, shares, [version for share in shares.values() for version in share])

    async def _downwards(
        self, key: bytes, tree: PageTree, asked: Mapping[PageName, Sequence[Version]], versions: Sequence[Version]
    ) -> Held:
        """Page by page from the top: what one does not hold any more, it has moved on."""
        held: Held = {version.identity: version for version in versions}
        while asked:
            split = await self._ask_for_newer(key, tree, asked, held)
            shares = [_shares_below(page, share) for page, share in asked.items() if page in split]
            asked = {child: share for children in shares for child, share in children.items()}
        return {version.identity: held[version.identity] for version in versions if held[version.identity] != version}

    async def _ask_for_newer(
        self, key: bytes, tree: PageTree, asked: Mapping[PageName, Sequence[Version]], held: Held
    ) -> set[PageName]:
        """Merge in what pages hold in place of versions; which of the pages are split."""
        split = {page for page in asked if page in tree.closed}
        found = await self._newer.ask(key, {page: share for page, share in asked.items() if page not in split})
        lied = set[PageName]()  # somebody made a version up, and may have kept silent of others
        for page, below in found.items():
            told = set(below.versions)
            versions = [version for version in told if genuine(key, version)]
            _merge_in(held, versions)
            split |= {page} if below.split else set()
            lied |= {page} if len(versions) < len(told) else set()
        left = [page for page in asked if page not in split and (page not in found or page in lied)]
        names = [sorted({version.name for version in asked[page]}) for page in left]
        are_split = await asyncio.gather(*map(partial(self._ask_apart, key, held), left, names))
        split |= {page for page, is_split in zip(left, are_split, strict=True) if is_split}
        tree.noticed |= split
        return split

    async def _ask_apart(self, key: bytes, held: Held, page: PageName, names: list[bytes]) -> bool:
        """As `_ask`, of one of many pages."""
        split = False
        async with self._slots:
            for start in range(0, len(names), NAMES_ASKED_MAX):
                split |= await self._ask(key, page, names[start : start + NAMES_ASKED_MAX], held)
        return split

    async def _ask(self, key: bytes, page: PageName, names: list[bytes], held: Held) -> bool:
        """Merge in what one page holds; whether it is split."""
        split = False
        while names:
            opening = await self._open(key, page, names)
            split |= opening.split
            replies = [reply for reply in opening.replies if isinstance(reply, messages.FindNamesReply)]
            answered = min(reply.answered for reply in replies)
            self._take(key, page, set(names[:answered]), opening, held)
            names = names[answered:]
        return split

    async def _open(self, key: bytes, page: PageName, names: list[bytes]) -> Opening:
        """Hear a quorum; everybody where they differ, or know nothing."""
        request = messages.FindNames(place_of_page(key, page), names)
        opening = await self._sources.open(key, request)
        lacking = not opening.split and not any(reply.versions for reply in opening.replies)
        differing = any(reply.versions != opening.replies[0].versions for reply in opening.replies)
        if len(opening.sources) < opening.quorum or lacking or differing:
            opening = await self._sources.open_all(key, request, opening)
        require_quorum(opening, page)
        return opening

    def _take(self, key: bytes, page: PageName, names: set[bytes], opening: Opening, held: Held) -> None:
        holdings = [[version for version in reply.versions if version.name in names] for reply in opening.replies]
        if len(set(map(digest_of, holdings))) > 1:
            holdings = [[version for version in versions if genuine(key, version)] for versions in holdings]
        settlements = settle(holdings)
        if opening.split:
            self._mender.tell_split(key, page, opening.unaware)
        else:
            self._mender.mend(key, page, opening.sources, settlements)
        _merge_in(held, (settled.version for settled in settlements))


def _merge_in(held: Held, versions: Iterable[Version]) -> None:
    for version in versions:
        held[version.identity] = merge(held.get(version.identity), version)


def _shares_below(page: PageName, versions: Iterable[Version]) -> dict[PageName, list[Version]]:
    """Versions by the children of their page. A stock peer's value belongs to none."""
    shares: dict[PageName, list[Version]] = {}
    for version in versions:
        path = path_of(version.name)
        if len(path) > len(page):
            shares.setdefault(path[: len(page) + 1], []).append(version)
    return shares
