"""Brings versions to the replicas of one page, and says honestly how many have them.

Theory of operation. The store request is the question of a lookup: every replica that answers keeps the versions
durably first and then names nearer peers where its opinion differs. So a put costs one round trip where the
neighbourhood is known, and as many as a lookup needs where it is not. It ends when enough replicas have acknowledged;
the questions to the rest go on behind it. A peer that knows k nearer ones keeps nothing (`NOT_MINE`); where the search
shows that it belongs to the replicas after all, it is told so (`force`).

Never chooses the page, and never touches storage but through this peer's own `Replica`.
"""

from __future__ import annotations

import asyncio

import msgspec

from p2pkv import messages
from p2pkv.core.pages import PageName, place_of_page
from p2pkv.core.records import Version
from p2pkv.core.replication import needed
from p2pkv.errors import RemoteError, UnreachableError
from p2pkv.ids import Place
from p2pkv.messages import StoreResult
from p2pkv.outcomes import Acks, ReplicaFailure
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.lookup import Answer, Found, Lookups
from p2pkv.swarm.neighbourhood import Neighbourhood
from p2pkv.swarm.protocol import PeerProtocol
from p2pkv.swarm.question import TypedQuestion
from p2pkv.swarm.replica import Replica
from p2pkv.swarm.tallies import Tally


class PageWriter:
    """Stores into pages."""

    def __init__(
        self,
        protocol: PeerProtocol,
        lookups: Lookups,
        replica: Replica,
        neighbourhood: Neighbourhood,
        public_key: bytes,
    ) -> None:
        self._protocol = protocol
        self._lookups = lookups
        self._replica = replica
        self._neighbourhood = neighbourhood
        self._public_key = public_key

    async def store(self, key: bytes, page: PageName, versions: list[Version], acks: Acks) -> list[Tally]:
        """Bring versions that fit one message to the replicas of their page. It ends early where the page is split."""
        await self._lookups.ready()
        place = place_of_page(key, page)
        view, _ = self._neighbourhood.view(place)
        here = self._neighbourhood.keeps(place)
        request = messages.StoreRecords(key, versions, view, depths=bytes([len(page)]) * len(versions))

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
        local = asyncio.create_task(self._keep(key, place, versions)) if here else None
        try:
            found = await self._lookups.ask(
                place, question, need=lambda remote: self._needed(acks, remote, here=here), linger=True, eager=True
            )
        finally:
            results = await local if local else None
        tallies = await self._tallies(found, request, acks, results)
        if any(tally.reached for tally in tallies):
            await self._require_majority(found, acks, here=here)
        return tallies

    async def _tallies(
        self, found: Found, request: messages.StoreRecords, acks: Acks, results: list[StoreResult] | None
    ) -> list[Tally]:
        """What the replicas say, as soon as it is enough."""
        versions = request.versions
        tallies = self._tally(found, versions, acks, results)
        if all(tally.reached or tally.split for tally in tallies):
            return tallies
        # First those who stand in for contacts that keep silent: nobody need wait until these are given up.
        if await self._insist(found, request):
            tallies = self._tally(found, versions, acks, results)
            if all(tally.reached or tally.split for tally in tallies):
                return tallies
        await found.settle()
        await self._insist(found, request)
        return self._tally(found, versions, acks, results)

    async def _require_majority(self, found: Found, acks: Acks, *, here: bool) -> None:
        """Where others stand in for silent replicas: raise IncompleteError where it is this peer that is cut off."""
        k = self._neighbourhood.k
        short = found.answered_of(k - here) + here < min(needed(acks, k), found.replicas + here)
        if short and not await self._lookups.hears_most(found.began_s):
            await found.settle()  # the silent have their time; so it shows whether this is the smaller side
        self._lookups.require_swarm()

    async def _keep(self, key: bytes, place: Place, versions: list[Version]) -> list[StoreResult]:
        """This peer's own share."""
        mine = all(version.author == self._public_key for version in versions)
        return await self._replica.store_versions(key, versions, [place] * len(versions), signed_here=mine)

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
                tally.add(local[index], self._neighbourhood.node_id.hex(), "here")
            for contact in found.contacts:
                results = found.answers.get(contact.id)
                if isinstance(results, list):
                    tally.add(results[index], contact.id.hex(), f"{contact.ip}:{contact.port}")
            tally.failures += silent
        return tallies


def _check(reply: messages.StoreRecordsReply, request: messages.StoreRecords) -> None:
    if len(reply.results) != len(request.versions):
        raise RemoteError("misbehaved", "a wrong number of results")


def _not_mine(results: object) -> bool:
    return isinstance(results, list) and any(result.code == messages.NOT_MINE for result in results)
