"""Reads one page that is not split: a quorum of its replicas, merged, disputes settled by name.

Theory of operation. A reading opens the page with the first run from a read quorum. Where they agree (equal digests),
their answer stands; where they do not, or where nobody holds anything, every replica is asked. A longer page is read
on from one replica, while others of a quorum confirm each stretch by its digest alone, so a complete answer costs
little more than one copy of the data. A run in dispute is read from all of them and settled record by record, where
only a version whose signature holds may win. Who showed its whole page at the opening, as those do that have just come
to it and hold nothing yet, is not asked again: what the others agree on is merged with what is known of it.

Owns no bytes of the wire and no rule of merging: those are `messages` and `core.replication`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from p2pkv import messages
from p2pkv.core.pages import PageName, place_of_page, title
from p2pkv.core.records import Cursor, Version
from p2pkv.core.replication import (
    Identity,
    MergedRuns,
    Run,
    Settlement,
    digest_of,
    merge_runs,
    position,
    settle,
    within,
    without_echoes,
)
from p2pkv.errors import IncompleteError, RemoteError
from p2pkv.limits import LACKING_MENDED_MAX, NAMES_ASKED_MAX, RECORDS_DIGEST_MAX, RECORDS_JUDGED_AT_ONCE
from p2pkv.outcomes import Order
from p2pkv.swarm.hearing import Hearing
from p2pkv.swarm.mending import Mender
from p2pkv.swarm.replica import stock_bytes_of
from p2pkv.swarm.signing import genuine
from p2pkv.swarm.sources import Opening, Reply, Source, Sources


@dataclass(frozen=True)
class Query:
    """What is read of a key, and in which direction."""

    key: bytes
    order: Order = "time"
    prefix: bytes = b""
    reverse: bool = False

    def request(self, page: PageName, after: Cursor | None, until: Cursor | None, limit: int) -> messages.FindRecords:
        return messages.FindRecords(
            place=place_of_page(self.key, page),
            by_name=self.order == "name",
            reverse=self.reverse,
            after=after,
            until=until,
            prefix=self.prefix,
            limit=limit,
        )


class PageSplitError(Exception):
    """A replica says that the page is split. `opening`: what all of its replicas that were asked said of it."""

    def __init__(self, opening: Opening | None = None, until: Cursor | None = None) -> None:
        super().__init__()
        self.opening = opening
        self.until = until  # how far they were asked


class PageReading:
    """One walk over one page. `after` is how far it came; `done` when nothing lies beyond."""

    def __init__(self, sources: Sources, mender: Mender, query: Query, page: PageName, after: Cursor | None) -> None:
        self.after = after
        self.done = False
        self._sources = sources
        self._mender = mender
        self._query = query
        self._page = page
        self._opening: Opening | None = None
        self._offered: Opening | None = None
        self._disputed = False  # was something of the last run?
        self._wholes: dict[Source, Run] = {}  # of those who differ from the others and showed their whole page

    @property
    def fresh(self) -> bool:
        """Is the page to be opened next?"""
        return self._opening is None

    @property
    def read_to(self) -> Cursor | None:
        """As `SplitReading.read_to`: whatever is read is given out."""
        return self.after

    @property
    def unread(self) -> bool:
        return not self.done

    def open_with(self, opening: Opening, until: Cursor | None) -> list[Version] | None:
        """The first run, where the answers of a quorum settle it; None where `next` has to, which begins with them.

        Raises PageSplitError.
        """
        if opening.split:
            raise PageSplitError(opening, until)
        self._opening = opening
        merged = None if self._is_doubtful(opening) else self._same(opening.replies)
        if merged is None:
            self._opening, self._offered = None, opening
            return None
        self._advance(merged.end, until)
        return without_echoes(merged.agreed, stock_bytes_of(merged.agreed))

    async def next(self, limit: int, until: Cursor | None = None) -> list[Version]:
        """The next versions in order, dead ones among them: about `limit`, none beyond `until`.

        Raises PageSplitError; IncompleteError and UnreachableError where no quorum answers.
        """
        run = await self._confirmed(limit, until)
        if run is None:
            return await self._heard(limit, until)
        if self._wholes:
            return await self._merged(self._of_partial()[:1], [run], until)
        self._advance(position(run.versions[-1], self._query.order) if run.more else None, until)
        return list(run.versions)

    def _advance(self, end: Cursor | None, until: Cursor | None) -> None:
        self.after = end or until
        self.done = end is None and until is None

    # --- a stretch that a quorum agrees on ---

    async def _confirmed(self, limit: int, until: Cursor | None) -> Run | None:
        """A stretch that a whole read quorum has just so; None where they differ or too few of them answer.

        Those who differed a moment ago mostly go on to: one of them may have just begun to fetch its share.
        """
        opening = self._opening
        if opening is None or self._disputed:
            return None
        request = self._ask(until=until, limit=limit)
        check = msgspec.structs.replace(request, digest_only=True)
        sources, quorum = opening.enough or opening.sources, len(opening.enough) or opening.quorum
        if self._wholes:  # then all others together are the rest of the quorum
            sources = self._of_partial()
            quorum = len(sources)
        hearing = Hearing(
            sources,
            quorum,
            lambda source: self._stretch(source, request),
            lambda source: source.find(check),
        )
        try:
            run = await hearing.hear()
            replies, more = list(hearing.checks.values()), run.more
            if more and len(run.versions) < limit:  # it was cut by its size, so the others may have gone further
                replies, more = await self._check_again(hearing, run), False
        except RemoteError:
            self._opening = None
            return None
        if any(reply.split for reply in replies):
            self._tell_split()
        digest = digest_of(run.versions)
        if any(reply.digest != digest or reply.more != more for reply in replies):
            return None
        self._prefer([hearing.giver, *hearing.checks])
        return run

    async def _check_again(self, hearing: Hearing, run: Run) -> list[messages.FindRecordsReply]:
        """What those who gave digests say of the very stretch that was given, to its end and no further."""
        end = position(run.versions[-1], self._query.order)
        check = msgspec.structs.replace(self._ask(until=end, limit=RECORDS_DIGEST_MAX), digest_only=True)
        return await asyncio.gather(*(source.find(check) for source in hearing.checks))

    def _prefer(self, sources: Iterable[Source | None]) -> None:
        """Ask these first from now on."""
        assert self._opening is not None
        first = [source for source in sources if source is not None]
        self._opening.sources = first + [source for source in self._opening.sources if source not in first]

    async def _stretch(self, source: Source, request: messages.FindRecords) -> Run:
        """One replica's versions, in as many answers as it takes."""
        versions: list[Version] = []
        after = request.after
        while True:
            left = request.limit - len(versions)
            reply = await source.find(msgspec.structs.replace(request, after=after, limit=left))
            if reply.split:
                self._tell_split()
            if reply.more and (not reply.versions or reply.end == after):
                raise RemoteError("misbehaved", "a run that goes on and brings nothing")
            versions += reply.versions
            if not reply.more or len(versions) >= request.limit:
                return Run(versions, reply.more)
            after = reply.end

    def _ask(self, *, until: Cursor | None, limit: int) -> messages.FindRecords:
        return self._query.request(self._page, self.after, until, limit)

    def _tell_split(self) -> None:
        assert self._opening is not None
        self._mender.tell_split(self._query.key, self._page, self._opening.sources)
        raise PageSplitError

    # --- a run from everybody ---

    async def _heard(self, limit: int, until: Cursor | None) -> list[Version]:
        """Open the page, again perhaps; of those who differed before, the next run is asked for at once."""
        request = self._ask(until=until, limit=limit)
        replies = await self._runs_again(request) if self._disputed else []
        if replies:
            return await self._merged(self._of_partial(), _runs(replies), until)
        opening = self._opening = await self._open(request)
        merged = self._same(opening.replies)
        heard = dict(zip(opening.sources, runs_of(opening), strict=True))
        self._wholes = {} if merged else _shown_whole(heard, request)
        runs = [heard[source] for source in self._of_partial()]
        return await self._merged(self._of_partial(), runs, until, merged)

    def _of_partial(self) -> list[Source]:
        """The sources that did not show their whole page."""
        assert self._opening is not None
        return [source for source in self._opening.sources if source not in self._wholes]

    async def _merged(
        self, sources: Sequence[Source], runs: Sequence[Run], until: Cursor | None, merged: MergedRuns | None = None
    ) -> list[Version]:
        """What the runs of some sources, and the pages that others have shown whole, say together."""
        query = self._query
        sources, runs = [*sources, *self._wholes], [*runs, *self._wholes.values()]
        if merged is None:
            merged = merge_runs(runs, query.order, reverse=query.reverse, after=self.after)
        versions = merged.agreed
        self._disputed = bool(merged.disputed)
        if merged.disputed or merged.decided:
            decided = await self._decide(set(merged.decided), sources, runs)
            settled = [*decided, *await self._settle(merged.disputed)]
            end = merged.end or until
            settled = [v for v in settled if within(v, query.order, self.after, end, reverse=query.reverse)]
            versions = sorted([*versions, *settled], key=self._position, reverse=query.reverse)
        self._advance(merged.end, until)
        return without_echoes(versions, stock_bytes_of(versions))

    async def _decide(self, decided: set[Identity], sources: Sequence[Source], runs: Sequence[Run]) -> list[Version]:
        """The versions that stand of records of which the runs show all that their sources have."""
        if not decided:
            return []
        told = [[version for version in run.versions if version.identity in decided] for run in runs]
        sound: set[Version] = set()
        for number, version in enumerate({version for versions in told for version in versions}, 1):
            if genuine(self._query.key, version):
                sound.add(version)
            if number % RECORDS_JUDGED_AT_ONCE == 0:
                await asyncio.sleep(0)
        settled = settle([[version for version in versions if version in sound] for versions in told])
        if len(settled) <= LACKING_MENDED_MAX:
            self._mender.mend(self._query.key, self._page, sources, settled)
        return [settlement.version for settlement in settled]

    def _same(self, replies: Sequence[Reply]) -> MergedRuns | None:
        """The one run that all have; None where they differ. Nothing needs to be compared then but digests."""
        first, *others = [reply for reply in replies if isinstance(reply, messages.FindRecordsReply)]
        if any(other.digest != first.digest or other.more != first.more for other in others):
            return None
        if digest_of(first.versions) != first.digest:
            return None
        end = position(first.versions[-1], self._query.order) if first.more and first.versions else None
        return MergedRuns(first.versions, [], end)

    def _position(self, version: Version) -> Cursor:
        return position(version, self._query.order)

    async def _open(self, request: messages.FindRecords) -> Opening:
        """Find the replicas and hear a quorum of them; all of them where they differ or know nothing."""
        opening, self._offered = self._offered, None
        if opening is None:
            opening = await self._sources.open(self._query.key, request)
        unsure = self._is_doubtful(opening) or not (opening.everybody or agreed(opening))
        if len(opening.sources) < opening.quorum or (unsure and not opening.split):  # what a split one holds is united
            opening = await self._sources.open_all(self._query.key, request, opening)
        require_quorum(opening, self._page)
        if opening.split:
            raise PageSplitError(opening, request.until)
        return opening

    async def _runs_again(self, request: messages.FindRecords) -> list[Reply]:
        """The next run of each of those who were heard before; none where one fails, or a batch has to be settled."""
        if self._opening is None:
            return []
        answers = (source.find(request) for source in self._of_partial())
        told = await asyncio.gather(*answers, return_exceptions=True)
        replies: list[Reply] = []
        for reply in told:
            if isinstance(reply, messages.FindRecordsReply) and not reply.batches:
                replies.append(reply)
            elif isinstance(reply, BaseException) and not isinstance(reply, RemoteError):
                raise reply
            else:
                return []
        if any(reply.split for reply in replies):
            self._tell_split()
        return replies

    def _is_doubtful(self, opening: Opening) -> bool:
        """Is it odd that nobody has anything?"""
        if opening.everybody:
            return False
        return _empty(opening) and (not self._page or (self.after is None and not self._query.prefix))

    async def _settle(self, identities: Sequence[Identity]) -> list[Version]:
        """Decide disputed records by asking every source for them by name."""
        assert self._opening is not None
        disputed = set(identities)
        names = sorted({name for name, _ in disputed})
        settled: list[Version] = []
        while names:
            answered, settlements = await self._ask_names(names[:NAMES_ASKED_MAX])
            names = names[answered:]
            wanted = [s for s in settlements if s.version.identity in disputed]
            self._mender.mend(self._query.key, self._page, self._opening.sources, wanted)
            settled += [settlement.version for settlement in wanted]
        return settled

    async def _ask_names(self, names: list[bytes]) -> tuple[int, list[Settlement]]:
        """What every source holds under the names that all of them could answer for."""
        assert self._opening is not None
        request = messages.FindNames(place_of_page(self._query.key, self._page), names)

        async def ask(source: Source) -> messages.FindNamesReply | RemoteError:
            try:
                return await source.find_names(request)
            except RemoteError as error:
                return error

        sources = self._opening.sources
        told = list(zip(sources, await asyncio.gather(*map(ask, sources)), strict=True))
        replies = [reply for _, reply in told if not isinstance(reply, RemoteError)]
        self._opening.sources = [source for source, reply in told if not isinstance(reply, RemoteError)]
        self._opening.failures += [str(reply) for _, reply in told if isinstance(reply, RemoteError)]
        require_quorum(self._opening, self._page)
        if any(reply.split for reply in replies):
            self._tell_split()
        answered = min(reply.answered for reply in replies)
        covered = set(names[:answered])
        holdings = [
            [version for version in reply.versions if version.name in covered and genuine(self._query.key, version)]
            for reply in replies
        ]
        return answered, settle(holdings)


def require_quorum(opening: Opening, page: PageName) -> None:
    """As `Opening.require_quorum`; the error names the page, where it is one of several."""
    try:
        opening.require_quorum()
    except IncompleteError as error:
        if not page:
            raise
        raise IncompleteError(f"{title(page)}: {error}", error.mend) from error


def runs_of(opening: Opening) -> list[Run]:
    return _runs(opening.replies)


def _runs(replies: Iterable[Reply]) -> list[Run]:
    return [Run(reply.versions, reply.more) for reply in replies if isinstance(reply, messages.FindRecordsReply)]


def _shown_whole(heard: Mapping[Source, Run], request: messages.FindRecords) -> dict[Source, Run]:
    """The runs that are all that their sources have of the page."""
    if request.after is not None or request.until is not None or request.prefix:
        return {}
    return {source: Run(run.versions, more=False, whole=True) for source, run in heard.items() if not run.more}


def agreed(opening: Opening) -> bool:
    """Do all say the same?"""
    replies = [reply for reply in opening.replies if isinstance(reply, messages.FindRecordsReply)]
    return len({(reply.digest, reply.more, reply.split) for reply in replies}) == 1


def _empty(opening: Opening) -> bool:
    return all(reply.versions == [] and getattr(reply, "end", None) is None for reply in opening.replies)
