"""Stores many records at once: grouped by the peers that should hold them, across pages.

Theory of operation. Where a key has many pages, few records of a batch share one; but a peer of a swarm holds many of
the pages. So the replicas of each page are looked up once and remembered for a short while, and every peer gets its
records of all pages in as few messages as they fit. The batch ends as soon as every record has enough
acknowledgements, or nobody is left to ask. What did not get through here (a peer that died, a page that split, a
newcomer) is for the caller to store page by page, as single puts are.

Owns the messages that go on behind a batch. Who holds which page is for `sites` to know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

from p2pkv import messages
from p2pkv.core.pages import PageName
from p2pkv.core.records import Version, encoded_bytes
from p2pkv.core.replication import needed
from p2pkv.core.rtt import RttEstimator
from p2pkv.errors import RemoteError, SilentError
from p2pkv.limits import (
    BATCH_RECORDS_MIN,
    BATCH_RTO_S_MAX,
    BATCH_RTO_S_MIN,
    RECORDS_STORE_BYTES_MAX,
    RECORDS_STORE_LONG_BYTES_MAX,
    STORE_MESSAGES_AT_ONCE_MAX,
    STORE_WAITING_BYTES_MAX,
)
from p2pkv.outcomes import Acks, ReplicaFailure
from p2pkv.swarm.bulk_calls import BulkCalls
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.lookup import Lookups
from p2pkv.swarm.neighbourhood import Neighbourhood
from p2pkv.swarm.protocol import PeerProtocol
from p2pkv.swarm.replica import Replica
from p2pkv.swarm.sites import Site, Sites
from p2pkv.swarm.tallies import Tally


class BatchWriter:
    """Stores of many records."""

    def __init__(
        self,
        protocol: PeerProtocol,
        calls: BulkCalls,
        lookups: Lookups,
        sites: Sites,
        replica: Replica,
        neighbourhood: Neighbourhood,
    ) -> None:
        self._protocol = protocol
        self._calls = calls
        self._lookups = lookups
        self._replica = replica
        self._node = neighbourhood.node_id.hex()
        self._sites = sites
        self._slots = asyncio.Semaphore(STORE_MESSAGES_AT_ONCE_MAX)
        self._usual = RttEstimator()  # what it takes until a message of a batch is durable: longer than a ping does
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting_bytes = 0  # of their messages

    async def store(self, key: bytes, pages: list[PageName], versions: list[Version], acks: Acks) -> list[Tally]:
        """A tally a version, each of which goes to a page of its own. They are known to be genuine here.

        Where a page proves to be split, nothing further is waited for: its records belong elsewhere.
        """
        while self._waiting_bytes > STORE_WAITING_BYTES_MAX:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        batch = await self._plan(key, pages, versions, acks)
        tasks = [self._start(work, size_bytes) for work, size_bytes in batch.work(self)]
        tasks_left = set(tasks)
        while tasks_left and not batch.decided:
            _, tasks_left = await asyncio.wait(tasks_left, return_when=asyncio.FIRST_COMPLETED)
        for site in batch.short():
            self._sites.forget(site.place)
        return batch.tallies

    async def _plan(self, key: bytes, pages: list[PageName], versions: list[Version], acks: Acks) -> _Batch:
        names = list(dict.fromkeys(pages))
        sites = dict(zip(names, await asyncio.gather(*(self._sites.of(key, page) for page in names)), strict=True))
        return _Batch(key, versions, pages, [sites[page] for page in pages], acks)

    def _start(self, work: Coroutine[Any, Any, None], size_bytes: int) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        self._waiting_bytes += size_bytes
        task.add_done_callback(partial(self._ended, size_bytes))
        return task

    def _ended(self, size_bytes: int, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._waiting_bytes -= size_bytes

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- one message ---

    async def keep(self, batch: _Batch, indexes: list[int]) -> None:
        """This peer's own share."""
        versions = [batch.versions[index] for index in indexes]
        places = [batch.sites[index].place for index in indexes]
        results = await self._replica.store_versions(batch.key, versions, places, signed_here=True)
        batch.add(indexes, results, self._node, "here")

    async def send(self, batch: _Batch, contact: Contact, indexes: list[int]) -> None:
        address = f"{contact.ip}:{contact.port}"
        depths = bytes(len(batch.pages[index]) for index in indexes)
        request = messages.StoreRecords(batch.key, [batch.versions[index] for index in indexes], depths=depths)
        async with self._slots:
            asked_s = asyncio.get_running_loop().time()
            try:
                if self._lookups.silences.is_silent(contact):
                    raise RemoteError("silent", "it did not answer lately")
                reply = await self._call(contact, request, batch, batch.size_bytes(indexes))
                results = reply.results
                if len(results) != len(indexes):
                    raise RemoteError("misbehaved", "a wrong number of results")
            except RemoteError as error:
                if isinstance(error, SilentError):
                    self._lookups.silent(contact, asked_s)
                batch.fail(indexes, ReplicaFailure(contact.id.hex(), address, str(error)))
                return
        batch.add(indexes, results, contact.id.hex(), address)

    async def _call(
        self, contact: Contact, request: messages.StoreRecords, batch: _Batch, size_bytes: int
    ) -> messages.StoreRecordsReply:
        if size_bytes > RECORDS_STORE_BYTES_MAX:
            return await self._calls.call(contact, messages.STORE_RECORDS, request)
        rto_s_min = max(batch.busy_s, min(self._usual.rto_s, BATCH_RTO_S_MAX))
        asked_s, samples = asyncio.get_running_loop().time(), self._usual.samples
        reply = await self._protocol.call(contact, messages.STORE_RECORDS, request, rto_s_min=rto_s_min)
        took_s = asyncio.get_running_loop().time() - asked_s
        if took_s < rto_s_min:
            self._usual.observe(took_s)
        elif self._usual.samples == samples:  # it was sent again, and not because it alone was lost: nobody was quicker
            self._usual.back_off(2 * rto_s_min)
        return reply


class _Batch:
    """One batch under way."""

    def __init__(
        self, key: bytes, versions: list[Version], pages: list[PageName], sites: list[Site], acks: Acks
    ) -> None:
        self.key = key
        self.versions = versions
        self.pages = pages
        self.sites = sites
        self.sizes = [encoded_bytes(version) + 1 for version in versions]  # in a message
        self.tallies = [
            Tally(version, site.replicas, needed(acks, site.replicas) or 1)
            for version, site in zip(versions, sites, strict=True)
        ]
        self._open = {index for index, tally in enumerate(self.tallies) if not _decided(tally)}

    @property
    def busy_s(self) -> float:
        """So long it may keep the replicas busy: a message is not sent again sooner."""
        return BATCH_RTO_S_MIN * min(1.0, len(self.versions) / BATCH_RECORDS_MIN)

    @property
    def decided(self) -> bool:
        """Is nothing more to be learnt of any record?"""
        return not self._open

    def work(self, writer: BatchWriter) -> list[tuple[Coroutine[Any, Any, None], int]]:
        """What is to be done, and how many bytes are sent for it; this peer's own share first.

        Page by page: what was signed together lies close together, and is verified in one go.
        """
        order = sorted(range(len(self.pages)), key=self.pages.__getitem__)
        here = [index for index in order if self.sites[index].here]
        shares: dict[bytes, tuple[Contact, list[int]]] = {}
        for index in order:
            for contact in self.sites[index].contacts:
                shares.setdefault(contact.id, (contact, []))[1].append(index)
        own = [(writer.keep(self, here), 0)] if here else []
        return own + [
            (writer.send(self, contact, group), self.size_bytes(group))
            for contact, indexes in shares.values()
            for group in fitting(self.sizes, indexes, _room_bytes(contact))
        ]

    def size_bytes(self, indexes: list[int]) -> int:
        """Of some of the versions, in a message."""
        return sum(self.sizes[index] for index in indexes)

    def add(self, indexes: list[int], results: list[messages.StoreResult], node: str, address: str) -> None:
        for index, result in zip(indexes, results, strict=True):
            tally = self.tallies[index]
            tally.add(result, node, address)
            if index in self._open and _decided(tally):
                self._open.remove(index)

    def fail(self, indexes: list[int], failure: ReplicaFailure) -> None:
        for index in indexes:
            self.tallies[index].failures.append(failure)

    def short(self) -> list[Site]:
        """The sites of records that did not get enough acknowledgements, though their pages are whole."""
        return [site for site, tally in zip(self.sites, self.tallies, strict=True) if not _decided(tally)]


def _decided(tally: Tally) -> bool:
    return tally.reached or tally.split


def _room_bytes(contact: Contact) -> int:
    """What one message to a contact holds."""
    return RECORDS_STORE_LONG_BYTES_MAX if contact.bulk else RECORDS_STORE_BYTES_MAX


def fitting(
    sizes_bytes: Sequence[int], indexes: list[int], message_bytes: int = RECORDS_STORE_BYTES_MAX
) -> list[list[int]]:
    """Indexes in lists whose sizes fit one message."""
    groups: list[list[int]] = []
    room_bytes = 0
    for index in indexes:
        if not groups or sizes_bytes[index] > room_bytes:
            groups.append([])
            room_bytes = message_bytes
        groups[-1].append(index)
        room_bytes -= sizes_bytes[index]
    return groups
