"""What every command has at hand: the global options, the home, the peer, and where text goes.

Data goes to standard output, everything else to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from p2pkv.errors import UnreachableError
from p2pkv.home import Home

if TYPE_CHECKING:
    from p2pkv.commands.client import Client

Given = tuple[object, ParameterSource]


class Session:
    """One run of the command line."""

    def __init__(self, args: Sequence[str] = ()) -> None:
        self.args = args
        self.flags: dict[str, object] = {}  # global options given before the subcommand
        self.globals: dict[str, Given] = {}  # what they came to be, with their sources
        self.home = Home.__new__(Home)  # set by the option --home, which click always handles first

    def get(self, name: str) -> object:
        """A global option's value; its flag where an error came too early for more."""
        return self.globals[name][0] if name in self.globals else self.flags.get(name)

    @property
    def json(self) -> bool:
        return bool(self.get("json")) if "json" in self.globals else "--json" in self.args

    @property
    def quiet(self) -> bool:
        return bool(self.get("quiet"))

    @property
    def verbose(self) -> int:
        value = self.get("verbose")
        return value if isinstance(value, int) else 0

    def color(self, terminal: bool) -> bool:
        """Whether a stream may be styled. `NO_COLOR` (no-color.org) counts when it is not empty."""
        return terminal and not self.get("no_color") and not os.environ.get("NO_COLOR")

    def say(self, text: str) -> None:
        """Tell a person something, unless they asked for quiet."""
        if not self.quiet:
            click.echo(text, err=True)

    def emit(self, value: object, *, flush: bool = True) -> None:
        """One JSON value on standard output, on one line. Structs by msgspec, which is quick for many."""
        if isinstance(value, dict):
            line = json.dumps(value).encode()  # escapes what is no text, as in file names
        else:
            import msgspec

            line = msgspec.json.encode(value)
        sys.stdout.buffer.write(line + b"\n")
        if flush:
            sys.stdout.flush()

    def complain(self, kind: str, message: str, mend: str, code: int) -> None:
        """An error on standard error: one line, or one JSON object."""
        message, mend = " ".join(message.split()), " ".join(mend.split())
        if self.json:
            report = {"error": kind, "message": message, "mend": mend, "exit_code": code}
            line = json.dumps(report, ensure_ascii=False)
        else:
            line = f"p2pkv: {message}; {mend}" if mend else f"p2pkv: {message}"
        # A message may carry file names that are not text.
        sys.stderr.buffer.write(line.encode("utf-8", "surrogateescape") + b"\n")
        sys.stderr.flush()

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client of the peer of this home, or of a short-lived peer where none runs and a bootstrap is known."""
        from p2pkv.commands.client import Client

        self.home.check_format()
        if is_listening(self.home):
            with Client(self.home.socket) as client:
                yield client
            return
        params = click.get_current_context().params
        if not params.get("bootstrap"):
            mend = _MEND_NO_PEER + (_MEND_BOOTSTRAP if "bootstrap" in params else "")
            raise UnreachableError(f"no peer runs in {self.home.folder}", mend)
        from p2pkv.commands.ephemeral import ephemeral_peer

        with ephemeral_peer(params, self.verbose) as path, Client(path) as client:
            yield client


_MEND_NO_PEER = "start one with `p2pkv start`"
_MEND_BOOTSTRAP = ", or name a peer of the swarm with --bootstrap HOST:PORT"


def is_listening(home: Home) -> bool:
    """Whether a peer accepts commands in this home."""
    from p2pkv.gateway.ways import connect

    try:
        connect(home.socket).close()
    except UnreachableError:
        return False
    return True
