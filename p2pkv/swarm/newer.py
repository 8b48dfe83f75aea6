"""Asks pages for newer versions of records that were found above them: thousands of names in one message.

Theory of operation. While a key's pages split, a read finds records that are on their way down, and must know of each
whether a newer version stands below already. So every peer is asked once for all the pages and names that it is to
speak for, and tells only what the asker does not have: mostly nothing. A read quorum of a page's replicas is enough,
because whatever was acknowledged in the page lies at one of them; where answers stay away, the others are asked too.
As in `opening.py`, only those speak for a page who hold it and are of the asker's opinion who else does. Of a page for
which no quorum speaks so, or where versions wait in batches, nothing is said here: it is left to a lookup.

Owns the questions under way. Reads the store, and never writes.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from p2pkv import messages
from p2pkv.core.pages import PageName, place_of_page
from p2pkv.core.records import HASH_BYTES, Version, content_hash, encoded_bytes
from p2pkv.core.replication import read_quorum
from p2pkv.errors import RemoteError, SilentError
from p2pkv.ids import ID_BYTES, Place
from p2pkv.limits import (
    BULK_REPLY_BYTES_MAX,
    NAME_BYTES_MAX,
    NEWER_ASKED_BYTES_MAX,
    NEWER_BYTES_MAX,
    NEWER_NAMES_ASKED_MAX,
    NEWER_PAGES_ASKED_MAX,
    NEWER_READ_AT_ONCE,
    RECORDS_JUDGED_AT_ONCE,
    RUN_PATIENCE_S,
)
from p2pkv.swarm.bulk_calls import BulkCalls
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.holdings import Holdings
from p2pkv.swarm.lookup import Lookups
from p2pkv.swarm.neighbourhood import Neighbourhood
from p2pkv.swarm.runs import check_batches


class NewerHere:
    """What this peer's pages hold beside what others know."""

    def __init__(self, holdings: Holdings, neighbourhood: Neighbourhood) -> None:
        self._store = holdings.store
        self._holdings = holdings
        self._neighbourhood = neighbourhood

    async def on_find_newer(self, request: messages.FindNewer) -> messages.FindNewerReply:
        """About as many of the names, from the first, as there is room for; at least about one."""
        _check_request(request.pages)
        self._holdings.below_leftovers()
        replies: list[messages.FindNamesReply] = []
        room_bytes = NEWER_BYTES_MAX
        for some in _together(request.pages):
            for asked, held in zip(some, await self._held(some), strict=True):
                if room_bytes < 0:
                    return messages.FindNewerReply(replies)
                reply = await self._about(asked, held, room_bytes)
                room_bytes -= sum(map(encoded_bytes, reply.versions))
                replies.append(reply)
        return messages.FindNewerReply(replies)

    async def of(self, asked: messages.KnownNames, room_bytes: int) -> messages.FindNamesReply:
        """About one page: about as many names, at least about one, until the room is used up."""
        (held,) = await self._held([asked])
        return await self._about(asked, held, room_bytes)

    async def _held(self, pages: Sequence[messages.KnownNames]) -> list[list[list[Version]]]:
        return await self._store.read_names([(Place(page.place), page.names) for page in pages])

    async def _about(
        self, asked: messages.KnownNames, named: Sequence[list[Version]], room_bytes: int
    ) -> messages.FindNamesReply:
        place = Place(asked.place)
        versions: list[Version] = []
        batches: set[bytes] = set()
        answered = 0
        for held in named:
            if answered and room_bytes < 0:
                break
            known = asked.known[HASH_BYTES * answered : HASH_BYTES * (answered + 1)]
            others = [version for version in held if not version.pending and content_hash(version) != known]
            versions += others
            room_bytes -= sum(map(encoded_bytes, others))
            batches.update(version.batch for version in held if version.pending)
            answered += 1
            if not answered % RECORDS_JUDGED_AT_ONCE:
                await asyncio.sleep(0)
        # Asked behind the reading: records leave a split page, and what was read must not lack them unawares.
        split = (await self._holdings.of(place)).split
        nodes = self._neighbourhood.differing(place, asked.view)
        mine = self._neighbourhood.speaks_for(place)
        return messages.FindNamesReply(versions, answered, nodes, split, mine, sorted(batches))


def _together(pages: Sequence[messages.KnownNames]) -> Iterator[list[messages.KnownNames]]:
    """Pages in groups that are read at once: of few names each, as mostly, a visit of a thread would cost more."""
    group: list[messages.KnownNames] = []
    names = 0
    for page in pages:
        if group and names + len(page.names) > NEWER_READ_AT_ONCE:
            yield group
            group, names = [], 0
        group.append(page)
        names += len(page.names)
    yield group


def _check_request(pages: Sequence[messages.KnownNames]) -> None:
    if not 0 < len(pages) <= NEWER_PAGES_ASKED_MAX or sum(len(page.names) for page in pages) > NEWER_NAMES_ASKED_MAX:
        raise RemoteError("malformed", "a wrong number of pages or names")
    for page in pages:
        if len(page.place) != ID_BYTES or not page.names or len(page.known) != HASH_BYTES * len(page.names):
            raise RemoteError("malformed", "a page that is none, or hashes that are not one a name")
        if max(map(len, page.names)) > NAME_BYTES_MAX:
            raise RemoteError("malformed", "a name too long")


class Below:
    """What a read quorum of one page says: what it holds in place of the versions that are known."""

    __slots__ = ("hashes", "names", "place", "quorum", "said", "spares", "split", "versions", "view", "waiting")

    def __init__(self, place: Place, view: bytes, spares: list[Contact], quorum: int, known: Sequence[Version]) -> None:
        self.place = place
        self.view = view
        self.spares = spares  # replicas that are not asked yet
        self.quorum = quorum
        self.names = [version.name for version in known]
        self.hashes = b"".join(map(content_hash, known))
        self.said = 0  # replicas that have spoken of all names
        self.waiting = 0  # replicas that are being asked
        self.versions: list[Version] = []
        self.split = False

    def question(self, first: int, count: int) -> messages.KnownNames:
        """About some of the names."""
        hashes = self.hashes[HASH_BYTES * first : HASH_BYTES * (first + count)]
        return messages.KnownNames(self.place, self.names[first : first + count], hashes, self.view)

    def hear(self, reply: messages.FindNamesReply) -> bool:
        """Take what one replica says; whether it may speak for the page."""
        self.versions += reply.versions
        self.split |= reply.split
        return reply.mine and not reply.nodes and not reply.batches

    def choose(self, count: int, loads: Counter[bytes]) -> list[Contact]:
        """Replicas to ask next: those that have least to do."""
        self.spares.sort(key=lambda contact: loads[contact.id])
        chosen, self.spares = self.spares[:count], self.spares[count:]
        for contact in chosen:
            loads[contact.id] += len(self.names)
        return chosen

    @property
    def lacking(self) -> bool:
        return self.said < self.quorum


class _Job:
    """A page that one contact is to speak for."""

    __slots__ = ("first", "page")

    def __init__(self, page: Below) -> None:
        self.page = page
        self.first = 0  # of the names, that is not answered yet


class Newer:
    """Asks the replicas of many pages."""

    def __init__(self, calls: BulkCalls, lookups: Lookups, own: NewerHere, neighbourhood: Neighbourhood) -> None:
        self._calls = calls
        self._lookups = lookups
        self._own = own
        self._neighbourhood = neighbourhood

    async def ask(self, key: bytes, shares: Mapping[PageName, Sequence[Version]]) -> dict[PageName, Below]:
        """What pages hold in place of some versions; pages that must be asked by lookups are left out.

        Raises UnreachableError and IncompleteError where this peer is cut off.
        """
        await self._lookups.ready()
        pages = {page: below for page, known in shares.items() if (below := self._page(key, page, known)) is not None}
        for below in pages.values():
            if self._neighbourhood.keeps(below.place):
                await self._ask_here(below)
        await self._ask_others(list(pages.values()))
        self._lookups.require_swarm()  # again: the silence of most may have shown just now
        return {page: below for page, below in pages.items() if not below.lacking}

    def _page(self, key: bytes, page: PageName, known: Sequence[Version]) -> Below | None:
        """None where too few of its replicas are known, or take bulk transfer."""
        place, k = place_of_page(key, page), self._neighbourhood.k
        view, contacts = self._neighbourhood.view(place)
        here = self._neighbourhood.keeps(place)
        if len(contacts) + here < k:
            return None  # who counts as a replica in so small a swarm, only a lookup can tell
        silent = self._lookups.silences.is_silent
        able = [contact for contact in contacts if contact.bulk and not silent(contact)]
        return Below(place, view, able, read_quorum(k), known) if len(able) + here >= read_quorum(k) else None

    async def _ask_here(self, below: Below) -> None:
        reply = await self._own.of(below.question(0, len(below.names)), BULK_REPLY_BYTES_MAX)
        below.said += below.hear(reply) and reply.answered == len(below.names)

    async def _ask_others(self, pages: Sequence[Below]) -> None:
        """Until a quorum has spoken for each, or nobody is left who could."""
        loads: Counter[bytes] = Counter()
        asking = self._begin({below: below.choose(below.quorum - below.said, loads) for below in pages})
        try:
            while asking and any(below.lacking for below in pages):
                done, asking = await asyncio.wait(asking, timeout=RUN_PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # a fault of ours is not passed over
                late = [below for below in pages if below.lacking and not (done and below.waiting)]
                asking |= self._begin({below: below.choose(len(below.spares), loads) for below in late})
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    def _begin(self, chosen: Mapping[Below, Sequence[Contact]]) -> set[asyncio.Task[None]]:
        jobs: dict[Contact, list[_Job]] = defaultdict(list)
        for below, contacts in chosen.items():
            below.waiting += len(contacts)
            for contact in contacts:
                jobs[contact].append(_Job(below))
        return {asyncio.create_task(self._ask(contact, of)) for contact, of in jobs.items()}

    async def _ask(self, contact: Contact, jobs: list[_Job]) -> None:
        """All that one contact is to say, in as many messages as it takes."""
        asked_s = asyncio.get_running_loop().time()
        try:
            while jobs:
                part = _part(jobs)
                request = messages.FindNewer([asked for _, asked in part])
                reply = await self._calls.call(contact, messages.FIND_NEWER, request)
                _check_reply(reply, request)
                over = {job for (job, _), said in zip(part, reply.replies, strict=False) if _heard(job, said)}
                jobs = [job for job in jobs if job not in over]
        except SilentError:
            self._lookups.silent(contact, asked_s)
        except RemoteError:
            pass  # others are asked in its place
        finally:
            for job in jobs:
                job.page.waiting -= 1


def _part(jobs: Iterable[_Job]) -> list[tuple[_Job, messages.KnownNames]]:
    """As much of what is to be asked, from the first, as fits one message."""
    part: list[tuple[_Job, messages.KnownNames]] = []
    names_left, bytes_left = NEWER_NAMES_ASKED_MAX, NEWER_ASKED_BYTES_MAX
    for job in jobs:
        count = 0
        for name in job.page.names[job.first : job.first + names_left]:
            bytes_left -= len(name) + HASH_BYTES
            if bytes_left < 0:
                break
            count += 1
        if not count or len(part) == NEWER_PAGES_ASKED_MAX:
            break
        names_left -= count
        part.append((job, job.page.question(job.first, count)))
    return part


def _heard(job: _Job, said: messages.FindNamesReply) -> bool:
    """Take one answer; is nothing more to be asked of this contact about the page?"""
    job.first += said.answered
    fit = job.page.hear(said)
    whole = job.first == len(job.page.names)
    if fit and not whole:
        return False
    job.page.said += fit
    job.page.waiting -= 1
    return True


def _check_reply(reply: messages.FindNewerReply, request: messages.FindNewer) -> None:
    if not 0 < len(reply.replies) <= len(request.pages):
        raise RemoteError("misbehaved", "a wrong number of pages")
    for asked, said in zip(request.pages, reply.replies, strict=False):
        if not 0 < said.answered <= len(asked.names):
            raise RemoteError("misbehaved", "a wrong number of names")
        check_batches(said.batches)
