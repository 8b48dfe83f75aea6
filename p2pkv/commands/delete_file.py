"""`p2pkv delete-file`: remove files."""

from __future__ import annotations

import click

from p2pkv.commands.completing import file_names
from p2pkv.commands.each import for_each
from p2pkv.commands.options import command, option, setting
from p2pkv.commands.session import Session
from p2pkv.commands.text import one_line
from p2pkv.errors import NotFoundError
from p2pkv.outcomes import Acks


@command("delete-file", exits=(0, 1, 2, 3, 4, 5, 6), example="p2pkv delete-file summer/holiday.mp4", peer=True)
@click.argument("names", nargs=-1, required=True, metavar="NAME ...", shell_complete=file_names)
@option("--recursive", "-r", is_flag=True, help="folders too, with all in them")
@setting("acks")
def delete_file(session: Session, names: tuple[str, ...], recursive: bool, acks: Acks) -> None:
    """Remove files from the swarm, with -r whole folders."""
    with session.client() as client:

        def delete(name: str) -> None:
            deleted = client.delete_file(name, recursive=recursive, acks=acks)
            if not deleted:
                raise NotFoundError(f"no file {name!r}", "`p2pkv list-files` lists all")
            if session.json:
                session.emit({"name": name, "deleted": deleted})
            session.say(f"deleted {one_line(name)}" + (f" ({deleted} entries)" if deleted > 1 else ""))

        for_each(session, names, delete)
