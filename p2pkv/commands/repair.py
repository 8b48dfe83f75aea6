"""`p2pkv repair`: bring replicas back to full count now."""

from __future__ import annotations

from p2pkv.commands.facts import print_facts
from p2pkv.commands.options import command
from p2pkv.commands.session import Session


@command("repair", exits=(0, 1, 2, 5, 6), example="p2pkv repair")
def repair(session: Session) -> None:
    """Compare what this peer stores with its neighbours now, and give and fetch what is missing.

    Peers do this by themselves from time to time; this command does not wait for that.
    """
    with session.client() as client:
        found = client.repair()
    print_facts(session, found)
