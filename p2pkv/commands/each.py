"""Doing the same to several things: one that fails stops no other, and the exit code tells of the first that did."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from p2pkv.commands.session import Session
from p2pkv.errors import P2pkvError, UnreachableError


def for_each(session: Session, items: Sequence[str], action: Callable[[str], None]) -> None:
    """Raises at once where there is but one item, or no peer any more."""
    code = 0
    for item in items:
        try:
            action(item)
        except UnreachableError:
            raise
        except P2pkvError as error:
            if len(items) == 1:
                raise
            session.complain(error.kind, str(error), error.mend, error.exit_code)
            code = code or error.exit_code
    if code:
        raise click.exceptions.Exit(code)
