"""What became of atomic batches: the decision of each, asked for, made, and remembered.

Theory of operation. A decision is a write-once record under a key of the batch's own, so of two who want different
things one is refused by consensus and both learn what holds. A reader believes a decision only after a majority of its
replicas has it: the next reader must not find less. What is decided never changes, so it is remembered.

Owns the bounded memory of decisions. Knows nothing of what waits for them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from p2pkv.core.atomic import Verdict, decision_draft, decision_key, verdict_of
from p2pkv.core.records import DECISION_NAME
from p2pkv.errors import IncompleteError, RefusedError, UnreachableError
from p2pkv.limits import ATOMIC_DECISION_S, ATOMIC_RETRIES_MAX, ATOMIC_RETRY_S, ATOMIC_VERDICTS_KEPT_MAX
from p2pkv.swarm.agreement import Agreement
from p2pkv.swarm.environment import Environment
from p2pkv.swarm.reading import Reader
from p2pkv.swarm.writing import Writer


class Decisions:
    """The decisions that this peer asks for and makes."""

    def __init__(self, reader: Reader, writer: Writer, agreement: Agreement, env: Environment) -> None:
        self._reader = reader
        self._writer = writer
        self._agreement = agreement
        self._env = env
        self._known: OrderedDict[bytes, Verdict] = OrderedDict()

    def known(self, batch: bytes) -> Verdict | None:
        """What was decided, as far as it is remembered here."""
        return self._known.get(batch)

    def is_given_up(self, batch: bytes) -> bool:
        """Is it known here that nothing of the batch will ever be seen?"""
        return self._known.get(batch) is Verdict.ABORTED

    async def of(self, batch: bytes) -> Verdict | None:
        """What was decided; None: nothing yet. Raises IncompleteError, UnreachableError where that cannot be known."""
        known = self._known.get(batch)
        if known is not None:
            return known
        key = decision_key(batch)
        found = verdict_of(await self._reader.read_name_raw(key, DECISION_NAME))
        if found is None:
            return None
        verdict, version = found
        tally = (await self._writer.store(key, [version], "quorum"))[0]
        if not tally.superseded:
            raise IncompleteError(
                f"the decision of a batch is durable on {tally.stored} of {tally.asked} replicas", "try again"
            )
        return self._remember(batch, verdict)

    async def decide(self, batch: bytes, wish: Verdict) -> Verdict:
        """Decide a batch, unless it is decided; what holds then. Raises IncompleteError where that cannot be known."""
        expires_ms = int((self._env.now_s() + ATOMIC_DECISION_S) * 1000)
        failure: Exception = IncompleteError("the decision could not be read")
        for attempt in range(ATOMIC_RETRIES_MAX):
            if attempt:
                await asyncio.sleep(ATOMIC_RETRY_S * attempt)
            try:
                verdict = await self._agree(batch, wish, expires_ms)
            except (IncompleteError, UnreachableError) as error:
                failure = error
            else:
                if verdict is not None:
                    return verdict
        raise failure

    async def _agree(self, batch: bytes, wish: Verdict, expires_ms: int) -> Verdict | None:
        draft = decision_draft(wish, expires_ms)
        try:
            outcome = await self._agreement.put(decision_key(batch), draft, if_version=None)
        except RefusedError:
            return await self.of(batch)  # somebody was first
        return self._remember(batch, wish) if outcome.reached else await self.of(batch)

    def _remember(self, batch: bytes, verdict: Verdict) -> Verdict:
        self._known[batch] = verdict
        if len(self._known) > ATOMIC_VERDICTS_KEPT_MAX:
            self._known.popitem(last=False)
        return verdict
