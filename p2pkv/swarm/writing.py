"""Coordinates writes: signs a version, brings it to the replicas of its page, and says honestly how many have it.

Theory of operation. The store request is the question of a lookup: every replica that answers keeps the version durably
first and then names nearer peers where its opinion differs. So a put costs one round trip where the neighbourhood is
known, and as many as a lookup needs where it is not. It ends when enough replicas have acknowledged; the questions to
the rest go on behind it. A peer that knows k nearer ones keeps nothing (`NOT_MINE`); where the search shows that it
belongs to the replicas after all, it is told so (`force`).

Owns the tally of acknowledgements. Never touches storage but through this peer's own `Replica`.
"""

from __future__ import annotations

import asyncio
from base64 import b32hexencode
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

import msgspec

from p2pkv import messages
from p2pkv.core.drafts import Draft
from p2pkv.core.records import Flag, Version, encoded_bytes, signed_bytes, version_token
from p2pkv.core.replication import needed
from p2pkv.errors import RefusedError, RemoteError, UnreachableError
from p2pkv.ids import place_of_key
from p2pkv.limits import CLOCK_RETRIES_MAX, RECORDS_STORE_BYTES_MAX, STORES_IN_FLIGHT_MAX
from p2pkv.messages import StoreResult
from p2pkv.outcomes import Acks, PutOutcome, ReplicaFailure
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.environment import Environment
from p2pkv.swarm.identity import Identity
from p2pkv.swarm.lookup import Answer, Found, Lookups
from p2pkv.swarm.neighbourhood import Neighbourhood
from p2pkv.swarm.protocol import PeerProtocol
from p2pkv.swarm.question import TypedQuestion
from p2pkv.swarm.replica import Replica


@dataclass
class Tally:
    """What the replicas said of one version."""

    version: Version
    asked: int
    needed: int
    stored: int = 0
    failures: list[ReplicaFailure] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    newer: Version | None = None  # of a higher rank, standing at some replica

    @property
    def reached(self) -> bool:
        return self.stored >= self.needed

    def add(self, result: StoreResult, node: str, address: str) -> None:
        if result.code in (messages.STORED, messages.ALREADY):
            self.stored += 1
        elif result.code == messages.STALE:
            if result.current is not None and (self.newer is None or result.current.clock > self.newer.clock):
                self.newer = result.current
            self.failures.append(ReplicaFailure(node, address, "a newer version stands"))
        else:
            reason = result.detail or "knows nearer peers"
            if result.code == messages.REFUSED:
                self.refusals.append(reason)
            self.failures.append(ReplicaFailure(node, address, reason))

    def outcome(self) -> PutOutcome:
        return PutOutcome(
            name=self.version.name.decode(errors="replace"),
            version=version_token(self.version),
            asked=self.asked,
            stored=self.stored,
            needed=self.needed,
            failures=self.failures,
        )


class Writer:
    """This peer's puts and deletes of records."""

    def __init__(
        self,
        protocol: PeerProtocol,
        lookups: Lookups,
        replica: Replica,
        neighbourhood: Neighbourhood,
        identity: Identity,
        env: Environment,
    ) -> None:
        self._protocol = protocol
        self._lookups = lookups
        self._replica = replica
        self._neighbourhood = neighbourhood
        self._identity = identity
        self._env = env

    async def put(self, key: bytes, draft: Draft, *, acks: Acks = "quorum") -> PutOutcome:
        """Put one version. Raises RefusedError; an outcome that did not reach its acks is the caller's to judge."""
        for _ in range(CLOCK_RETRIES_MAX):
            tally = (await self.store(key, [self.sign(key, draft)], acks))[0]
            if tally.newer is None:
                break
            if tally.newer.flags & Flag.ONCE:
                raise RefusedError("the record is write-once", current=version_token(tally.newer))
            self.observe(tally.newer.clock)
        _raise_refusal(tally)
        return tally.outcome()

    async def put_many(
        self, key: bytes, drafts: Iterable[Draft], *, acks: Acks = "quorum"
    ) -> AsyncIterator[PutOutcome]:
        """Put many records of one key, as many to a message as fit; outcomes come in the order of the drafts."""
        running: list[asyncio.Task[list[Tally]]] = []
        async with asyncio.TaskGroup() as group:
            for batch in _batches(self.sign(key, draft) for draft in drafts):
                running.append(group.create_task(self.store(key, batch, acks)))
                if len(running) >= STORES_IN_FLIGHT_MAX:
                    for tally in await running.pop(0):
                        yield tally.outcome()
            for task in running:
                for tally in await task:
                    yield tally.outcome()

    def sign(self, key: bytes, draft: Draft) -> Version:
        """The draft as a version of this peer's author, with the next clock value."""
        unsigned = Version(
            name=draft.name,
            clock=self._replica.clock.tick(self._env.now_s()),
            author=self._identity.public_key,
            flags=int(draft.flags),
            expires_ms=draft.expires_ms,
            size_bytes=draft.size_bytes,
            body=draft.body,
            meta=draft.meta,
        )
        if draft.flags & Flag.STOCK:
            return msgspec.structs.replace(unsigned, author=b"")
        return msgspec.structs.replace(unsigned, signature=self._identity.sign(signed_bytes(key, unsigned)))

    def unique_name(self) -> bytes:
        """A name that no other record has, and that sorts by the time it was made: 24 characters of base32hex."""
        clock = self._replica.clock.tick(self._env.now_s()).to_bytes(8, "big")
        return b32hexencode(clock + self._env.random_bytes(7)).lower()

    def observe(self, clock: int) -> None:
        """Let what is signed next come behind this clock."""
        self._replica.clock.observe(clock, self._env.now_s())

    async def store(self, key: bytes, versions: list[Version], acks: Acks) -> list[Tally]:
        """Bring versions that fit one message to the replicas of their key."""
        place = place_of_key(key)
        view, _ = self._neighbourhood.view(place)
        here = self._neighbourhood.keeps(place)
        request = messages.StoreRecords(key, versions, view)

        def read(reply: messages.StoreRecordsReply) -> Answer:
            _check(reply, request)
            return Answer(reply.nodes, reply.results)

        question = TypedQuestion(
            self._protocol,
            messages.STORE_RECORDS,
            request,
            read,
            ask_stock=lambda contact: self._lookups.nodes_of(contact, place),
        )
        async with asyncio.TaskGroup() as group:
            mine = all(version.author == self._identity.public_key for version in versions)
            local = group.create_task(self._replica.store_versions(key, versions, signed_here=mine)) if here else None
            found = await self._lookups.ask(
                place, question, need=lambda remote: self._needed(acks, remote, here=here), linger=True, eager=True
            )
        results = local.result() if local else None
        tallies = self._tally(found, versions, acks, results)
        if all(tally.reached for tally in tallies):
            return tallies
        # First those who stand in for contacts that keep silent: nobody need wait until these are given up.
        if await self._insist(found, request):
            tallies = self._tally(found, versions, acks, results)
            if all(tally.reached for tally in tallies):
                return tallies
        await found.settle()
        await self._insist(found, request)
        return self._tally(found, versions, acks, results)

    def _needed(self, acks: Acks, remote: int, *, here: bool) -> int:
        """How many of `remote` contacts must acknowledge beside this peer's own share."""
        return max(0, needed(acks, min(self._neighbourhood.k, remote + here)) - here)

    async def _ask(self, contact: Contact, request: messages.StoreRecords) -> messages.StoreRecordsReply:
        reply = await self._protocol.call(contact, messages.STORE_RECORDS, request)
        _check(reply, request)
        return reply

    async def _insist(self, found: Found, request: messages.StoreRecords) -> bool:
        """Tell those of the replicas that know nearer peers that the search found none alive; were there any?"""
        forced = msgspec.structs.replace(request, force=True)

        async def insist(contact: Contact) -> None:
            try:
                found.answers[contact.id] = (await self._ask(contact, forced)).results
            except RemoteError as error:
                found.failures[contact.id] = str(error)

        unwilling = [contact for contact in found.contacts if _not_mine(found.answers.get(contact.id))]
        async with asyncio.TaskGroup() as group:
            for contact in unwilling:
                group.create_task(insist(contact))
        return bool(unwilling)

    def _tally(self, found: Found, versions: list[Version], acks: Acks, local: list[StoreResult] | None) -> list[Tally]:
        asked = min(self._neighbourhood.k, found.replicas + (local is not None))
        if not asked:
            raise UnreachableError(
                "no peer of the swarm is known", "start with --bootstrap HOST:PORT of a running peer"
            )
        tallies = [Tally(version, asked, needed(acks, asked)) for version in versions]
        silent = [ReplicaFailure(node.hex(), found.address_of(node), why) for node, why in found.failures.items()]
        for index, tally in enumerate(tallies):
            if local is not None:
                tally.add(local[index], self._identity.node_id.hex(), "here")
            for contact in found.contacts:
                results = found.answers.get(contact.id)
                if isinstance(results, list):
                    tally.add(results[index], contact.id.hex(), f"{contact.ip}:{contact.port}")
            tally.failures += silent
        return tallies


def _not_mine(results: object) -> bool:
    return isinstance(results, list) and any(result.code == messages.NOT_MINE for result in results)


def _check(reply: messages.StoreRecordsReply, request: messages.StoreRecords) -> None:
    if len(reply.results) != len(request.versions):
        raise RemoteError("misbehaved", "a wrong number of results")


def _batches(versions: Iterable[Version]) -> Iterable[list[Version]]:
    """Versions in lists that fit one message."""
    batch: list[Version] = []
    size_bytes = 0
    for version in versions:
        length = encoded_bytes(version)
        if batch and size_bytes + length > RECORDS_STORE_BYTES_MAX:
            yield batch
            batch, size_bytes = [], 0
        batch.append(version)
        size_bytes += length
    if batch:
        yield batch


def _raise_refusal(tally: Tally) -> None:
    """A put that failed because replicas refused it is refused, not merely incomplete."""
    if tally.reached or not tally.refusals:
        return
    current = version_token(tally.newer) if tally.newer else ""
    mend = "free space or raise the quota" if tally.refusals[0].startswith("quota") else ""
    raise RefusedError(f"the replicas refused: {tally.refusals[0]}", mend, current=current)
