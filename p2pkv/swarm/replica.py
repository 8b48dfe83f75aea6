"""What this peer does as a replica: it judges versions that it is asked to keep, and answers for the pages it holds.

Owns the rules of acceptance (bounds, signature, clock, ownership, write-once). It asks no other peer for anything; the
coordinators in `writing.py` and `reading.py` use it for this peer's own share as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import msgspec

from p2pkv import messages, wire
from p2pkv.core import atomic
from p2pkv.core.clock import HybridClock
from p2pkv.core.pages import PageName, page_of, place_of_page
from p2pkv.core.records import Flag, Version, check_key, check_shape, content_hash, encode, encoded_bytes, in_bounds
from p2pkv.core.replication import digest_of, position
from p2pkv.errors import RemoteError
from p2pkv.ids import ID_BYTES, Place
from p2pkv.limits import (
    ATOMIC_BATCHES_PER_PAGE_MAX,
    ATOMIC_IDS_BYTES_MAX,
    BULK_REPLY_BYTES_MAX,
    NAME_BYTES_MAX,
    NAMES_ASKED_MAX,
    RECORDS_ANSWER_BYTES_MAX,
    RECORDS_ANSWER_MAX,
    RECORDS_DIGEST_MAX,
    RECORDS_JUDGED_AT_ONCE,
    RESULT_BYTES,
    RUN_BYTES_MAX,
    RUN_LONG_BYTES_MAX,
    RUN_RECORDS_MAX,
    RUNS_ASKED_MAX,
    RUNS_BYTES_MAX,
    RUNS_RECORDS_MAX,
    STOCK_VALUE_BYTES_MAX,
    VERSION_BYTES_MAX,
)
from p2pkv.messages import StoreResult
from p2pkv.outcomes import Order
from p2pkv.storage.interface import (
    DropVersion,
    PutVersion,
    QuotaExceededError,
    RangeQuery,
    RangeResult,
    Result,
    Store,
    StoreFailedError,
    Write,
    WriteOutcome,
)
from p2pkv.swarm.environment import Environment
from p2pkv.swarm.holdings import Holdings
from p2pkv.swarm.neighbourhood import Neighbourhood, node_tuples
from p2pkv.swarm.protocol import Sender
from p2pkv.swarm.signing import genuine

_STORED = StoreResult(messages.STORED)
_SPLIT = StoreResult(messages.SPLIT, "the page is split")
_CODES = {Result.ALREADY: messages.ALREADY, Result.STALE: messages.STALE, Result.REFUSED: messages.REFUSED}

OWNED: Final = "the record belongs to "
StockValue = wire.Scalar
OnStored = Callable[[Place, list[Version]], None]
_stock_encoder = msgspec.msgpack.Encoder()


def stock_value(version: Version) -> StockValue:
    """The value that a stock peer put, with its type."""
    return wire.decode_scalar(version.body)


def stock_bytes(version: Version) -> bytes:
    """A stock peer's value as our users see it: bytes as they are, text in UTF-8, numbers as text."""
    value = stock_value(version)
    return value if isinstance(value, bytes) else str(value).encode()


def stock_bytes_of(versions: list[Version]) -> dict[bytes, bytes]:
    """The bytes that the stock values among some versions stand for, by their encoded bodies."""
    return {v.body: stock_bytes(v) for v in versions if v.flags & Flag.STOCK and not v.dead}


def _unknown(batch: bytes) -> bool:
    return False


class Replica:
    """This peer's share of the swarm's records."""

    def __init__(self, store: Store, env: Environment, neighbourhood: Neighbourhood, holdings: Holdings) -> None:
        self.store = store
        self.holdings = holdings
        self.clock = HybridClock()
        self._env = env
        self._neighbourhood = neighbourhood
        self.on_stored: OnStored | None = None  # told what became durable here, before the writer is
        self.watched: Callable[[], bool] = lambda: True  # is anything to be told?
        self.is_given_up: Callable[[bytes], bool] = _unknown  # of a batch, by its id
        self.waits = asyncio.Event()  # something was stored here that waits in a batch

    # --- answering peers ---

    async def on_store(self, sender: Sender, request: messages.StoreRecords) -> messages.StoreRecordsReply:
        """Keep versions durably, or say of each why not."""
        return await self._store(request, RECORDS_ANSWER_BYTES_MAX)

    async def on_store_long(self, request: messages.StoreRecords) -> messages.StoreRecordsReply:
        """The same for as many as bulk transfer brings."""
        return await self._store(request, BULK_REPLY_BYTES_MAX)

    async def _store(self, request: messages.StoreRecords, answer_bytes_max: int) -> messages.StoreRecordsReply:
        check_key(request.key)
        places = _places(request)
        strangers = set() if request.force else {place for place in set(places) if not self._neighbourhood.keeps(place)}
        mine = [index for index, place in enumerate(places) if place not in strangers]
        results = [StoreResult(messages.NOT_MINE)] * len(places)
        kept = await self.store_versions(request.key, [request.versions[i] for i in mine], [places[i] for i in mine])
        for index, result in zip(mine, kept, strict=True):
            results[index] = result
        return messages.StoreRecordsReply(_fitting(results, answer_bytes_max), self._nearer(request, places))

    def _nearer(self, request: messages.StoreRecords, places: list[Place]) -> list[wire.NodeTuple]:
        """Who is nearest where the sender has another opinion of it; of a request for several pages it has none."""
        if not request.view or not places:
            return []
        view, nearest = self._neighbourhood.view(places[0])
        return [] if view == request.view else node_tuples(nearest)

    async def on_find(self, sender: Sender, request: messages.FindRecords) -> messages.FindRecordsReply:
        """A run of a page, and who is nearest where opinions differ."""
        return self._with_nearer(request, await self.find(request))

    async def on_find_runs(self, request: messages.FindRuns) -> messages.FindRunsReply:
        """The same for many pages, by bulk transfer."""
        if not 0 < len(request.requests) <= RUNS_ASKED_MAX:
            raise RemoteError("malformed", "a wrong number of runs")
        replies = await self.find_runs(request.requests)
        answered = zip(request.requests, replies, strict=False)
        return messages.FindRunsReply([self._with_nearer(asked, reply) for asked, reply in answered])

    def _with_nearer(
        self, request: messages.FindRecords, reply: messages.FindRecordsReply
    ) -> messages.FindRecordsReply:
        """Who is nearest, where the asker has another opinion of it."""
        nodes = self._neighbourhood.differing(Place(request.place), request.view)
        return msgspec.structs.replace(reply, nodes=nodes) if nodes else reply

    async def on_find_names(self, sender: Sender, request: messages.FindNames) -> messages.FindNamesReply:
        place = _place(request.place)
        if len(request.names) > NAMES_ASKED_MAX or any(len(name) > NAME_BYTES_MAX for name in request.names):
            raise RemoteError("malformed", "too many names, or too long")
        nodes = self._neighbourhood.differing(place, request.view)
        reply = await self.find_names(request)
        return msgspec.structs.replace(reply, nodes=nodes) if nodes else reply

    # --- the share itself, for this peer's own coordinators too ---

    async def store_versions(
        self, key: bytes, versions: list[Version], places: list[Place], *, signed_here: bool = False
    ) -> list[StoreResult]:
        """Judge and keep versions; what is said to be stored is durable. `signed_here`: by this very peer, just now."""
        released: list[Write] = []
        admit = partial(_in_the_way, self._env.now_s())
        puts = [
            PutVersion(place, key, version, admit, encode(version))
            for place, version in zip(places, versions, strict=True)
        ]
        results = await self._judge(puts, released, signed_here=signed_here)
        kept = [index for index, result in enumerate(results) if result is None]
        outcomes = await self._commit([*(puts[index] for index in kept), *released])
        for index, outcome in zip(kept, outcomes, strict=False):
            results[index] = outcome
        await self._note([puts[index] for index in kept if results[index] is _STORED])
        return [result for result in results if result is not None]

    async def _note(self, stored: list[PutVersion]) -> None:
        """Let the pages grow by what was stored."""
        growth: dict[Place, tuple[int, int]] = {}
        for put in stored:
            place, flags = put.place, put.version.flags
            if flags & Flag.SPLIT:
                await self.holdings.split(place)
                continue
            if flags & Flag.PENDING:
                (await self.holdings.of(place)).waits += 1
            records, size_bytes = growth.get(place, (0, 0))
            growth[place] = records + 1, size_bytes + len(put.encoded)
        for place, (records, size_bytes) in growth.items():
            if not self.holdings.grew(place, records, size_bytes):
                await self.holdings.stored(place, records, size_bytes)

    async def find(self, request: messages.FindRecords) -> messages.FindRecordsReply:
        query = _query(request)
        result = await self.store.read(query)
        if result.batches:  # their ids want room in the answer
            query = msgspec.structs.replace(query, bytes_max=query.bytes_max - ATOMIC_IDS_BYTES_MAX)
            result = await self.store.read(query)
        return await self._reply(request, query, result)

    async def find_runs(self, requests: Sequence[messages.FindRecords]) -> list[messages.FindRecordsReply]:
        """Runs of many pages: of as many, from the first, as one answer has room for, at least of one."""
        alone = len(requests) == 1
        queries = [_run_query(request, alone=alone) for request in requests]
        results = await self.store.read_many(queries, RUNS_RECORDS_MAX, RUNS_BYTES_MAX)
        answered = zip(requests, queries, results, strict=False)
        return [await self._reply(request, query, result) for request, query, result in answered]

    async def _reply(
        self, request: messages.FindRecords, query: RangeQuery, result: RangeResult
    ) -> messages.FindRecordsReply:
        place = query.place
        split = await self._is_split(query, result)
        order: Order = "name" if request.by_name else "time"
        versions = _but_marker(result) if split else result.versions
        if split and result.more and not versions:  # the marker alone, at the head of the page: what is behind it?
            behind = position(result.versions[-1], order)
            result = await self.store.read(msgspec.structs.replace(query, after=behind))
            versions = _but_marker(result)
        now_s = self._env.now_s()
        if split and (result.batches or any(version.name for version in versions)):
            self.holdings.leftover(place)
        return messages.FindRecordsReply(
            versions=[] if request.digest_only else versions,
            more=result.more,
            digest=digest_of(versions),
            live=_live(versions, now_s),
            end=position(result.versions[-1], order) if result.versions else None,
            split=split,
            mine=self._neighbourhood.speaks_for(place),
            batches=result.batches,
        )

    async def _is_split(self, query: RangeQuery, result: RangeResult) -> bool:
        """Does a page pass its records on, as far as the result of a reading of it could lack them?

        Asked behind the reading: what was read must not lack records unawares that had left the page by then. A reading
        from the page's head tells by itself, for the marker comes first; then nobody need look for it again.
        """
        if self.holdings.known(query.place) is None and _shows_marker(query):
            return bool(result.versions) and result.versions[0].flags & Flag.SPLIT != 0
        return (await self.holdings.of(query.place)).split

    async def find_names(self, request: messages.FindNames) -> messages.FindNamesReply:
        """What lies under the names, as many of them as fit one answer (at least one)."""
        place = Place(request.place)
        found: list[Version] = []
        batches: set[bytes] = set()
        size_bytes = answered = 0
        for name in request.names:
            held = await self.store.read_name(place, name)
            size_bytes += sum(encoded_bytes(version) for version in held)
            if answered and size_bytes > RECORDS_ANSWER_BYTES_MAX:
                break
            found += [version for version in held if not version.pending]
            batches.update(version.batch for version in held if version.pending)
            answered += 1
        split = (await self.holdings.of(place)).split
        mine = self._neighbourhood.speaks_for(place)
        return messages.FindNamesReply(found, answered, split=split, mine=mine, batches=sorted(batches))

    # --- stock kademlia peers ---

    async def stock_store(self, place: bytes, value: StockValue) -> bool:
        """Keep a stock peer's value; True only where it is durable."""
        body = _stock_encoder.encode(value)
        if len(body) > STOCK_VALUE_BYTES_MAX or len(place) != ID_BYTES:
            return False
        version = Version(
            name=b"",
            clock=self.clock.tick(self._env.now_s()),
            author=b"",
            flags=int(Flag.STOCK),
            expires_ms=0,
            size_bytes=len(body),
            body=body,
        )
        newest = await self._newest(Place(place))
        if newest is not None and not newest.flags & Flag.STOCK and newest.body == stock_bytes(version):
            return True  # a stock reader caches what it found: the signed record is here already
        results = await self._commit([PutVersion(Place(place), b"", version)])
        return results[0].code in (messages.STORED, messages.ALREADY)

    async def stock_find(self, place: bytes) -> StockValue | None:
        """The newest value of a page, as a stock peer can take it; None where there is none that fits."""
        newest = await self._newest(_place(place))
        if newest is None or newest.flags & Flag.CHUNKED:
            return None
        if newest.flags & Flag.STOCK:
            return stock_value(newest)
        try:
            return newest.body.decode()
        except UnicodeDecodeError:
            return newest.body

    async def _newest(self, place: Place) -> Version | None:
        result = await self.store.read(RangeQuery(place, reverse=True, limit=1))
        return result.versions[0] if result.versions else None

    # --- acceptance ---

    async def _judge(
        self, puts: list[PutVersion], released: list[Write], *, signed_here: bool
    ) -> list[StoreResult | None]:
        """What is said of versions that are not kept; None for each that is to be committed.

        What stands in a version's way under its name is for the commit to say (`_in_the_way`). `released`: what is to
        be dropped in the same step, because its plain version is kept.
        """
        places = {put.place for put in puts}
        await self.holdings.look(places)
        split = {place for place in places if (await self.holdings.of(place)).split}
        waiting = await self._waiting(puts, places)
        trusted_until = self.clock.trusted_until(self._env.now_s())
        results: list[StoreResult | None] = []
        for index, put in enumerate(puts, 1):
            if not index % RECORDS_JUDGED_AT_ONCE:
                await asyncio.sleep(0)
            place, version = put.place, put.version
            result = None if in_bounds(version) and place not in split else _unfit(version, split=place in split)
            if result is None and place in waiting:
                held = await self.store.read_name(place, version.name)
                twins = atomic.twins(version, held)
                if twins:  # it was judged when it began to wait
                    released += [DropVersion(place, *twin.identity, content_hash(twin)) for twin in twins]
                    results.append(None)
                    continue
                result = self._why_not_wait(put.key, version, held, waiting[place])
            if result is None:
                result = self._refusal(put, trusted_until, signed_here=signed_here)
            results.append(result)
        return results

    async def _waiting(self, puts: list[PutVersion], places: set[Place]) -> dict[Place, list[bytes]]:
        """The batches that versions wait in, of those pages where some do or are about to."""
        coming = {put.place for put in puts if put.version.flags & Flag.PENDING}
        if coming:
            self.waits.set()
        found: dict[Place, list[bytes]] = {}
        for place in places:
            holding = await self.holdings.of(place)
            if holding.waits or place in coming:
                before = holding.waits
                found[place] = (await self.store.read(RangeQuery(place, limit=1, pending=True))).batches
                if not found[place] and holding.waits == before:
                    holding.waits = 0
        return found

    def _why_not_wait(
        self, key: bytes, version: Version, held: list[Version], batches: list[bytes]
    ) -> StoreResult | None:
        """Why a version need not, or cannot, wait here in its batch; None where it can, or is none that waits."""
        if not version.pending or version in held:
            return None
        if self.is_given_up(version.batch):
            return StoreResult(messages.REFUSED, "its batch was given up")  # others may bring it once more
        if key.startswith(atomic.BATCH_KEYS):
            return StoreResult(messages.REFUSED, "a decision waits for nothing")
        standing = atomic.in_the_way(version, held)
        if standing is not None:
            code = messages.ALREADY if standing == atomic.plain(version) else messages.STALE
            return StoreResult(code, current=standing if code == messages.STALE else None)
        if version.batch not in batches and len(batches) >= ATOMIC_BATCHES_PER_PAGE_MAX:
            return StoreResult(messages.REFUSED, "too many batches wait in its page")
        return None

    def trusts(self, version: Version) -> bool:
        """Is its clock one that replicas will take?"""
        return self.clock.trusts(version.clock, self._env.now_s())

    def _refusal(self, put: PutVersion, trusted_until: int, *, signed_here: bool) -> StoreResult | None:
        """Why a version of a good shape cannot be kept; None where it can."""
        clock = put.version.clock
        if clock > trusted_until:
            return StoreResult(messages.REFUSED, "its clock runs too far ahead")
        if not signed_here and not genuine(put.key, put.version, put.encoded):
            return StoreResult(messages.REFUSED, "its signature does not hold")
        if clock > self.clock.last:
            self.clock.pass_by(clock)
        return None

    async def _commit(self, writes: list[Write]) -> list[StoreResult]:
        try:
            outcomes = await self.store.commit(writes) if writes else []
        except QuotaExceededError as error:
            return [StoreResult(messages.REFUSED, f"quota: {error}")] * len(writes)
        except StoreFailedError as error:
            return [StoreResult(messages.FAILED, str(error))] * len(writes)
        self._tell(writes, outcomes)
        return [_result(outcome) for outcome in outcomes]

    def _tell(self, writes: Sequence[Write], outcomes: list[WriteOutcome]) -> None:
        """Whoever watches the places of what is new. What waits in a batch is nobody's business yet."""
        if self.on_stored is None or not self.watched():
            return
        new: dict[Place, list[Version]] = {}
        for write, outcome in zip(writes, outcomes, strict=True):
            if outcome.result is not Result.STORED or not isinstance(write, PutVersion):
                continue
            if not write.version.flags & Flag.PENDING:
                new.setdefault(write.place, []).append(write.version)
        for place, versions in new.items():
            self.on_stored(place, versions)


def _shows_marker(query: RangeQuery) -> bool:
    """Would the marker of the page be the first that is read?"""
    part = query.reverse or query.after or query.prefix or query.pending
    return query.order == "time" and query.dead and not part


def _but_marker(result: RangeResult) -> list[Version]:
    """What a split page holds beside the marker that says so."""
    return [version for version in result.versions if not version.flags & Flag.SPLIT]


def _live(versions: list[Version], now_s: float) -> int:
    """How many there are to show."""
    now_ms, unseen = now_s * 1000, Flag.TOMBSTONE | Flag.PENDING
    return sum(not v.flags & unseen and (not v.expires_ms or v.expires_ms > now_ms) for v in versions)


def _unfit(version: Version, *, split: bool) -> StoreResult | None:
    """What is wrong with a version whatever is held here."""
    try:
        check_shape(version)
    except RemoteError as error:
        return StoreResult(messages.REFUSED, error.detail)
    if split and version.name and not version.flags & Flag.SPLIT:
        return _SPLIT
    return None


def _in_the_way(now_s: float, version: Version, held: Sequence[Version]) -> str:
    """Why a version may not be kept beside what lies under its name; empty where it may."""
    if not held or atomic.twins(version, held):  # it was judged when it began to wait
        return ""
    return _owned_by_another(now_s, version, held) or _crowded(version, held)


def _owned_by_another(now_s: float, version: Version, held: Sequence[Version]) -> str:
    for standing in held:
        foreign = standing.flags & Flag.OWN and standing.author != version.author
        if foreign and not standing.dead and not standing.expired(now_s):
            return f"{OWNED}{standing.author.hex()[:16]}"
    return ""


def _crowded(version: Version, held: Sequence[Version]) -> str:
    """All that lies under one name must fit one answer, or it could not be read by its name any more."""
    others = [standing for standing in held if standing.identity != version.identity]
    if others and sum(map(encoded_bytes, [version, *others])) > RECORDS_ANSWER_BYTES_MAX:
        return "too many owners have a record of this name"
    return ""


def _result(outcome: WriteOutcome) -> StoreResult:
    if outcome.result is Result.STORED:
        return _STORED
    return StoreResult(_CODES[outcome.result], outcome.detail, outcome.current)


def _fitting(results: list[StoreResult], answer_bytes_max: int) -> list[StoreResult]:
    """Results that fit one answer: of the versions that stand in the way, as many as there is room for."""
    room_bytes = answer_bytes_max - len(results) * RESULT_BYTES
    fitting: list[StoreResult] = []
    for result in results:
        if result.current is not None:
            room_bytes -= encoded_bytes(result.current)
        fitting.append(result if room_bytes >= 0 else msgspec.structs.replace(result, current=None))
    return fitting


def _places(request: messages.StoreRecords) -> list[Place]:
    """Where each version of a request belongs. Raises RemoteError where it names pages that cannot be."""
    versions = request.versions
    depths = request.depths or bytes(len(versions))
    if len(depths) != len(versions):
        raise RemoteError("malformed", "a wrong number of depths")
    places: dict[PageName, Place] = {}
    pages = [page_of(version, depth) for version, depth in zip(versions, depths, strict=True)]
    for page in pages:
        if page not in places:
            places[page] = place_of_page(request.key, page)
    return [places[page] for page in pages]


def _place(place: bytes) -> Place:
    if len(place) != ID_BYTES:
        raise RemoteError("malformed", "a place has 20 bytes")
    return Place(place)


def _query(request: messages.FindRecords) -> RangeQuery:
    """A stranger's question as a bounded question to the store."""
    if request.digest_only:
        return _bounded(request, RECORDS_DIGEST_MAX, RECORDS_DIGEST_MAX * VERSION_BYTES_MAX)
    return _bounded(request, RECORDS_ANSWER_MAX, RECORDS_ANSWER_BYTES_MAX)


def _run_query(request: messages.FindRecords, *, alone: bool) -> RangeQuery:
    """The same as one of many. What is digested is cut just as what is given out, so that one confirms the other.

    One that is given out alone may be long, and so may one that is only digested.
    """
    if (alone or request.digest_only) and request.limit > RUN_RECORDS_MAX:
        return _bounded(request, RUNS_RECORDS_MAX, RUN_LONG_BYTES_MAX)
    return _bounded(request, RUN_RECORDS_MAX, RUN_BYTES_MAX)


def _bounded(request: messages.FindRecords, limit: int, bytes_max: int) -> RangeQuery:
    return RangeQuery(
        place=_place(request.place),
        order="name" if request.by_name else "time",
        after=request.after,
        until=request.until,
        reverse=request.reverse,
        prefix=request.prefix[:NAME_BYTES_MAX],
        limit=max(1, min(request.limit, limit)),
        bytes_max=bytes_max,
        dead=True,
        pending=request.pending,
    )
