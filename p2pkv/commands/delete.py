"""`p2pkv delete`: delete records."""

from __future__ import annotations

import click

from p2pkv.commands.options import KEY, NAME, command, option, setting
from p2pkv.commands.session import Session
from p2pkv.errors import NotFoundError
from p2pkv.outcomes import Acks


@command("delete", exits=(0, 1, 2, 3, 4, 5, 6), example="p2pkv delete config/theme --name current", peer=True)
@click.argument("key", type=KEY)
@option("--name", type=NAME, metavar="NAME", help="the record of this name alone")
@setting("acks")
def delete(session: Session, key: bytes, name: str | None, acks: Acks) -> None:
    """Delete the records under KEY, or the one called NAME. Exit 3 where there is none."""
    with session.client() as client:
        deleted = client.delete(key, name=name, acks=acks)
    if session.json:
        session.emit({"deleted": deleted})
    if not deleted:
        raise NotFoundError("there was no such record", "check the key and the name")
    session.say(f"deleted {deleted} record{'s' * (deleted != 1)}")
