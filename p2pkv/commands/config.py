"""`p2pkv config show`: every setting, its value and where it came from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from p2pkv.commands.options import command, setting
from p2pkv.commands.session import Given, Session
from p2pkv.config import SETTINGS, env_name
from p2pkv.units import format_duration, format_size

GLOBAL = {"json", "quiet", "verbose", "no-color"}
_UNITS: dict[str, Callable[[float], str]] = {"quota": format_size, "ttl": format_duration}
_SOURCES = {
    ParameterSource.COMMANDLINE: "flag",
    ParameterSource.ENVIRONMENT: "environment",
    ParameterSource.DEFAULT_MAP: "file",
}


@click.group("config")
def config() -> None:
    """Settings and where each came from."""


def _all_settings(function: Callable[..., Any]) -> Callable[..., Any]:
    for name in reversed(SETTINGS):
        if name not in GLOBAL:
            function = setting(name)(function)
    return function


def _show(session: Session, **values: object) -> None:
    """Print each setting, its value, and whether a flag, the environment, the file or the default set it.

    Any setting may be given as a flag here, to see what a command would make of it.
    """
    rows = {name: _describe(session, name, given) for name, given in _given(session, values).items()}
    if session.json:
        session.emit(rows)
        return
    click.echo(f"# file: {session.home.config}")
    width = max(map(len, rows))
    for name, row in rows.items():
        click.echo(f"{name:{width}}  {_text(name, row['value'])}  ({_origin(row)})")


def _given(session: Session, values: dict[str, object]) -> dict[str, Given]:
    context = click.get_current_context()
    given = {name.replace("_", "-"): value for name, value in session.globals.items()}
    for key, value in values.items():
        given[key.replace("_", "-")] = (value, context.get_parameter_source(key) or ParameterSource.DEFAULT)
    return {name: given[name] for name in ("home", *SETTINGS)}


def _describe(session: Session, name: str, given: Given) -> dict[str, object]:
    value, source = given
    row: dict[str, object] = {"value": value, "source": _SOURCES.get(source, "default")}
    if source is ParameterSource.ENVIRONMENT:
        row["variable"] = env_name(name)
    elif source is ParameterSource.DEFAULT_MAP:
        row["file"] = str(session.home.config)
    return row


def _origin(row: dict[str, object]) -> str:
    return f"environment {row['variable']}" if "variable" in row else str(row["source"])


def _text(name: str, value: object) -> str:
    if name in _UNITS and isinstance(value, int | float):
        return _UNITS[name](value)
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


show = command("show", exits=(0, 1, 2), example="P2PKV_ACKS=all p2pkv config show")(_all_settings(_show))
config.add_command(show)
