"""The progress bar of an upload or download, with rate and time left: on a terminal, and nowhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from p2pkv.commands.session import Session
from p2pkv.commands.text import one_line
from p2pkv.outcomes import TransferProgress

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Report = Callable[[TransferProgress], None]


@contextmanager
def progress_bar(session: Session, *, wanted: bool = True) -> Iterator[Report | None]:
    """What to call with each step; None where nobody watches (a pipe, --quiet, --json)."""
    if not wanted or session.quiet or session.json or not sys.stderr.isatty():
        yield None
        return
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True, no_color=not session.color(True))
    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        yield _Tasks(bar).show


class _Tasks:
    """One bar per name, the last step of which is always its end."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.tasks: dict[str, TaskID] = {}

    def show(self, step: TransferProgress) -> None:
        label = one_line(step.name).rpartition("/")[2][:40]
        if step.name not in self.tasks:
            for done in self.tasks.values():
                self.bar.remove_task(done)
            self.tasks = {step.name: self.bar.add_task(label, total=step.total)}
        text = label if step.phase == "done" else f"{step.phase} {label}"
        self.bar.update(self.tasks[step.name], description=text, completed=step.done, total=step.total)


def counted(blocks: Iterable[bytes], name: str, total: int | None, report: Report | None) -> Iterator[bytes]:
    """Blocks on their way, each of them reported."""
    done = 0
    for block in blocks:
        done += len(block)
        if report is not None:
            report(TransferProgress(name, "fetching" if total is not None else "reading", done, total))
        yield block
