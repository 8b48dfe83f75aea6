"""`p2pkv trace`: how a lookup runs."""

from __future__ import annotations

import click

from p2pkv.commands.options import KEY, command
from p2pkv.commands.session import Session


@command("trace", exits=(0, 1, 2, 6), example="p2pkv trace sensor/7", peer=True)
@click.argument("key", type=KEY)
def trace(session: Session, key: bytes) -> None:
    """Look up where KEY belongs and show every question: to whom, when, how long it took, what it brought."""
    with session.client() as client:
        found = client.trace(key)
    if session.json:
        session.emit(found)
        return
    from p2pkv.commands.tables import print_table

    nearest = {node: str(rank) for rank, node in enumerate(found.nearest, 1)}
    rows = [
        (
            *(hop.sent_ms, hop.rtt_ms, hop.depth, hop.node, hop.address, hop.distance_bits),
            *(hop.outcome, hop.learnt, hop.closer, nearest.get(hop.node)),
        )
        for hop in found.hops
    ]
    columns = [">at ms", ">rtt ms", ">depth", "node", "address", ">bits", "outcome", ">learnt", ">closer", ">rank"]
    print_table(session, columns, rows)
    session.say(f"target {found.target}: {len(found.nearest)} nearest in {found.elapsed_ms:.1f} ms")
