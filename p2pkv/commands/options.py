"""How commands are declared: options from the table of settings, the global options, exit codes and examples in help.

Each option takes its value from the flag, then `P2PKV_<OPTION>`, then `config.toml`, then its default; click does that.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from p2pkv import config
from p2pkv.commands.exits import MEANINGS
from p2pkv.commands.session import Session
from p2pkv.errors import InvalidError
from p2pkv.home import Home, default_folder
from p2pkv.limits import KEY_BYTES_MAX, NAME_BYTES_MAX
from p2pkv.units import parse_duration, parse_time

Function = Callable[..., Any]
Target = TypeVar("Target", bound=Function)
Decorator = Callable[[Function], Function]


if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # takes no parameter before click 8.4


class Parsed(_ParamType):
    """A type read by one of our parsers. Lists in the environment are split at spaces and commas."""

    def __init__(self, name: str, parse: Callable[[str], object], choices: Sequence[str] = ()) -> None:
        self.name = name
        self.parse = parse
        self.choices = choices

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value)
        except InvalidError as error:
            self.fail(f"{error}; {error.mend}", param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        if self.name == "filename":
            return [CompletionItem(incomplete, type="file")]
        return [CompletionItem(choice) for choice in self.choices if choice.startswith(incomplete)]

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        return [part for part in re.split(r"[\s,]+", rv) if part]


def _bytes_of(what: str, bytes_max: int) -> Callable[[str], bytes]:
    def parse(text: str) -> bytes:
        raw = os.fsencode(text)
        if not raw:
            raise InvalidError(f"the {what} is empty", "give at least one byte")
        if len(raw) > bytes_max:
            raise InvalidError(f"the {what} has {len(raw)} bytes", f"{bytes_max} is the most")
        return raw

    return parse


def _name(text: str) -> str:
    """A record's name is text, unlike its key."""
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise InvalidError("the name is not UTF-8 text", "choose another")
    return _bytes_of("name", NAME_BYTES_MAX)(text).decode()


KEY = Parsed("key", _bytes_of("key", KEY_BYTES_MAX))
DURATION = Parsed("duration", parse_duration)
NAME = Parsed("name", _name)
TIME = Parsed("time", lambda text: parse_time(text, time.time()))


def option(*names: str, **attributes: Any) -> Decorator:
    """A click option that the environment can set too."""
    long = next(name for name in names if name.startswith("--")).partition("/")[0]
    return click.option(*names, envvar=config.env_name(long), **attributes)


def setting(name: str, *short: str, **attributes: Any) -> Decorator:
    """An option from the table of settings."""
    entry = config.SETTINGS[name]
    names = (f"--{name}/--no-{name}" if name == "encrypt" else f"--{name}", *short)
    common: dict[str, Any] = {"default": entry.default, "help": entry.help, **attributes}
    if entry.kind == "flag":
        return option(*names, is_flag=True, **common)
    if entry.kind == "count":
        return option(*names, count=True, **common)
    if entry.many:
        common["default"] = [entry.default] if entry.default is not None else []
    kind = Parsed(entry.metavar.lower() if entry.metavar != "FILE" else "filename", entry.parse, entry.choices)
    shown = entry.default is not None
    return option(*names, type=kind, multiple=entry.many, metavar=entry.metavar, show_default=shown, **common)


def _record(context: click.Context, param: click.Parameter, value: object) -> object:
    """Keep a global option: before the subcommand only its flag counts, after it the flag wins over the one before."""
    session = context.ensure_object(Session)
    name = param.name or ""
    source = context.get_parameter_source(name) or ParameterSource.DEFAULT
    if context.parent is None:
        if source is ParameterSource.COMMANDLINE:
            session.flags[name] = value
        return value
    if source is not ParameterSource.COMMANDLINE and name in session.flags:
        value, source = session.flags[name], ParameterSource.COMMANDLINE
    session.globals[name] = (value, source)
    return value


def _open_home(context: click.Context, param: click.Parameter, value: object) -> object:
    """Settle the home first: its `config.toml` gives the defaults of all other options."""
    value = _record(context, param, value)
    if context.parent is not None:
        session = context.ensure_object(Session)
        chosen, source = session.globals["home"]
        session.home = Home(str(chosen) if chosen else default_folder())
        session.globals["home"] = (str(session.home.folder), source)
        context.default_map = config.load(session.home.config)
    return value


def global_options(function: Target, hidden: bool = True) -> Target:
    """The options that stand before or after any subcommand."""
    common: dict[str, Any] = {"callback": _record, "expose_value": False, "hidden": hidden}
    home: dict[str, Any] = {"is_eager": True, "metavar": "DIR", "help": "folder of the peer", **common}
    home["callback"] = _open_home
    for name, short in (("no-color", ()), ("verbose", ("-v",)), ("quiet", ("-q",)), ("json", ())):
        setting(name, *short, **common)(function)
    option("--home", **home)(function)
    return function


def _peer_options(function: Function) -> Function:
    """The options of a command that can run as a short-lived peer of its own."""
    function = setting("k", hidden=True)(function)
    function = setting("swarm-key", hidden=True)(function)
    return setting("bootstrap", help="a peer of the swarm (where no peer runs here)")(function)


class Command(click.Command):
    """A command whose help ends with its exit codes and an example."""

    exits: tuple[int, ...] = (0, 1, 2)
    example = ""
    hides: tuple[str, ...] = ("bootstrap", "swarm_key", "k")

    def invoke(self, ctx: click.Context) -> Any:
        """Peer options stay in `ctx.params` for `Session.client`; the function itself has no use for them."""
        if self.callback is None:
            return None
        arguments = {name: value for name, value in ctx.params.items() if name not in self.hides}
        return ctx.invoke(self.callback, ctx.obj, **arguments)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Global options, here or before the command"):
            formatter.write_text("--home DIR, --json, -q/--quiet, -v/--verbose, --no-color")
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), MEANINGS[code]) for code in self.exits])
        with formatter.section("Example"):
            for line in self.example.splitlines():
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


def command(
    name: str, *, exits: tuple[int, ...], example: str, peer: bool = False
) -> Callable[[Callable[..., Any]], Command]:
    """Declare a command. Its function gets the session first; with `peer` it can use `session.client()`."""

    def declare(function: Callable[..., Any]) -> Command:
        if peer:
            function = _peer_options(function)
        made = click.command(name, cls=Command)(global_options(function))
        made.exits, made.example = exits, example
        made.hides = Command.hides if peer else ()
        return made

    return declare
