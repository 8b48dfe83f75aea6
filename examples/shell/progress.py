"""A progress bar that shows what the store reports and nothing else. None where the output is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from p2pkv.outcomes import TransferProgress


def ignore(step: TransferProgress) -> None:
    """For pipes and scripts."""


@contextmanager
def bar(err: TextIO, label: str) -> Iterator[Callable[[TransferProgress], None]]:
    """A bar with bytes, rate and time left; it takes the store's steps, and goes when the command ends."""
    if not err.isatty():
        yield ignore
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=err), transient=True) as progress:
        task = progress.add_task(_label("waiting", label), total=None)

        def show(step: TransferProgress) -> None:
            progress.update(task, description=_label(step.phase, step.name), completed=step.done, total=step.total)

        yield show


def _label(phase: str, name: str) -> str:
    from rich.markup import escape

    return f"{phase} {escape(name if len(name) <= 32 else '…' + name[-31:])}"
