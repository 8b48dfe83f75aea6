"""Reads what a split page still holds, on its way to the children.

Theory of operation. The replicas of a split page hold different parts of it, as each moves its own share on; so there
is nothing to agree on: all that a read quorum has is united. A record found here may have been replaced in the child
meanwhile, so the pages below are asked for it by name, and the higher rank stands. Mostly the page is empty, and that
for good: then it is remembered as closed.

Never mends: a split page is to become empty.
"""

from __future__ import annotations

from p2pkv.core.pages import PageName, PageTree
from p2pkv.core.records import Cursor, Version, rank
from p2pkv.core.replication import Identity, Run, merge_runs, within, without_echoes
from p2pkv.limits import RECORDS_ANSWER_MAX, SPLIT_LEFTOVERS_MAX
from p2pkv.swarm.mending import Mender
from p2pkv.swarm.names import Held, NameReader
from p2pkv.swarm.page_reading import Query, agreed, require_quorum, runs_of
from p2pkv.swarm.replica import stock_bytes_of
from p2pkv.swarm.signing import genuine
from p2pkv.swarm.sources import Opening, Sources


class SplitReading:
    """One walk over a split page, with the same face as `PageReading`."""

    def __init__(
        self,
        sources: Sources,
        mender: Mender,
        names: NameReader,
        tree: PageTree,
        query: Query,
        page: PageName,
        after: Cursor | None,
    ) -> None:
        self.after = after
        self.done = False
        self._sources = sources
        self._mender = mender
        self._names = names
        self._tree = tree
        self._query = query
        self._page = page
        self._offered: Opening | None = None

    @property
    def fresh(self) -> bool:
        """Is the page to be opened next? It is opened anew for every run."""
        return not self.done

    def offer(self, opening: Opening) -> None:
        """As `PageReading.offer`. Runs that were cut are of no use: of a marker that was cut off nothing is left."""
        if not any(getattr(reply, "more", False) for reply in opening.replies):
            self._offered = opening

    async def next(self, limit: int, until: Cursor | None = None) -> list[Version]:
        """All that is left, mostly nothing, in no order; those that replaced it below among them.

        It comes at once, so that the reader knows which records of the children are out of date; only of a page that
        is far beyond its bound the rest comes later. Raises as `PageReading.next`.
        """
        versions: list[Version] = []
        while not self.done and len(versions) < SPLIT_LEFTOVERS_MAX and (until is None or self.after != until):
            versions += await self._run(until)
        return versions

    async def _run(self, until: Cursor | None) -> list[Version]:
        opening = await self._open(until)
        runs = runs_of(opening)
        whole = self.after is None and until is None and not self._query.prefix
        end = merge_runs(runs, self._query.order, reverse=self._query.reverse).end
        found = self._united(runs, end or until, sure=agreed(opening))
        if whole and end is None and not opening.unaware and not any(name for name, _ in found):
            self._tree.close(self._page)
        versions = await self._current(found)
        self.after = end or until
        self.done = end is None and until is None
        return without_echoes(versions, stock_bytes_of(versions))

    async def _open(self, until: Cursor | None) -> Opening:
        request = self._query.request(self._page, self.after, until, RECORDS_ANSWER_MAX)
        opening, self._offered = self._offered, None
        if opening is None:
            opening = await self._sources.open(self._query.key, request)
        if len(opening.sources) < opening.quorum:
            opening = await self._sources.open_all(self._query.key, request, opening)
        require_quorum(opening, self._page)
        self._mender.tell_split(self._query.key, self._page, opening.unaware)
        return opening

    def _united(self, runs: list[Run], end: Cursor | None, *, sure: bool) -> dict[Identity, Version]:
        """Every record of the runs up to their common end, at the highest rank that any of them has."""
        united: dict[Identity, Version] = {}
        order, reverse = self._query.order, self._query.reverse
        for version in (version for run in runs for version in run.versions):
            standing = united.get(version.identity)
            if standing is not None and rank(standing) >= rank(version):
                continue
            if within(version, order, self.after, end, reverse=reverse) and (sure or genuine(self._query.key, version)):
                united[version.identity] = version
        return united

    async def _current(self, found: dict[Identity, Version]) -> list[Version]:
        """What stands of the records, now that the pages below are heard."""
        held: Held = {}
        names = sorted({name for name, _ in found if name})
        if names:
            await self._names.below(self._query.key, self._tree, self._page, names, held)
        standing = [self._standing(version, held.get(identity)) for identity, version in found.items()]
        return [version for version in standing if version is not None]

    def _standing(self, version: Version, below: Version | None) -> Version | None:
        """The higher rank; None where the reading has come past its position, which met it there.

        In reverse order of time only: the newer version stands before the one that is left here.
        """
        if below is None or rank(below) <= rank(version):
            return version
        order, reverse = self._query.order, self._query.reverse
        passed = not within(below, order, self.after, None, reverse=reverse)
        return None if passed and not below.dead else below
