"""What pages hold in a few bytes each: a digest and the number of live records, many pages in one message.

Theory of operation. A key of many records has hundreds of pages, and a count of it wants to know of each whether its
replicas agree, and on what number. So every peer is asked once for all the pages that it is to speak for. A replica
keeps what it has reckoned until something is written to the page, or a record of it expires. It does not speak for a
page that it is no replica of, that is split or too long, or of whose replicas it has another opinion than the asker:
such a page is then asked for by itself, with all that belongs to it (counting.py).

Owns the bounded memory of summaries. Reads the store, and never writes.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from p2pkv import messages
from p2pkv.core.pages import PageName, place_of_page
from p2pkv.core.replication import DIGEST_BYTES, digest_of, read_quorum
from p2pkv.errors import RemoteError
from p2pkv.ids import ID_BYTES, Place
from p2pkv.limits import (
    RECORDS_DIGEST_MAX,
    SUMMARIES_ASKED_MAX,
    SUMMARIES_KEPT_MAX,
    SUMMARIES_TURN_S,
    VERSION_BYTES_MAX,
)
from p2pkv.storage.interface import PutRegister, RangeQuery, Write
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.environment import Environment
from p2pkv.swarm.holdings import Holdings
from p2pkv.swarm.lookup import Lookups
from p2pkv.swarm.neighbourhood import Neighbourhood
from p2pkv.swarm.protocol import PeerProtocol, Sender

Summary = tuple[bytes, int]
"""A digest of all versions of a page, and how many of them live. An empty digest: ask for this page by itself."""

_UNSURE: Summary = (b"", 0)


class _Kept(NamedTuple):
    summary: Summary
    until_s: float  # a record expires then


class Summaries:
    """This peer's pages, summed up."""

    def __init__(self, holdings: Holdings, neighbourhood: Neighbourhood, env: Environment) -> None:
        self._store = holdings.store
        self._holdings = holdings
        self._neighbourhood = neighbourhood
        self._env = env
        self._kept: OrderedDict[Place, _Kept] = OrderedDict()
        self._reading: dict[Place, object] = {}  # pages being summed up; taken out where they are written to

    def on_wrote(self, writes: Sequence[Write] | None) -> None:
        """The store was written to; None: nobody knows where."""
        if writes is None:
            self._kept.clear()
            self._reading.clear()
            return
        for write in writes:
            if not isinstance(write, PutRegister):
                self._kept.pop(write.place, None)
                self._reading.pop(write.place, None)

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
            return kept.summary
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
        now_s = self._env.now_s()
        live = [version for version in result.versions if not version.dead and not version.expired(now_s)]
        summary = digest_of(result.versions), len(live)
        if untouched:
            until_s = min((v.expires_ms / 1000 for v in live if v.expires_ms), default=float("inf"))
            self._kept[place] = _Kept(summary, until_s)
            if len(self._kept) > SUMMARIES_KEPT_MAX:
                self._kept.popitem(last=False)
        return summary


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
        said: dict[PageName, list[Summary]] = {}
        asked: dict[Contact, list[tuple[PageName, Place, bytes]]] = defaultdict(list)
        loads: Counter[bytes] = Counter()
        for page in pages:
            place = place_of_page(key, page)
            view, contacts = self._neighbourhood.view(place)
            here = self._neighbourhood.keeps(place)
            if len(contacts) + here < self._neighbourhood.k:
                continue  # who counts as a replica in so small a swarm, only an opening of the page can tell
            said[page] = [await self._own.of(place, view)] if here else []
            for contact in sorted(contacts, key=lambda contact: loads[contact.id])[: quorum - here]:
                loads[contact.id] += 1
                asked[contact].append((page, place, view))
        for answers in await asyncio.gather(*(self._ask(contact, of) for contact, of in asked.items())):
            for page, summary in answers:
                said[page].append(summary)
        self._lookups.require_swarm()  # again: the silence of most may have shown just now
        return {
            page: summaries[0][1]
            for page, summaries in said.items()
            if len(summaries) >= quorum and len({digest for digest, _ in summaries}) == 1 and summaries[0][0]
        }

    async def _ask(
        self, contact: Contact, pages: Sequence[tuple[PageName, Place, bytes]]
    ) -> list[tuple[PageName, Summary]]:
        """What a contact says of pages, as far as it answers."""
        answers: list[tuple[PageName, Summary]] = []
        try:
            while len(answers) < len(pages):
                part = pages[len(answers) : len(answers) + SUMMARIES_ASKED_MAX]
                request = messages.Summarize([(place, view) for _, place, view in part])
                reply = await self._protocol.call(contact, messages.SUMMARIZE, request)
                _check(reply, len(part))
                answers += [(page, summary) for (page, _, _), summary in zip(part, reply.summaries, strict=False)]
        except RemoteError:
            pass  # these pages are asked for by themselves
        return answers


def _check(reply: messages.SummarizeReply, asked: int) -> None:
    if not 0 < len(reply.summaries) <= asked:
        raise RemoteError("misbehaved", "a wrong number of summaries")
    if any(len(digest) not in (0, DIGEST_BYTES) or live < 0 for digest, live in reply.summaries):
        raise RemoteError("misbehaved", "a summary that is none")
