"""What this peer does as a replica: it judges versions that it is asked to keep, and answers for the pages it holds.

Owns the rules of acceptance (bounds, signature, clock, ownership, write-once). It asks no other peer for anything; the
coordinators in `writing.py` and `reading.py` use it for this peer's own share as well.
"""

from __future__ import annotations

import msgspec

from p2pkv import messages, wire
from p2pkv.core.clock import HybridClock
from p2pkv.core.records import Flag, Version, check_key, check_shape, encoded_bytes, signed_bytes
from p2pkv.core.replication import digest_of, position
from p2pkv.errors import RemoteError
from p2pkv.ids import ID_BYTES, Place, place_of_key
from p2pkv.limits import (
    NAME_BYTES_MAX,
    NAMES_ASKED_MAX,
    RECORDS_ANSWER_BYTES_MAX,
    RECORDS_ANSWER_MAX,
    RECORDS_DIGEST_MAX,
    STOCK_VALUE_BYTES_MAX,
    VERSION_BYTES_MAX,
)
from p2pkv.messages import StoreResult
from p2pkv.outcomes import Order
from p2pkv.storage.interface import (
    PutVersion,
    QuotaExceededError,
    RangeQuery,
    Result,
    Store,
    StoreFailedError,
    WriteOutcome,
)
from p2pkv.swarm.environment import Environment
from p2pkv.swarm.identity import verify
from p2pkv.swarm.neighbourhood import Neighbourhood, node_tuples
from p2pkv.swarm.protocol import Sender

_CODES = {Result.STORED: messages.STORED, Result.ALREADY: messages.ALREADY, Result.STALE: messages.STALE}

StockValue = wire.Scalar
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


def genuine(key: bytes, version: Version) -> bool:
    """Was the version signed by its author? A stock peer's value claims none."""
    if version.flags & Flag.STOCK:
        return True
    return verify(version.author, signed_bytes(key, version), version.signature)


class Replica:
    """This peer's share of the swarm's records."""

    def __init__(self, store: Store, env: Environment, neighbourhood: Neighbourhood) -> None:
        self.store = store
        self.clock = HybridClock()
        self._env = env
        self._neighbourhood = neighbourhood

    # --- answering peers ---

    async def on_store(self, sender: Sender, request: messages.StoreRecords) -> messages.StoreRecordsReply:
        """Keep versions durably, or say of each why not."""
        check_key(request.key)
        place = place_of_key(request.key)
        view, nearest = self._neighbourhood.view(place)
        nodes = [] if view == request.view else node_tuples(nearest)
        if not request.force and not self._neighbourhood.keeps(place):
            return messages.StoreRecordsReply([StoreResult(messages.NOT_MINE)] * len(request.versions), nodes)
        return messages.StoreRecordsReply(await self.store_versions(request.key, request.versions), nodes)

    async def on_find(self, sender: Sender, request: messages.FindRecords) -> messages.FindRecordsReply:
        """A run of a page, and who is nearest where opinions differ."""
        place = _place(request.place)
        view, nearest = self._neighbourhood.view(place)
        reply = await self.find(request)
        if view == request.view:
            return reply
        return msgspec.structs.replace(reply, nodes=node_tuples(nearest))

    async def on_find_names(self, sender: Sender, request: messages.FindNames) -> messages.FindNamesReply:
        place = _place(request.place)
        if len(request.names) > NAMES_ASKED_MAX or any(len(name) > NAME_BYTES_MAX for name in request.names):
            raise RemoteError("malformed", "too many names, or too long")
        view, nearest = self._neighbourhood.view(place)
        reply = await self.find_names(request)
        return reply if view == request.view else msgspec.structs.replace(reply, nodes=node_tuples(nearest))

    # --- the share itself, for this peer's own coordinators too ---

    async def store_versions(
        self, key: bytes, versions: list[Version], *, signed_here: bool = False
    ) -> list[StoreResult]:
        """Judge and keep versions; what is said to be stored is durable. `signed_here`: by this very peer, just now."""
        place = place_of_key(key)
        refusals = [await self._refusal(key, place, version, signed_here=signed_here) for version in versions]
        writes = [PutVersion(place, key, v) for v, why in zip(versions, refusals, strict=True) if not why]
        outcomes = iter(await self._commit(writes))
        return [StoreResult(messages.REFUSED, why) if why else next(outcomes) for why in refusals]

    async def find(self, request: messages.FindRecords) -> messages.FindRecordsReply:
        result = await self.store.read(_query(request))
        now_s = self._env.now_s()
        versions = result.versions
        order: Order = "name" if request.by_name else "time"
        return messages.FindRecordsReply(
            versions=[] if request.digest_only else versions,
            more=result.more,
            digest=digest_of(versions),
            live=sum(not version.dead and not version.expired(now_s) for version in versions),
            end=position(versions[-1], order) if versions else None,
        )

    async def find_names(self, request: messages.FindNames) -> messages.FindNamesReply:
        """What lies under the names, as many of them as fit one answer (at least one)."""
        found: list[Version] = []
        size_bytes = 0
        for index, name in enumerate(request.names):
            held = await self.store.read_name(Place(request.place), name)
            size_bytes += sum(encoded_bytes(version) for version in held)
            if index and size_bytes > RECORDS_ANSWER_BYTES_MAX:
                return messages.FindNamesReply(found, index)
            found += held
        return messages.FindNamesReply(found, len(request.names))

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

    async def _refusal(self, key: bytes, place: Place, version: Version, *, signed_here: bool) -> str:
        """Why a version cannot be kept; empty where it can."""
        try:
            check_shape(version)
        except RemoteError as error:
            return error.detail
        if not self.clock.trusts(version.clock, self._env.now_s()):
            return "its clock runs too far ahead"
        if not signed_here and not genuine(key, version):
            return "its signature does not hold"
        self.clock.observe(version.clock, self._env.now_s())
        return await self._owned_by_another(place, version)

    async def _owned_by_another(self, place: Place, version: Version) -> str:
        for held in await self.store.read_name(place, version.name):
            foreign = held.flags & Flag.OWN and held.author != version.author
            if foreign and not held.dead and not held.expired(self._env.now_s()):
                return f"the record belongs to {held.author.hex()[:16]}"
        return ""

    async def _commit(self, writes: list[PutVersion]) -> list[StoreResult]:
        try:
            outcomes = await self.store.commit(writes) if writes else []
        except QuotaExceededError as error:
            return [StoreResult(messages.REFUSED, f"quota: {error}")] * len(writes)
        except StoreFailedError as error:
            return [StoreResult(messages.FAILED, str(error))] * len(writes)
        return [_result(outcome) for outcome in outcomes]


def _result(outcome: WriteOutcome) -> StoreResult:
    return StoreResult(_CODES[outcome.result], current=outcome.current)


def _place(place: bytes) -> Place:
    if len(place) != ID_BYTES:
        raise RemoteError("malformed", "a place has 20 bytes")
    return Place(place)


def _query(request: messages.FindRecords) -> RangeQuery:
    """A stranger's question as a bounded question to the store."""
    limit = RECORDS_DIGEST_MAX if request.digest_only else RECORDS_ANSWER_MAX
    bytes_max = RECORDS_DIGEST_MAX * VERSION_BYTES_MAX if request.digest_only else RECORDS_ANSWER_BYTES_MAX
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
    )
