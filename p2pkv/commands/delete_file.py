"""`p2pkv delete-file`: remove files."""

from __future__ import annotations

import click

from p2pkv.commands.each import for_each
from p2pkv.commands.options import command
from p2pkv.commands.session import Session
from p2pkv.errors import NotFoundError


@command("delete-file", exits=(0, 1, 2, 3, 4, 5, 6), example="p2pkv delete-file summer/holiday.mp4", peer=True)
@click.argument("names", nargs=-1, required=True, metavar="NAME ...")
def delete_file(session: Session, names: tuple[str, ...]) -> None:
    """Remove files from the swarm."""
    with session.client() as client:

        def delete(name: str) -> None:
            deleted = client.delete_file(name)
            if not deleted:
                raise NotFoundError(f"no file {name!r}", "`p2pkv list-files` lists all")
            if session.json:
                session.emit({"name": name, "deleted": deleted})
            session.say(f"deleted {name}")

        for_each(session, names, delete)
