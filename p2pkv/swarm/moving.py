"""Splits pages that have outgrown their bound, and moves what split pages still hold on to their children.

Theory of operation. Every replica that sees its page above the bound makes the split known to a majority of the page's
replicas. From then on each replica empties its own share: it asks the children's replicas which of its records they
have already, because another replica was first, stores what they lack, and drops from the old page only what a
majority of the child's replicas has durably, or has newer. So a crash at any point loses nothing and doing it again is
harmless. The replicas begin after a while, as whoever filled the page writes on or reads, and one after the other, the
nearest first, so mostly one carries the records and the others find them there: those whose turn comes later wait, run
by run, until the last record of a run has come.
What comes late into a split page is moved on when it comes. Whoever reads a key meanwhile is waited for, and nobody
waits for this, so it pauses while records on their way are read here, though not for ever.

Owns the tasks that do this and their pace.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

from p2pkv.core.pages import PageName, page_at, path_of
from p2pkv.core.records import Flag, Version, content_hash
from p2pkv.core.replication import position
from p2pkv.errors import P2pkvError
from p2pkv.ids import Place, distance
from p2pkv.limits import (
    MOVE_FIRST_S,
    MOVE_GIVES_WAY_S,
    MOVE_GIVES_WAY_S_MAX,
    MOVE_PATIENCE_S,
    MOVE_RECORDS_MAX,
    MOVE_RESUME_PAUSE_S,
    MOVE_RETRY_S,
    MOVE_RETRY_S_MAX,
    MOVE_TURN_S,
    MOVES_AT_ONCE_MAX,
    MOVES_WAITING_MAX,
    PAGE_BYTES_MAX,
    PAGE_DEPTH_MAX,
)
from p2pkv.storage.interface import Cursor, DropVersion, RangeQuery, Result, Store, StoreFailedError
from p2pkv.swarm.environment import Environment
from p2pkv.swarm.holdings import Holdings
from p2pkv.swarm.neighbourhood import Neighbourhood
from p2pkv.swarm.page_reading import Query
from p2pkv.swarm.presence import Presence
from p2pkv.swarm.sources import Sources
from p2pkv.swarm.writing import Writer

log = logging.getLogger(__name__)
_TROUBLE = (P2pkvError, StoreFailedError)


class Mover:
    """This peer's splits and moves."""

    def __init__(
        self,
        store: Store,
        holdings: Holdings,
        writer: Writer,
        presence: Presence,
        sources: Sources,
        neighbourhood: Neighbourhood,
        env: Environment,
    ) -> None:
        self.moved = 0
        self.pages_split = 0
        self._store = store
        self._holdings = holdings
        self._writer = writer
        self._presence = presence
        self._sources = sources
        self._neighbourhood = neighbourhood
        self._env = env
        self._slots = asyncio.Semaphore(MOVES_AT_ONCE_MAX)
        self._moving: set[Place] = set()
        self._read_s = float("-inf")  # when somebody last read what is on its way here
        self._next_run_s = 0.0  # when a run is moved though somebody reads
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Listen to the pages here, and look for those that a former run left half moved."""
        self._holdings.on_full = self._on_full
        self._holdings.on_split = self._on_split
        self._holdings.on_read = self._on_read
        self._spawn(self._resume())

    async def close(self) -> None:
        self._holdings.on_full = self._holdings.on_split = self._holdings.on_read = _ignore
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _on_full(self, place: Place) -> None:
        self._spawn(self._split(place))

    def _on_split(self, place: Place) -> None:
        if place not in self._moving and len(self._moving) < MOVES_WAITING_MAX:
            self._moving.add(place)
            self._spawn(self._empty(place))

    def _on_read(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._read_s + MOVE_GIVES_WAY_S:
            self._next_run_s = now_s + MOVE_GIVES_WAY_S_MAX
        self._read_s = now_s

    async def _resume(self) -> None:
        place: Place | None = None
        while pages := await self._store.pages(place):
            for page in pages:
                if page.total > 1 and page.key and (await self._holdings.of(page.place)).split:
                    self._on_split(page.place)
            place = pages[-1].place
            await asyncio.sleep(MOVE_RESUME_PAUSE_S)

    # --- splitting ---

    async def _split(self, place: Place) -> None:
        try:
            called = await self._called(place)
            if called is None or len(called[1]) >= PAGE_DEPTH_MAX:
                return  # records of one name, or of stock peers: they stay together
            if await self._writer.establish(*called):
                self.pages_split += 1
                return
        except _TROUBLE as error:
            log.info("a page could not be split yet: %s", error)
        self._holdings.still_whole(place)

    async def _called(self, place: Place) -> tuple[bytes, PageName] | None:
        """The key and the page that lie at a place; None where there is no record to tell it by."""
        info = await self._store.page(place)
        if info is None or not info.key:
            return None
        for version in (await self._store.read(RangeQuery(place, limit=3, dead=True))).versions:
            if version.flags & Flag.SPLIT:
                return info.key, version.meta
            page = page_at(info.key, place, version.name) if version.name else None
            if page is not None:
                return info.key, page
        return None

    # --- moving ---

    async def _empty(self, place: Place) -> None:
        retry_s = MOVE_RETRY_S
        try:
            called = await self._called(place)
            wait_s = MOVE_FIRST_S + self._turn(place) * MOVE_TURN_S
            await asyncio.sleep(wait_s * self._env.random.uniform(0.8, 1.2))
            patience_s = MOVE_PATIENCE_S if self._turn(place) else 0.0
            while called is not None:
                moved = self.moved
                if await self._pass(place, *called, carry=patience_s <= 0):
                    break
                if patience_s <= 0:
                    await asyncio.sleep(retry_s * self._env.random.uniform(0.5, 1.0))
                    retry_s = min(2 * retry_s, MOVE_RETRY_S_MAX)
                    continue
                await asyncio.sleep(MOVE_TURN_S * self._env.random.uniform(0.8, 1.2))
                if self.moved == moved:  # nearer replicas may be dead, or lack what this one has
                    patience_s -= MOVE_TURN_S
        except StoreFailedError as error:
            log.error("records of a split page cannot be moved: %s", error)
        finally:
            self._moving.discard(place)

    def _turn(self, place: Place) -> int:
        """How many replicas are nearer to the page than this peer."""
        here = distance(self._neighbourhood.node_id, place)
        return sum(distance(contact.id, place) < here for contact in self._neighbourhood.nearest(place))

    async def _pass(self, place: Place, key: bytes, page: PageName, *, carry: bool) -> bool:
        """Move all on that can be moved; True where nothing is left. Without `carry`: drop what others have moved."""
        async with self._slots:
            try:
                if not await self._writer.establish(key, page):
                    return False
                return await self._move(place, key, page, carry=carry)
            except P2pkvError as error:
                log.info("records of a split page could not be moved yet: %s", error)
                return False

    async def _move(self, place: Place, key: bytes, page: PageName, *, carry: bool) -> bool:
        """What waits in batches moves as everything does."""
        clean = await self._move_kind(place, key, page, pending=False, carry=carry)
        return await self._move_kind(place, key, page, pending=True, carry=carry) and clean

    async def _move_kind(self, place: Place, key: bytes, page: PageName, *, pending: bool, carry: bool) -> bool:
        after: Cursor | None = None
        clean = True
        while True:
            query = RangeQuery(
                place, after=after, limit=MOVE_RECORDS_MAX, bytes_max=PAGE_BYTES_MAX, dead=True, pending=pending
            )
            result = await self._store.read(query)
            versions = [v for v in result.versions if v.name and not v.flags & Flag.SPLIT]
            if versions:
                await self._give_way(len(versions))
                clean &= await self._move_run(place, key, page, versions, carry=carry)
            if not result.more or not (carry or clean):
                return clean
            after = position(result.versions[-1], "time")

    async def _give_way(self, records: int) -> None:
        """Let those who read go first; while they do, a run goes on now and then, the longer the more seldom."""
        loop = asyncio.get_running_loop()
        while (now_s := loop.time()) < self._read_s + MOVE_GIVES_WAY_S:
            if now_s >= self._next_run_s:
                self._next_run_s = now_s + MOVE_GIVES_WAY_S_MAX * records / MOVE_RECORDS_MAX
                return
            await asyncio.sleep(min(self._read_s + MOVE_GIVES_WAY_S, self._next_run_s) - now_s)

    async def _move_run(
        self, place: Place, key: bytes, page: PageName, versions: list[Version], *, carry: bool
    ) -> bool:
        """Move one run on; True where all of it went."""
        if not carry and not all(await self._arrived(key, versions[-1:])):
            await self._look_below(key, page, versions)
            return False  # whoever carries it has not come so far
        arrived = await self._arrived(key, versions)
        safe = [version for version, there in zip(versions, arrived, strict=True) if there]
        rest = [version for version, there in zip(versions, arrived, strict=True) if not there]
        if rest and carry:
            tallies = await self._writer.store_batch(key, rest, "quorum")
            safe += [version for version, tally in zip(rest, tallies, strict=True) if tally.superseded]
        outcomes = await self._store.commit([_drop(place, version) for version in safe])
        self.moved += len(safe)
        return len(safe) == len(versions) and all(outcome.result is not Result.STALE for outcome in outcomes)

    async def _arrived(self, key: bytes, versions: Sequence[Version]) -> list[bool]:
        """Which of them are safe below already: with the replicas of the page where a put would bring them now."""
        tree = self._writer.tree(key)
        return await self._presence.safe(key, [tree.leaf_of(path_of(version.name)) for version in versions], versions)

    async def _look_below(self, key: bytes, page: PageName, versions: Sequence[Version]) -> None:
        """Find out whether the child where the last version is missing is split itself: then it is looked for deeper.

        If so, its siblings may be, too: pages that fill up together split together.
        """
        tree = self._writer.tree(key)
        child = tree.leaf_of(path_of(versions[-1].name))
        if len(child) > len(page) and await self._is_split(key, child):
            leaves = {tree.leaf_of(path_of(version.name)) for version in versions}
            siblings = [leaf for leaf in leaves if leaf != child and len(leaf) == len(child)]
            await asyncio.gather(*(self._is_split(key, sibling) for sibling in siblings))

    async def _is_split(self, key: bytes, page: PageName) -> bool:
        """Is it known, or said by some replica? Then it is made sure of."""
        if len(page) >= PAGE_DEPTH_MAX:
            return False
        opening = await self._sources.open_raw(Query(key).request(page, None, None, 1))
        return opening.split and await self._writer.establish(key, page)


def _drop(place: Place, version: Version) -> DropVersion:
    return DropVersion(place, version.name, version.owner, content_hash(version))


def _ignore(*_: object) -> None:
    """The mover has ended."""
