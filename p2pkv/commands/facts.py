"""A flat object of counts and lists, as JSON or a line each."""

from __future__ import annotations

from collections.abc import Mapping

import click

from p2pkv.commands.session import Session
from p2pkv.commands.text import one_line


def print_facts(session: Session, found: Mapping[str, object]) -> None:
    if session.json:
        session.emit(dict(found))
        return
    for name, value in found.items():
        text = " ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
        click.echo(f"{name.replace('_', ' ')}: {one_line(text)}")
