"""`p2pkv verify`: check what this peer stores against its hashes."""

from __future__ import annotations

from collections.abc import Sized

from p2pkv.commands.facts import print_facts
from p2pkv.commands.options import command
from p2pkv.commands.session import Session
from p2pkv.errors import DamagedError


@command("verify", exits=(0, 1, 2, 6), example="p2pkv verify")
def verify(session: Session) -> None:
    """Check every chunk and record that this peer stores. Exit 1 where something was damaged (and dropped)."""
    with session.client() as client:
        found = client.verify()
    print_facts(session, found)
    damaged = {name: _size(value) for name, value in found.items() if name.endswith("damaged") and _size(value)}
    if damaged:
        what = ", ".join(f"{count} {name.removesuffix('_damaged')}" for name, count in damaged.items())
        raise DamagedError(f"damaged and dropped: {what}", "`p2pkv repair` fetches them again; check the disk")


def _size(value: object) -> int:
    if isinstance(value, Sized):
        return len(value)
    return value if isinstance(value, int) else 0
