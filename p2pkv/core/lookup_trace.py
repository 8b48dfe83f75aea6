"""How a lookup ran, hop by hop, as users see it.

Owns the translation of a search into outcomes. Never touches the search.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from p2pkv.core.candidates import C, Candidate, State
from p2pkv.core.lookup import Lookup
from p2pkv.outcomes import Hop, LookupTrace

_OUTCOMES: dict[str, Literal["silent", "error"]] = {"silent": "silent", "error": "error"}


def trace_of(lookup: Lookup[C], address_of: Callable[[C], str], began_s: float, now_s: float) -> LookupTrace:
    """Every question in the order in which it was asked, and the outcome."""
    return LookupTrace(
        target=lookup.target.hex(),
        hops=[_hop(candidate, address_of(candidate.contact), began_s) for candidate in lookup.asked],
        nearest=[candidate.node_id.hex() for candidate in lookup.nearest],
        elapsed_ms=_ms(now_s - began_s),
    )


def _hop(candidate: Candidate[C], address: str, began_s: float) -> Hop:
    return Hop(
        node=candidate.node_id.hex(),
        address=address,
        distance_bits=candidate.distance.bit_length(),
        depth=candidate.depth,
        sent_ms=_ms(candidate.asked_s - began_s),
        rtt_ms=None if candidate.rtt_s is None else _ms(candidate.rtt_s),
        outcome=_outcome(candidate),
        learnt=candidate.learnt,
        closer=candidate.closer,
    )


def _outcome(candidate: Candidate[C]) -> Literal["answered", "slow", "silent", "error"]:
    """A question that was still open when the search had ended counts as slow."""
    if candidate.state is State.ANSWERED:
        return "answered"
    return _OUTCOMES.get(candidate.outcome, "slow")


def _ms(duration_s: float) -> float:
    return round(duration_s * 1000, 3)
