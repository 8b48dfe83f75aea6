"""Completion of names in the swarm, while a command line is being typed. Says nothing where no peer answers."""

from __future__ import annotations

from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING

import click

from p2pkv.errors import P2pkvError
from p2pkv.home import Home

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_NAMES_MAX = 200


def file_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Files and folders whose full name begins so, as the peer of the home knows them."""
    from click.shell_completion import CompletionItem

    from p2pkv.commands.client import Client

    try:
        home = Home(ctx.params.get("home") or _home_of(ctx))
        with closing(Client(home.socket).list_files(incomplete, recursive=False)) as found:  # type: ignore[type-var]
            return [CompletionItem(info.name) for info in islice(found, _NAMES_MAX)]
    except (P2pkvError, OSError):
        return []


def _home_of(ctx: click.Context) -> str | None:
    """The folder that stands on the command line before the command."""
    session = ctx.find_root().obj
    chosen = session.flags.get("home") if session is not None else None
    return str(chosen) if chosen else None
