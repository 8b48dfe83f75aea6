"""`p2pkv where`: who holds a key."""

from __future__ import annotations

import click

from p2pkv.commands.options import KEY, command
from p2pkv.commands.session import Session
from p2pkv.errors import NotFoundError


@command("where", exits=(0, 1, 2, 3, 5, 6), example="p2pkv where sensor/7", peer=True)
@click.argument("key", type=KEY)
def where(session: Session, key: bytes) -> None:
    """List the peers that should hold KEY, nearest first, and whether each does. Exit 3 where none does."""
    with session.client() as client:
        found = client.where(key)
    if session.json:
        session.emit(found)
    else:
        from p2pkv.commands.tables import print_table

        rows = [(replica.node, replica.address, replica.holds, replica.reason) for replica in found]
        print_table(session, ["node", "address", "holds", "reason"], rows)
    if not any(replica.holds for replica in found):
        raise NotFoundError("no peer holds this key", "check the key")
