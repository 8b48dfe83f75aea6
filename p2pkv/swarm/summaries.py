"""What pages hold in a few bytes each: a digest and the number of live records, many pages in one message.

Theory of operation. A key of many records has hundreds of pages, and a count of it wants to know of each whether its
replicas agree, and on what number. So every peer is asked once for all the pages that it is to speak for. Where the
first of a page's replicas differ, as they do for a moment behind every put, the others are asked too: any read quorum
that says the same will do where nobody has more. A replica does not speak for a page that it is no replica of, that is
split or too long, or of whose replicas it has another opinion than the asker: such a page is then asked for by itself,
with all that belongs to it (counting.py).

A replica reads a page once and then follows what is written to it; one that it has known from its first record on, it
never reads. So the digest is a sum, in which the order of the records does not matter. It tells replicas apart that
lag, not such that lie.

Owns the bounded memory of summaries. Reads the store, and never writes.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from p2pkv import messages
from p2pkv.core.pages import PageName, place_of_page
from p2pkv.core.records import Flag, Version, content_hash
from p2pkv.core.replication import DIGEST_BYTES, read_quorum
from p2pkv.errors import RemoteError
from p2pkv.ids import ID_BYTES, Place
from p2pkv.limits import (
    RECORDS_DIGEST_MAX,
    SUMMARIES_ASKED_MAX,
    SUMMARIES_KEPT_MAX,
    SUMMARIES_TURN_S,
    VERSION_BYTES_MAX,
)
from p2pkv.storage.interface import RangeQuery
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.environment import Environment
from p2pkv.swarm.holdings import Holdings
from p2pkv.swarm.inventory import Change
from p2pkv.swarm.lookup import Lookups
from p2pkv.swarm.neighbourhood import Neighbourhood
from p2pkv.swarm.protocol import PeerProtocol, Sender

Summary = tuple[bytes, int]
"""A digest of all versions of a page, and how many of them live. An empty digest: ask for this page by itself."""

_UNSURE: Summary = (b"", 0)
_SPECIAL = Flag.SPLIT | Flag.PENDING


@dataclass(slots=True)
class Sum:
    """What a page holds, added up."""

    hashes: int = 0  # of the contents of all versions
    live: int = 0
    until_s: float = inf  # a record expires then, and the sum holds no longer

    def add(self, version: Version, hash_: bytes) -> None:
        self.hashes += int.from_bytes(hash_, "big")
        if not version.dead:
            self.live += 1
            if version.expires_ms:
                self.until_s = min(self.until_s, version.expires_ms / 1000)

    def follow(self, change: Change) -> bool:
        """Take a change in; False where only the whole page tells what it comes to."""
        _, came, came_hash, went, went_hash = change
        if came is None or came.flags & _SPECIAL:
            return False
        if went is not None:
            if went.expires_ms:
                return False  # nobody knows whether it counted
            self.hashes -= int.from_bytes(went_hash, "big")
            self.live -= not went.dead
        self.add(came, came_hash)
        return True

    def summary(self) -> Summary:
        return (self.hashes % (1 << 8 * DIGEST_BYTES)).to_bytes(DIGEST_BYTES, "big"), self.live


class Summaries:
    """This peer's pages, summed up."""

    def __init__(self, holdings: Holdings, neighbourhood: Neighbourhood, env: Environment) -> None:
        self._store = holdings.store
        self._holdings = holdings
        self._neighbourhood = neighbourhood
        self._env = env
        self._kept: OrderedDict[Place, Sum] = OrderedDict()
        self._reading: dict[Place, object] = {}  # pages being summed up; taken out where they are written to

    def on_changed(self, changes: Sequence[Change] | None, created: Collection[Place]) -> None:
        """The store was written to."""
        if changes is None:
            self._kept.clear()
            self._reading.clear()
            return
        for place in created:
            self._keep(place, Sum())
        for change in changes:
            place = change.place
            self._reading.pop(place, None)
            kept = self._kept.get(place)
            if kept is not None and not kept.follow(change):
                del self._kept[place]

    def _keep(self, place: Place, kept: Sum) -> None:
        self._kept[place] = kept
        if len(self._kept) > SUMMARIES_KEPT_MAX:
            self._kept.popitem(last=False)

    async def on_summarize(self, sender: Sender, request: messages.Summarize) -> messages.SummarizeReply:
        """As many of the pages as are summed up within a moment, at least one."""
        if not 0 < len(request.pages) <= SUMMARIES_ASKED_MAX or any(len(p) != ID_BYTES for p, _ in request.pages):
            raise RemoteError("malformed", "a wrong number of pages, or places that are none")
        loop = asyncio.get_running_loop()
        until_s, summaries = loop.time() + SUMMARIES_TURN_S, list[Summary]()
        for place, view in request.pages:
            summaries.append(await self.of(Place(place), view))
            if loop.time() >= until_s:
                break
        return messages.SummarizeReply(summaries)

    async def of(self, place: Place, view: bytes) -> Summary:
        """One page, as this peer may speak for it to somebody with this opinion of its replicas."""
        differs = self._neighbourhood.view(place)[0] != view or self._neighbourhood.differing(place, view)
        if differs or not self._neighbourhood.speaks_for(place):
            return _UNSURE
        kept = self._kept.get(place)
        if kept is not None and self._env.now_s() < kept.until_s:
            self._kept.move_to_end(place)
            return kept.summary()
        return await self._sum_up(place)

    async def _sum_up(self, place: Place) -> Summary:
        mark = self._reading[place] = object()
        bytes_max = RECORDS_DIGEST_MAX * VERSION_BYTES_MAX
        query = RangeQuery(place, limit=RECORDS_DIGEST_MAX, bytes_max=bytes_max, dead=True)
        try:
            result = await self._store.read(query)
            # Asked behind the reading: records leave a split page, and what was read must not lack them unawares.
            split = (await self._holdings.of(place)).split
        finally:
            untouched = self._reading.pop(place, None) is mark
        if result.more or split or result.batches:
            return _UNSURE
        now_s, found = self._env.now_s(), Sum()
        for version in result.versions:
            if version.expired(now_s):
                found.hashes += int.from_bytes(content_hash(version), "big")
            else:
                found.add(version, content_hash(version))
        if untouched:
            self._keep(place, found)
        return found.summary()


@dataclass(slots=True)
class Voices:
    """What replicas say of a page that is counted."""

    place: Place
    view: bytes
    said: list[Summary]
    unasked: list[Contact] = field(default_factory=list)

    def agreed(self, quorum: int) -> int | None:
        """The number that a quorum says with one voice, and nobody a greater one: others may lag, not be ahead."""
        voices = Counter(summary for summary in self.said if summary[0])
        for (_, live), voice in voices.most_common(1):
            if voice >= quorum and live == max(other for _, other in voices):
                return live
        return None

    @property
    def differs(self) -> bool:
        """Might others settle it? Not where none so far speaks for the page."""
        return any(digest for digest, _ in self.said)


class Summing:
    """Asks the replicas of many pages what they hold."""

    def __init__(self, protocol: PeerProtocol, lookups: Lookups, own: Summaries, neighbourhood: Neighbourhood) -> None:
        self._protocol = protocol
        self._lookups = lookups
        self._own = own
        self._neighbourhood = neighbourhood

    async def count(self, key: bytes, pages: Iterable[PageName]) -> dict[PageName, int]:
        """The live records of those pages that a read quorum speaks for with one voice; others are left out.

        Raises UnreachableError and IncompleteError where this peer is cut off.
        """
        await self._lookups.ready()
        quorum = read_quorum(self._neighbourhood.k)
        known = await self._known(key, pages)
        await self._ask_for(known, quorum)
        open_pages = {page: known[page] for page in known if known[page].agreed(quorum) is None and known[page].differs}
        await self._ask_for(open_pages, self._neighbourhood.k)
        self._lookups.require_swarm()  # again: the silence of most may have shown just now
        agreed = {page: of.agreed(quorum) for page, of in known.items()}
        return {page: live for page, live in agreed.items() if live is not None}

    async def _known(self, key: bytes, pages: Iterable[PageName]) -> dict[PageName, Voices]:
        """Who is to be asked for each page, in which order, and what this peer says of it."""
        known: dict[PageName, Voices] = {}
        for page in pages:
            place = place_of_page(key, page)
            view, contacts = self._neighbourhood.view(place)
            here = self._neighbourhood.keeps(place)
            if len(contacts) + here < self._neighbourhood.k:
                continue  # who counts as a replica in so small a swarm, only an opening of the page can tell
            known[page] = Voices(place, view, [await self._own.of(place, view)] if here else [], contacts)
        return known

    async def _ask_for(self, pages: Mapping[PageName, Voices], voices: int) -> None:
        """Ask until so many replicas have spoken for each page. Those are asked first that have least else to say."""
        loads: Counter[bytes] = Counter()
        asked: dict[Contact, list[Voices]] = defaultdict(list)
        for page in pages.values():
            contacts = sorted(page.unasked, key=lambda contact: loads[contact.id])
            wanted = voices - len(page.said)
            for contact in contacts[:wanted]:
                loads[contact.id] += 1
                asked[contact].append(page)
            page.unasked = contacts[wanted:]
        await asyncio.gather(*(self._ask(contact, of) for contact, of in asked.items()))

    async def _ask(self, contact: Contact, pages: Sequence[Voices]) -> None:
        """Note what a contact says of pages, as far as it answers."""
        answered = 0
        try:
            while answered < len(pages):
                part = pages[answered : answered + SUMMARIES_ASKED_MAX]
                request = messages.Summarize([(page.place, page.view) for page in part])
                reply = await self._protocol.call(contact, messages.SUMMARIZE, request)
                _check(reply, len(part))
                for page, summary in zip(part, reply.summaries, strict=False):
                    page.said.append(summary)
                answered += len(reply.summaries)
        except RemoteError:
            pass  # these pages are asked for by themselves


def _check(reply: messages.SummarizeReply, asked: int) -> None:
    if not 0 < len(reply.summaries) <= asked:
        raise RemoteError("misbehaved", "a wrong number of summaries")
    if any(len(digest) not in (0, DIGEST_BYTES) or live < 0 for digest, live in reply.summaries):
        raise RemoteError("misbehaved", "a summary that is none")
