"""The group `p2pkv`: which commands exist and where each one is. A command's module is imported when it is used."""

from __future__ import annotations

from importlib import import_module

import click

from p2pkv.commands.options import global_options
from p2pkv.version import VERSION

# name: module of p2pkv.commands, short help
TABLE = {
    "start": ("start", "run a peer until it is told to stop"),
    "stop": ("stop", "stop the peer of this home"),
    "put": ("put", "add records under a key"),
    "batch": ("batch", "put and delete records of several keys, all or none"),
    "get": ("get", "print the values of a key, oldest first"),
    "count": ("count", "number of records of a key"),
    "delete": ("delete", "delete the records of a key, or one of them"),
    "watch": ("watch", "print records as they arrive"),
    "keys": ("keys", "keys that this peer holds"),
    "upload": ("upload", "store files or folders"),
    "download": ("download", "fetch files or folders"),
    "list-files": ("list_files", "names, sizes and times of files"),
    "delete-file": ("delete_file", "remove files"),
    "stat-file": ("stat_file", "a file's chunks, replicas and health"),
    "status": ("status", "this peer at a glance"),
    "peers": ("peers", "its contacts"),
    "where": ("where", "who holds a key"),
    "trace": ("trace", "how a lookup runs, hop by hop"),
    "doctor": ("doctor", "what may be wrong here, with the mend for each"),
    "verify": ("verify", "check what is stored here against its hashes"),
    "repair": ("repair", "bring replicas back to full count now"),
    "keygen": ("keygen", "make a swarm key or an author key"),
    "swarm": ("swarm", "run several peers on this machine as a swarm"),
    "config": ("config", "settings and where each came from"),
    "completion": ("completion", "shell completion for bash, zsh or fish"),
}
ALIASES = {"ls": "list-files"}


class LazyGroup(click.Group):
    """A group that knows its commands by name alone."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(TABLE)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        cmd_name = ALIASES.get(cmd_name, cmd_name)
        if cmd_name not in TABLE:
            return None
        module = TABLE[cmd_name][0]
        found = getattr(import_module(f"p2pkv.commands.{module}"), module)
        if not isinstance(found, click.Command):
            return None
        found.short_help = TABLE[cmd_name][1]  # what completion says of it
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in TABLE and args[0] not in ALIASES and not args[0].startswith("-"):
            raise click.UsageError(_unknown(args[0]), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, short) for name, (_, short) in TABLE.items()])


def _unknown(name: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, [*TABLE, *ALIASES], n=1)
    return f"no command {name!r}" + (f"; did you mean {close[0]!r}?" if close else "")


def _group() -> None:
    """A peer-to-peer store for records and files, with no central server.

    Every option can also be set by the environment variable P2PKV_<OPTION> and, for settings that last, in
    config.toml in the home folder.
    """


def _global_params() -> list[click.Parameter]:
    """The global options as the group has them: a subcommand reads the environment; here only flags count."""
    params = list(reversed(global_options(click.Command(None), hidden=False).params))
    for param in params:
        param.envvar = None
    return params


root = LazyGroup("p2pkv", params=_global_params(), callback=_group, help=_group.__doc__)
click.version_option(VERSION, prog_name="p2pkv", message="%(prog)s %(version)s")(root)
