"""How likely it is that what is stored is lost, by formula: k copies are the code 1/k.

Theory of operation. Each shard lies with a peer that lives for a time drawn from an exponential distribution and then
goes for good, with its disk. Some time after a death, drawn likewise, all shards that are lacking are rebuilt at once.
That is a renewal process: it begins anew whenever nothing is lacking, and ends in loss when one shard more than the
code can spare is gone before. docs/durability.md has the derivation, a table, and what the simulator says beside it.

Knows nothing of correlated deaths: a power cut, one owner of many peers, a fault in p2pkv itself.
"""

from __future__ import annotations

import math

from p2pkv.core.erasure import Code
from p2pkv.limits import ASSUMED_LIFE_S, ASSUMED_REPAIR_S

YEAR_S = 365.25 * 86_400


def loss_per_year(
    code: Code, stripes: int = 1, *, life_s: float = ASSUMED_LIFE_S, repair_s: float = ASSUMED_REPAIR_S
) -> float:
    """The probability that within a year at least one of so many stripes is lost."""
    return -math.expm1(-stripes * YEAR_S * loss_rate(code, life_s=life_s, repair_s=repair_s))


def loss_rate(code: Code, *, life_s: float, repair_s: float) -> float:
    """Losses of one stripe a second."""
    reaches = 1.0  # the probability that from one shard lacking it gets to this many
    cycle_s = life_s / code.total  # until nothing is lacking again, or all is lost
    for lost in range(1, code.total - code.needed + 1):
        dies, mends = (code.total - lost) / life_s, 1 / repair_s
        cycle_s += reaches / (dies + mends)
        reaches *= dies / (dies + mends)
    return reaches / cycle_s
