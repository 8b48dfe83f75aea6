"""Ends what waits here for too long: batches whose writer has gone, or whose last word never came to this peer.

Theory of operation. While anything waits here, this peer looks at it every few seconds. After a while it asks what
became of the batch; when a batch is still not decided after ATOMIC_PENDING_S, its writer is taken for gone, and the
batch is decided to be aborted: by the nearest replica first, the others later. The time is that of this peer, since it
first met the batch: a writer's clock may be wrong by minutes. Deciding is write-once, so a writer that was only slow is
refused, and a replica that comes too late learns that it was committed. What is aborted is dropped; what is committed
is stored plainly at a majority of its replicas, and dropped where it is no more needed.

Owns the rounds and their pace.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable

from p2pkv.core.atomic import Verdict, in_the_way
from p2pkv.core.records import Version, content_hash
from p2pkv.core.replication import position
from p2pkv.errors import P2pkvError, RemoteError
from p2pkv.ids import Place
from p2pkv.limits import (
    ATOMIC_LOOK_S,
    ATOMIC_PAGES_MAX,
    ATOMIC_PENDING_S,
    ATOMIC_ROUND_S,
    ATOMIC_TURN_S,
    RECORDS_STORE_BYTES_MAX,
)
from p2pkv.storage.interface import Cursor, DropVersion, PageInfo, RangeQuery, Store, StoreFailedError
from p2pkv.swarm.decisions import Decisions
from p2pkv.swarm.environment import Environment
from p2pkv.swarm.neighbourhood import Neighbourhood
from p2pkv.swarm.replica import Replica
from p2pkv.swarm.settling import Settling

log = logging.getLogger(__name__)
_TROUBLE = (P2pkvError, RemoteError, StoreFailedError)


class Resolving:
    """One peer's looks at what waits."""

    def __init__(
        self,
        replica: Replica,
        decisions: Decisions,
        settling: Settling,
        neighbourhood: Neighbourhood,
        env: Environment,
        counters: Counter[str],
    ) -> None:
        self._store: Store = replica.store
        self._replica = replica
        self._decisions = decisions
        self._settling = settling
        self._neighbourhood = neighbourhood
        self._env = env
        self._counters = counters
        self._since_s: dict[bytes, float] = {}  # when each batch was first met here, by the loop's clock
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._neighbourhood.stores:
            self._replica.waits.set()  # a former run may have left something
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._replica.waits.wait()
            await asyncio.sleep(ATOMIC_ROUND_S * self._env.random.uniform(0.7, 1.3))
            self._replica.waits.clear()
            try:
                if await self.round():
                    self._replica.waits.set()
            except StoreFailedError as error:
                log.error("what waits here cannot be read: %s", error)

    async def round(self) -> bool:
        """Look at what waits here once; True where some of it may be left."""
        pages = await self._store.waiting(ATOMIC_PAGES_MAX)
        before_s, self._since_s = self._since_s, {}
        for page in pages:
            try:
                await self._page(page, before_s)
            except _TROUBLE as error:
                log.info("what waits in a batch could not be ended yet: %s", error)
        return bool(pages)

    async def _page(self, page: PageInfo, before_s: dict[bytes, float]) -> None:
        batches: dict[bytes, list[Version]] = defaultdict(list)
        after: Cursor | None = None
        while True:
            query = RangeQuery(page.place, after=after, bytes_max=RECORDS_STORE_BYTES_MAX, pending=True)
            result = await self._store.read(query)
            for version in result.versions:
                batches[version.batch].append(version)
            if not result.more:
                break
            after = position(result.versions[-1], "time")
        now_s = asyncio.get_running_loop().time()
        for batch in batches:
            self._since_s.setdefault(batch, before_s.get(batch, now_s))
        for batch, versions in batches.items():
            await self._batch(page, batch, versions)

    async def _batch(self, page: PageInfo, batch: bytes, versions: list[Version]) -> None:
        """What waits in one page of one batch."""
        age_s = asyncio.get_running_loop().time() - self._since_s[batch]
        turn_s = self._neighbourhood.rank(page.place) * ATOMIC_TURN_S
        if age_s < ATOMIC_LOOK_S + turn_s and self._decisions.known(batch) is None:
            return
        verdict = await self._decisions.of(batch)
        if verdict is None and age_s >= ATOMIC_PENDING_S + turn_s:
            verdict = await self._decisions.decide(batch, Verdict.ABORTED)
            self._counters["batches_given_up"] += verdict is Verdict.ABORTED
        if verdict is Verdict.COMMITTED:
            await self._settling.apply(page.key, versions)
            versions = [version for version in versions if await self._dispensable(page.place, version)]
        if verdict is not None:
            await self._drop(page.place, versions)

    async def _dispensable(self, place: Place, version: Version) -> bool:
        """Is the pending version needed no more, now that a majority has the plain one? Where this peer answers for the
        page, it must have that one itself."""
        answers = self._neighbourhood.keeps(place) and not (await self._replica.holdings.of(place)).split
        return not answers or in_the_way(version, await self._store.read_name(place, version.name)) is not None

    async def _drop(self, place: Place, versions: Iterable[Version]) -> None:
        drops = [DropVersion(place, *version.identity, content_hash(version)) for version in versions]
        if drops:
            await self._store.commit(drops)
            self._counters["pending_dropped"] += len(drops)
