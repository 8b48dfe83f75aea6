"""`p2pkv peers`: the contacts of this peer."""

from __future__ import annotations

from p2pkv.commands.options import command
from p2pkv.commands.session import Session
from p2pkv.units import format_duration


@command("peers", exits=(0, 1, 2, 6), example="p2pkv peers")
def peers(session: Session) -> None:
    """List the contacts of this peer: address, kind, round-trip time, age, silence and failures in a row."""
    with session.client() as client:
        found = client.peers()
    if session.json:
        session.emit(found)
        return
    from p2pkv.commands.tables import print_table

    rows = [
        (
            contact.node,
            contact.address,
            contact.kind,
            contact.rtt_ms,
            format_duration(contact.age_s),
            format_duration(contact.idle_s),
            contact.failures,
        )
        for contact in found
    ]
    print_table(session, ["node", "address", "kind", ">rtt ms", ">known", ">silent", ">failures"], rows)
