"""Write-once and compare-and-set over the swarm: the proposers of `core.consensus`; the acceptors are in `acceptor.py`.

A register lies at a place that key and name alone decide, so the acceptors of a record are the same from its first day
on, however the key's pages split meanwhile. What stands in the pages under the name is read beside the promises.

Owns the rounds and their retries. The chosen version is stored by `Writer` like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from p2pkv import messages
from p2pkv.core.consensus import Ballot, Learnt, exists, learn
from p2pkv.core.drafts import Draft
from p2pkv.core.pages import place_of_register
from p2pkv.core.records import Flag, Version, version_token
from p2pkv.core.replication import write_quorum
from p2pkv.errors import IncompleteError, NotFoundError, P2pkvError, RefusedError, RemoteError, UnreachableError
from p2pkv.limits import BALLOT_MAX, CONSENSUS_BACKOFF_S, CONSENSUS_BUSY_MAX, CONSENSUS_ROUNDS_MAX
from p2pkv.outcomes import Acks, PutOutcome
from p2pkv.swarm.acceptor import Acceptor
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.environment import Environment
from p2pkv.swarm.identity import Identity
from p2pkv.swarm.lookup import Lookups
from p2pkv.swarm.neighbourhood import Neighbourhood
from p2pkv.swarm.protocol import PeerProtocol
from p2pkv.swarm.reading import Reader
from p2pkv.swarm.writing import Writer

Reply = TypeVar("Reply")


class Agreement:
    """This peer's write-once and compare-and-set puts."""

    def __init__(
        self,
        protocol: PeerProtocol,
        lookups: Lookups,
        acceptor: Acceptor,
        neighbourhood: Neighbourhood,
        writer: Writer,
        reader: Reader,
        identity: Identity,
        env: Environment,
    ) -> None:
        self._protocol = protocol
        self._lookups = lookups
        self._acceptor = acceptor
        self._neighbourhood = neighbourhood
        self._writer = writer
        self._reader = reader
        self._identity = identity
        self._env = env

    async def put(self, key: bytes, draft: Draft, *, if_version: str | None, acks: Acks = "quorum") -> PutOutcome:
        """Put if the record does not exist (`if_version` None), or only if it is at that version.

        Raises RefusedError with the current version where it is not so, IncompleteError where no majority answers.
        """
        ballot_number = busy = 0
        proposed: list[Version] = []
        for attempt in range(CONSENSUS_ROUNDS_MAX):
            round_ = await self._round(key, draft.name)
            ballot = ballot_number + 1, self._identity.node_id
            try:
                outcome = await round_.run(ballot, draft, if_version, proposed)
            except _BusyError:
                busy += 1
                if busy > CONSENSUS_BUSY_MAX:
                    raise
                ballot_number = ballot[0]  # some have promised it
                continue
            if isinstance(outcome, Version):
                return await self._commit(key, outcome, acks)
            ballot_number = min(outcome, BALLOT_MAX - 1)
            await asyncio.sleep(self._env.random.uniform(0, CONSENSUS_BACKOFF_S * (1 << min(attempt, 5))))
        raise IncompleteError("other writers kept getting ahead on this record", "try again")

    async def _round(self, key: bytes, name: bytes) -> _Round:
        await self._lookups.ready()
        place = place_of_register(key, name)
        found = await self._lookups.find_nodes(place)
        self._lookups.require_swarm()  # again: the silence of most may have shown just now
        contacts = [contact for contact in found.contacts if contact.kind != "stock"]
        here = self._neighbourhood.keeps(place)
        replicas = min(self._neighbourhood.k, found.replicas + here)
        if not replicas:
            raise UnreachableError(
                "no peer of the swarm is known", "start with --bootstrap HOST:PORT of a running peer"
            )
        return _Round(self, key, name, contacts[: self._neighbourhood.k - here], replicas, here=here)

    async def help(self, key: bytes, version: Version) -> None:
        """Bring a version that was chosen to its page: whoever proposed it may be gone. The next does what fails."""
        with suppress(P2pkvError):
            await self._writer.store(key, [version], "quorum")

    async def _commit(self, key: bytes, version: Version, acks: Acks) -> PutOutcome:
        tally = (await self._writer.store(key, [version], acks))[0]
        return tally.outcome()

    # --- what a round needs ---

    def sign(self, key: bytes, draft: Draft, current: Version | None) -> Version:
        """The draft as a version behind the current one."""
        if current is not None:
            self._writer.observe(current.clock)
        return self._writer.sign(key, draft)

    def now_s(self) -> float:
        return self._env.now_s()

    async def standing(self, key: bytes, name: bytes) -> list[Version]:
        """What stands in the pages, by whatever way it came; owned records are not agreed on."""
        return [version for version in await self._reader.read_name_raw(key, name) if not version.owner]

    async def prepare(self, contact: Contact | None, request: messages.Prepare) -> messages.Promise:
        if contact is None:
            return await self._acceptor.prepare(request)
        return await self._protocol.call(contact, messages.PREPARE, request)

    async def propose(self, contact: Contact | None, request: messages.Propose) -> messages.Accepted:
        if contact is None:
            return await self._acceptor.propose(request)
        return await self._protocol.call(contact, messages.PROPOSE, request)


class _BusyError(IncompleteError):
    """Too few took part, and some because they still catch up: they may soon."""


class _Round:
    """One ballot on one record."""

    def __init__(
        self, agreement: Agreement, key: bytes, name: bytes, contacts: list[Contact], replicas: int, *, here: bool
    ) -> None:
        self._agreement = agreement
        self._key = key
        self._name = name
        self._acceptors: list[Contact | None] = [*([None] if here else []), *contacts]
        self._majority = write_quorum(replicas)

    async def run(self, ballot: Ballot, draft: Draft, if_version: str | None, proposed: list[Version]) -> Version | int:
        """The chosen version, or the ballot number that was in the way. Raises RefusedError.

        `proposed`: what this put has proposed so far, which others may have brought to its end; it grows here.
        """
        prepare = messages.Prepare(self._key, self._name, ballot)
        promises, standing = await asyncio.gather(
            self._majority_of(lambda contact: self._agreement.prepare(contact, prepare)),
            self._agreement.standing(self._key, self._name),
        )
        granted = [promise for promise in promises if promise.granted]
        if len(granted) < self._majority:
            return max(promise.ballot[0] for promise in promises)
        accepted = [(promise.accepted_ballot, promise.accepted) for promise in granted]
        learnt = learn(accepted, standing)
        refusal = self._refusal(learnt, if_version)
        if refusal is None:
            proposed.append(self._agreement.sign(self._key, draft, learnt.current))
            return await self._accept(ballot, proposed[-1], proposed)
        if learnt.current is not None and not learnt.settled:
            decided = await self._accept(ballot, learnt.current, [])
            if isinstance(decided, int) or decided in proposed:
                return decided
            await self._agreement.help(self._key, decided)
        if learnt.current in proposed:
            return learnt.current
        if proposed and not draft.flags & Flag.ONCE:  # write-once would stand for ever, had it been chosen
            raise IncompleteError("others wrote meanwhile; it may have stood before them, or never", "read it again")
        raise refusal

    async def _accept(self, ballot: Ballot, version: Version, proposed: list[Version]) -> Version | int:
        """The version where it is chosen, else the ballot in the way. What nobody took was not proposed after all."""
        propose = messages.Propose(self._key, ballot, version)
        answers = await self._majority_of(lambda contact: self._agreement.propose(contact, propose))
        granted = sum(answer.granted for answer in answers)
        if granted >= self._majority:
            return version
        if version in proposed and not granted and len(answers) == len(self._acceptors):
            proposed.remove(version)
        return max(answer.ballot[0] for answer in answers)

    def _refusal(self, learnt: Learnt, if_version: str | None) -> Exception | None:
        current = learnt.current
        if not exists(current, self._agreement.now_s()):
            return None if if_version is None else NotFoundError("the record does not exist, so it has no version")
        assert current is not None
        token = version_token(current)
        if current.flags & Flag.ONCE:
            return RefusedError("the record is write-once and exists", "choose another name", current=token)
        if if_version is None:
            return RefusedError("the record exists", "choose another name", current=token)
        if token != if_version:
            return RefusedError(f"the record is at version {token}", "read it again and decide anew", current=token)
        return None

    async def _majority_of(self, ask: Callable[[Contact | None], Awaitable[Reply]]) -> Sequence[Reply]:
        """Answers of at least a majority of the acceptors; all that came."""
        answers = await asyncio.gather(*(ask(contact) for contact in self._acceptors), return_exceptions=True)
        replies: list[Reply] = []
        reasons: list[str] = []
        busy = False
        for answer in answers:
            if isinstance(answer, RemoteError):
                reasons.append(str(answer))
                busy = busy or answer.code == "busy"
            elif isinstance(answer, BaseException):
                raise answer
            else:
                replies.append(answer)
        if len(replies) < self._majority:
            raise (_BusyError if busy else IncompleteError)(
                f"{len(replies)} replicas took part, {self._majority} are needed ({'; '.join(reasons[:3])})",
                "try again when more peers are reachable",
            )
        return replies
