"""`p2pkv list-files`: the files of the swarm."""

from __future__ import annotations

import stat
import sys
from typing import TYPE_CHECKING

import click

from p2pkv.commands.completing import file_names
from p2pkv.commands.options import command, option
from p2pkv.commands.session import Session
from p2pkv.commands.text import local_time, one_line
from p2pkv.errors import NotFoundError
from p2pkv.units import format_size

if TYPE_CHECKING:
    from p2pkv.outcomes import FileInfo

_KINDS = {"file": stat.S_IFREG, "folder": stat.S_IFDIR, "link": stat.S_IFLNK}


@command("list-files", exits=(0, 1, 2, 3, 5, 6), example="p2pkv ls photos/ -l", peer=True)
@click.argument("prefix", default="", shell_complete=file_names)
@option("--long", "-l", is_flag=True, help="mode, replicas wanted, size, time and name, as ls -l does")
@option("--human", "-H", is_flag=True, help="with -l: sizes as 1.5 KiB")
@option("--flat", "-d", is_flag=True, help="folders by their name alone, not what is in them")
def list_files(session: Session, prefix: str, long: bool, human: bool, flat: bool) -> None:
    """List files and folders whose full name begins with PREFIX. `p2pkv ls` is the same."""
    count = 0
    with session.client() as client:
        for info in client.list_files(prefix, recursive=not flat):
            count += 1
            if session.json:
                session.emit(info, flush=False)
            else:
                sys.stdout.write((_long(info, human) if long else _name(info)) + "\n")
    sys.stdout.flush()
    if prefix and not count:
        raise NotFoundError(f"no file whose name begins with {prefix!r}", "`p2pkv list-files` lists all")


def _name(info: FileInfo) -> str:
    """Raw into a pipe for other programs; names hold no control characters, whoever stored them."""
    return one_line(info.name)


def _long(info: FileInfo, human: bool) -> str:
    mode = stat.filemode(_KINDS[info.kind] | info.mode)
    size = format_size(info.size) if human else str(info.size)
    replicas = info.erasure or str(info.replicas or "-")
    target = f" -> {one_line(info.target)}" if info.kind == "link" else ""
    return f"{mode} {replicas:>5} {size:>12} {local_time(info.mtime)} {_name(info)}{target}"
