"""Coordinates writes: signs versions, finds their pages, and brings each to the replicas of its page.

Theory of operation. A version goes to the page that this peer believes to be the leaf of its name. Replicas that know
better answer `SPLIT`; then the split is made known to a majority of the page's replicas (whoever reads a quorum of the
page must learn of it before anything is acknowledged below), remembered, and the version goes to the child. A version
that a majority of a split page's replicas took, because they had not heard of the split, is as safe: they move it on.
Where this peer brings very many records to one key, or is about to, it splits pages before they are full
(`core.growth`).

Owns what this peer believes of the pages of keys. Never talks to peers but by `PageWriter` and `BatchWriter`.
"""

from __future__ import annotations

import asyncio
from base64 import b32hexencode
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Final

from p2pkv.core.drafts import Draft
from p2pkv.core.pages import (
    ROOT,
    PageName,
    PageTree,
    PageTrees,
    children_of,
    path_of,
    place_of_page,
    split_marker,
)
from p2pkv.core.records import Flag, Version, encoded_bytes, version_token
from p2pkv.errors import RefusedError
from p2pkv.ids import Place
from p2pkv.limits import (
    BATCH_LATE_S,
    BATCH_RECORDS_MAX,
    BATCH_RECORDS_MIN,
    BATCH_SOON_S,
    BATCHES_AT_ONCE_MAX,
    CLOCK_RETRIES_MAX,
    PAGE_DEPTH_MAX,
    PAGES_ASKED_AT_ONCE_MAX,
)
from p2pkv.outcomes import Acks, PutOutcome
from p2pkv.swarm import signing
from p2pkv.swarm.batch_writing import BatchWriter, fitting
from p2pkv.swarm.environment import Environment
from p2pkv.swarm.gathering import Gathering
from p2pkv.swarm.identity import Identity
from p2pkv.swarm.page_writing import PageWriter
from p2pkv.swarm.replica import Replica
from p2pkv.swarm.tallies import Tally

_SIGNING_BYTES: Final = 220
"""What a version takes beside what its draft brings: author, clock, signature, and the heads of its fields."""
StoreAtPages = Callable[[bytes, list[PageName], list[Version], Acks], Awaitable[list[Tally]]]
"""Brings versions of a key to the replicas of these pages, one page a version."""


class Writer:
    """This peer's puts and deletes of records."""

    def __init__(
        self, pages: PageWriter, batches: BatchWriter, replica: Replica, identity: Identity, env: Environment
    ) -> None:
        self.trees = PageTrees()
        self._pages = pages
        self._batches = batches
        self._replica = replica
        self._identity = identity
        self._env = env
        self._splitting: dict[Place, asyncio.Lock] = {}  # of pages whose split is being made known
        self._slots = asyncio.Semaphore(PAGES_ASKED_AT_ONCE_MAX)
        self._puts = Gathering(self._put_together)

    async def close(self) -> None:
        await self._puts.close()

    async def put(self, key: bytes, draft: Draft, *, acks: Acks = "quorum") -> PutOutcome:
        """Put one version. Raises RefusedError; an outcome that did not reach its acks is the caller's to judge."""
        for _ in range(CLOCK_RETRIES_MAX):
            tally = await self._puts.do((key, acks), draft)
            if tally.newer is None:
                break
            if tally.newer.flags & Flag.ONCE:
                raise RefusedError("the record is write-once", current=version_token(tally.newer))
            self.observe(tally.newer.clock)
        tally.raise_refusal()
        return tally.outcome()

    async def _put_together(self, line: tuple[bytes, Acks], drafts: Sequence[Draft]) -> list[Tally]:
        """Puts that go out at the same time."""
        key, acks = line
        return await self.store_batch(key, self.sign_many(key, drafts), acks)

    async def put_many(
        self,
        key: bytes,
        drafts: AsyncIterable[Draft],
        *,
        acks: Acks = "quorum",
        coming: Callable[[], int] = lambda: 0,
    ) -> AsyncGenerator[PutOutcome]:
        """Put many records of one key, as many to a message as fit; outcomes come in the order of the drafts.

        Every record has its own outcome, and a batch that was cut off may be put again whole. Where the drafts end
        with an error, the outcomes of those before it come first. `coming`: how many new records are sure to follow
        those that the drafts gave so far.
        """
        running: deque[asyncio.Task[list[Tally]]] = deque()
        failure: Exception | None = None
        pace = _Pace()
        batches = _batches(drafts, pace)
        try:
            while True:
                try:
                    batch = await anext(batches, None)
                    if batch is not None:
                        await self._split_early(key, batch, coming())
                except Exception as error:
                    failure, batch = error, None
                if batch is not None:
                    running.append(asyncio.create_task(self._put_batch(key, batch, acks, pace)))
                while running and (batch is None or len(running) >= BATCHES_AT_ONCE_MAX):
                    for tally in await running[0]:
                        yield tally.outcome()
                    running.popleft()
                if failure is not None:
                    raise failure
                if batch is None:
                    return
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _put_batch(self, key: bytes, drafts: list[Draft], acks: Acks, pace: _Pace) -> list[Tally]:
        """Store drafts; those that lost to a clock ahead of ours are tried again behind it."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        versions = self.sign_many(key, drafts)  # before anything is waited for: clocks follow the drafts' order
        tallies = await self.store_batch(key, versions, acks)
        pace.took(loop.time() - began_s)
        for _ in range(CLOCK_RETRIES_MAX - 1):
            stale = [index for index, tally in enumerate(tallies) if tally.overtaken]
            if not stale:
                break
            for index in stale:
                self.observe(tallies[index].newest_clock)
            again = await self.store_batch(key, self.sign_many(key, [drafts[index] for index in stale]), acks)
            for index, tally in zip(stale, again, strict=True):
                tallies[index] = tally
        return tallies

    async def store_batch(self, key: bytes, versions: list[Version], acks: Acks) -> list[Tally]:
        """As `store`, quicker for many versions. They are known to be genuine here."""
        if len(versions) == 1:
            return await self.store(key, versions, acks)
        tallies = await self._downwards(key, versions, acks, self._batches.store)
        again = [index for index, tally in enumerate(tallies) if not tally.reached]
        if again:
            for index, tally in zip(again, await self.store(key, [versions[i] for i in again], acks), strict=True):
                tallies[index] = tally
        return tallies

    # --- signing ---

    def sign(self, key: bytes, draft: Draft) -> Version:
        """The draft as a version of this peer's author, with the next clock value."""
        return self.sign_many(key, [draft])[0]

    def sign_many(self, key: bytes, drafts: Iterable[Draft]) -> list[Version]:
        """The drafts as versions, many under one signature."""
        unsigned = [self._unsigned(draft) for draft in drafts]
        signed = iter(signing.sign(self._identity, key, [v for v in unsigned if not v.flags & Flag.STOCK]))
        return [version if version.flags & Flag.STOCK else next(signed) for version in unsigned]

    def _unsigned(self, draft: Draft) -> Version:
        return Version(
            name=draft.name,
            clock=self._replica.clock.tick(self._env.now_s()),
            author=b"" if draft.flags & Flag.STOCK else self._identity.public_key,
            flags=int(draft.flags),
            expires_ms=draft.expires_ms,
            size_bytes=draft.size_bytes,
            body=draft.body,
            meta=draft.meta,
        )

    def unique_name(self) -> bytes:
        """A name that no other record has, and that sorts by the time it was made: 24 characters of base32hex."""
        clock = self._replica.clock.tick(self._env.now_s()).to_bytes(8, "big")
        return b32hexencode(clock + self._env.random_bytes(7)).lower()

    def observe(self, clock: int) -> None:
        """Let what is signed next come behind this clock."""
        self._replica.clock.observe(clock, self._env.now_s())

    # --- pages ---

    def tree(self, key: bytes) -> PageTree:
        """What this peer believes of a key's pages."""
        return self.trees.of(key, self._env.now_s())

    async def store(self, key: bytes, versions: list[Version], acks: Acks) -> list[Tally]:
        """Bring versions to the replicas of their pages, however many pages and messages that takes."""
        return await self._downwards(key, versions, acks, self._store_by_page)

    async def _downwards(self, key: bytes, versions: list[Version], acks: Acks, store: StoreAtPages) -> list[Tally]:
        """Store into the pages that are believed to be leaves; where one proves to be split, into its children."""
        tallies: dict[int, Tally] = {}
        waiting = list(range(len(versions)))
        for _ in range(PAGE_DEPTH_MAX + 1):
            tree = self.tree(key)
            pages = [tree.leaf_of(path_of(versions[index].name)) for index in waiting]
            tallies.update(zip(waiting, await store(key, pages, [versions[i] for i in waiting], acks), strict=True))
            below = [(page, index) for page, index in zip(pages, waiting, strict=True) if _below(tallies[index])]
            split = list({page for page, _ in below})
            known = await asyncio.gather(*(self.establish(key, page) for page in split))
            established = {page for page, is_known in zip(split, known, strict=True) if is_known}
            waiting = [index for page, index in below if page in established]
            if not waiting:
                break
        return [tallies[index] for index in range(len(versions))]

    async def _store_by_page(
        self, key: bytes, pages: list[PageName], versions: list[Version], acks: Acks
    ) -> list[Tally]:
        groups = _groups(pages, versions)

        async def store(page: PageName, group: list[int]) -> list[Tally]:
            async with self._slots:
                return await self._pages.store(key, page, [versions[index] for index in group], acks)

        stored = await asyncio.gather(*(store(page, group) for page, group in groups))
        tallies: dict[int, Tally] = {}
        for (_, group), results in zip(groups, stored, strict=True):
            tallies.update(zip(group, results, strict=True))
        return [tallies[index] for index in range(len(versions))]

    async def establish(self, key: bytes, page: PageName) -> bool:
        """Make sure that a majority of a page's replicas know that it is split, and remember it."""
        place = place_of_page(key, page)
        async with self._splitting.setdefault(place, asyncio.Lock()):
            tree = self.tree(key)
            try:
                if page not in tree.split:
                    tally = (await self._pages.store(key, page, [split_marker(page)], "quorum"))[0]
                    if tally.reached:
                        tree.establish(page)
            finally:
                self._splitting.pop(place, None)
            return page in tree.split

    async def _split_early(self, key: bytes, drafts: Sequence[Draft], coming: int) -> None:
        """Drafts are on their way, and more behind them: if they are very many, split what would soon be full."""
        growth = self.tree(key).growth
        growth.bring(draft.name for draft in drafts)
        while (depth := growth.due(self._fit_a_page(drafts), coming)) is not None:
            pages = children_of(ROOT) if depth else [ROOT]
            if not all(await asyncio.gather(*(self.establish(key, page) for page in pages))):
                return

    def _fit_a_page(self, drafts: Sequence[Draft]) -> int:
        """About how many records like these a page holds."""
        bound = self._replica.holdings.bound
        size_bytes = sum(len(draft.name) + len(draft.body) + len(draft.meta) for draft in drafts)
        return min(bound.records, bound.size_bytes * len(drafts) // (size_bytes + len(drafts) * _SIGNING_BYTES))

    async def tell_split(self, key: bytes, page: PageName) -> None:
        """Tell all replicas of a page that it is split."""
        await self._pages.store(key, page, [split_marker(page)], "all")


class _Pace:
    """How many records make a batch: few at first, so that the first outcomes come soon, and over a slow line; many
    where they are durable within moments, since replicas write many at once for less."""

    def __init__(self) -> None:
        self.records = BATCH_RECORDS_MIN

    def took(self, time_s: float) -> None:
        if time_s < BATCH_SOON_S:
            self.records = min(2 * self.records, BATCH_RECORDS_MAX)
        elif time_s > BATCH_LATE_S:
            self.records = max(self.records // 2, BATCH_RECORDS_MIN)


async def _batches(drafts: AsyncIterable[Draft], pace: _Pace) -> AsyncIterator[list[Draft]]:
    """An error of their source comes behind all that it gave."""
    batch: list[Draft] = []
    failure: Exception | None = None
    try:
        async for draft in drafts:
            batch.append(draft)
            if len(batch) >= pace.records:
                yield batch
                batch = []
    except Exception as error:
        failure = error
    if batch:
        yield batch
    if failure is not None:
        raise failure


def _below(tally: Tally) -> bool:
    """Must the version go on to a child of the page?"""
    return tally.split and not tally.reached


def _groups(pages: list[PageName], versions: list[Version]) -> list[tuple[PageName, list[int]]]:
    """The versions by their pages, in groups that fit one message."""
    members: dict[PageName, list[int]] = {}
    for index, page in enumerate(pages):
        members.setdefault(page, []).append(index)
    sizes = [encoded_bytes(version) + 1 for version in versions]
    return [(page, group) for page, indexes in members.items() for group in fitting(sizes, indexes)]
