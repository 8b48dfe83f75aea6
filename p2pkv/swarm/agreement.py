"""Write-once and compare-and-set over the swarm: acceptors and proposers of `core.consensus`.

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
from p2pkv.core.consensus import AcceptorState, Ballot, Learnt, exists, learn
from p2pkv.core.drafts import Draft
from p2pkv.core.pages import place_of_register
from p2pkv.core.records import Flag, Version, check_key, check_shape, version_token
from p2pkv.core.replication import write_quorum
from p2pkv.errors import IncompleteError, NotFoundError, P2pkvError, RefusedError, RemoteError, UnreachableError
from p2pkv.ids import ID_BYTES, Place
from p2pkv.limits import BALLOT_MAX, CONSENSUS_BACKOFF_S, CONSENSUS_ROUNDS_MAX, NAME_BYTES_MAX
from p2pkv.outcomes import Acks, PutOutcome
from p2pkv.storage.interface import PutRegister, QuotaExceededError, StoreFailedError
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.environment import Environment
from p2pkv.swarm.identity import Identity
from p2pkv.swarm.lookup import Lookups
from p2pkv.swarm.neighbourhood import Neighbourhood
from p2pkv.swarm.protocol import PeerProtocol, Sender
from p2pkv.swarm.reading import Reader
from p2pkv.swarm.replica import Replica
from p2pkv.swarm.signing import genuine
from p2pkv.swarm.writing import Writer

_LOCKS = 64
Reply = TypeVar("Reply")


class Acceptor:
    """This peer's registers. What it promised or accepted is durable before it says so."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._locks = [asyncio.Lock() for _ in range(_LOCKS)]

    async def on_prepare(self, sender: Sender, request: messages.Prepare) -> messages.Promise:
        return await self.prepare(request)

    async def on_propose(self, sender: Sender, request: messages.Propose) -> messages.Accepted:
        return await self.propose(request)

    async def prepare(self, request: messages.Prepare) -> messages.Promise:
        place = _check(request.key, request.name, request.ballot)
        async with self._lock(place, request.name):
            state = await self._state(place, request.name)
            after = state.promise(request.ballot)
            if after is not None:
                await self._save(place, request.name, after)
        return messages.Promise(
            granted=after is not None,
            ballot=request.ballot if after is not None else state.promised,
            accepted_ballot=state.accepted_ballot,
            accepted=state.accepted,
        )

    async def propose(self, request: messages.Propose) -> messages.Accepted:
        version = request.version
        place = _check(request.key, version.name, request.ballot)
        check_shape(version)
        if version.flags & (Flag.STOCK | Flag.PENDING) or not genuine(request.key, version):
            raise RemoteError("damaged", "its signature does not hold")
        if not self._replica.trusts(version):
            raise RemoteError("refused", "its clock runs too far ahead")
        async with self._lock(place, version.name):
            state = await self._state(place, version.name)
            after = state.accept(request.ballot, version)
            if after is not None:
                await self._save(place, version.name, after)
        return messages.Accepted(after is not None, max(state.promised, request.ballot))

    def _lock(self, place: Place, name: bytes) -> asyncio.Lock:
        return self._locks[hash((place, name)) % _LOCKS]

    async def _state(self, place: Place, name: bytes) -> AcceptorState:
        return AcceptorState.decode(await self._replica.store.read_register(place, name))

    async def _save(self, place: Place, name: bytes, state: AcceptorState) -> None:
        try:
            await self._replica.store.commit([PutRegister(place, name, state.encode())])
        except QuotaExceededError as error:
            raise RemoteError("quota", str(error)) from error
        except StoreFailedError as error:
            raise RemoteError("failed", str(error)) from error


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
        ballot_number = 0
        proposed: list[Version] = []
        for attempt in range(CONSENSUS_ROUNDS_MAX):
            round_ = await self._round(key, draft.name)
            ballot = ballot_number + 1, self._identity.node_id
            outcome = await round_.run(ballot, draft, if_version, proposed)
            if isinstance(outcome, Version):
                return await self._commit(key, outcome, acks)
            ballot_number = min(outcome, BALLOT_MAX - 1)
            await asyncio.sleep(self._env.random.uniform(0, CONSENSUS_BACKOFF_S * (1 << min(attempt, 5))))
        raise IncompleteError("other writers kept getting ahead on this record", "try again")

    async def _round(self, key: bytes, name: bytes) -> _Round:
        self._lookups.require_swarm()
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
        for answer in answers:
            if isinstance(answer, RemoteError):
                reasons.append(str(answer))
            elif isinstance(answer, BaseException):
                raise answer
            else:
                replies.append(answer)
        if len(replies) < self._majority:
            raise IncompleteError(
                f"{len(replies)} replicas took part, {self._majority} are needed ({'; '.join(reasons[:3])})",
                "try again when more peers are reachable",
            )
        return replies


def _check(key: bytes, name: bytes, ballot: Ballot) -> Place:
    check_key(key)
    if not 0 < len(name) <= NAME_BYTES_MAX:
        raise RemoteError("malformed", "a name of a wrong length")
    if not 0 < ballot[0] <= BALLOT_MAX or len(ballot[1]) != ID_BYTES:
        raise RemoteError("malformed", "a ballot out of bounds")
    return place_of_register(key, name)
