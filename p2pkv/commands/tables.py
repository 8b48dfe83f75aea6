"""Tables for people. Imported only when one is printed, because rich is not needed for anything else."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from p2pkv.commands.session import Session
from p2pkv.commands.text import one_line

_PIPE_COLUMNS = 1000  # a pipe has no width: nothing is wrapped there


def print_table(session: Session, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on standard output. A column whose title begins with `>` is aligned to the right."""
    terminal = sys.stdout.isatty()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in columns:
        table.add_column(title.removeprefix(">"), justify="right" if title.startswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(one_line(_cell(value))) for value in row))
    console = Console(
        no_color=not session.color(terminal),
        force_terminal=session.color(terminal),
        width=None if terminal else _PIPE_COLUMNS,
        highlight=False,
    )
    console.print(table)


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
