"""`p2pkv upload`: store files and folders."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2pkv.commands.each import for_each
from p2pkv.commands.options import command, option, setting
from p2pkv.commands.progress import counted, progress_bar
from p2pkv.commands.put import blocks_of
from p2pkv.commands.session import Session
from p2pkv.commands.transfers import print_outcome
from p2pkv.errors import InvalidError, P2pkvError

if TYPE_CHECKING:
    from p2pkv.commands.client import Client

_EXAMPLE = """p2pkv upload holiday.mp4 photos/ --to summer
tar c project | p2pkv upload - --as backups/project.tar --encrypt"""


@command("upload", exits=(0, 1, 2, 4, 5, 6, 130), example=_EXAMPLE, peer=True)
@click.argument("paths", nargs=-1, required=True, type=click.Path(), metavar="PATH ...")
@option("--as", "name", metavar="NAME", help="full name in the swarm (with one PATH)")
@option("--to", default="", metavar="FOLDER", help="folder of the swarm to store them in")
@setting("replicas")
@option("--erasure", metavar="K/N", help="keep each chunk as N shards on N peers; any K of them bring it back")
@setting("encrypt")
@option("--once", is_flag=True, help="refuse where the name exists")
@setting("acks")
def upload(session: Session, paths: tuple[str, ...], name: str | None, **options: Any) -> None:
    """Store files or whole folders; - stands for standard input and needs --as. Prints the link of each.

    A file appears in the swarm whole or not at all. Run it again after an interruption: what is there already
    is not sent twice. With -v, each peer's part is shown, too.
    """
    if name is not None and len(paths) > 1:
        raise InvalidError("--as goes with one PATH", "use --to FOLDER for several")
    if "-" in paths and name is None:
        raise InvalidError("standard input has no name", "give one with --as NAME")
    with session.client() as client:
        for_each(session, paths, lambda path: _upload(session, client, path, name, options))


def _upload(session: Session, client: Client, path: str, name: str | None, options: dict[str, Any]) -> None:
    with progress_bar(session) as report:
        if path == "-":
            source = counted(blocks_of(sys.stdin.buffer), name or "-", None, report)
            outcome = client.upload(source, name, **options)
        else:
            check_readable(path)
            outcome = client.upload(Path(path), name, progress=report, **options)
    print_outcome(session, outcome, "uploaded", show_link=True)


def check_readable(path: str) -> None:
    """Say of a local file what the system says of it, before the peer is asked."""
    place = Path(path)
    try:
        place.lstat()
        if place.exists() and not os.access(place, os.R_OK | os.X_OK if place.is_dir() else os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise P2pkvError(f"{path}: {error.strerror}", "check the name and its permissions") from error
