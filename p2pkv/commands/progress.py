"""The progress bar of an upload or download, with rate and time left: on a terminal, and nowhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from p2pkv.commands.session import Session
from p2pkv.commands.text import one_line
from p2pkv.outcomes import TransferProgress
from p2pkv.units import format_size

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Report = Callable[[TransferProgress], None]
_PEERS_SHOWN_MAX = 12  # bars below the whole's


@contextmanager
def progress_bar(session: Session, *, wanted: bool = True) -> Iterator[Report | None]:
    """What to call with each step; None where nobody watches (a pipe, --quiet, --json).

    With --verbose each peer has its line: while it runs on a terminal, and at the end wherever standard error goes.
    """
    if session.quiet or session.json:
        yield None
        return
    last = _Last()
    with _shown(session) if wanted and sys.stderr.isatty() else nullcontext() as show:
        yield show if not session.verbose else last.after(show)
    for line in last.peers():
        session.say(line)


@contextmanager
def _shown(session: Session) -> Iterator[Report]:
    """A bar on the terminal that goes when the transfer ends."""
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
        yield _Tasks(bar, peers=bool(session.verbose)).show


class _Last:
    """The last step, from which the end is told."""

    def __init__(self) -> None:
        self.step: TransferProgress | None = None

    def after(self, show: Report | None) -> Report:
        def report(step: TransferProgress) -> None:
            self.step = step
            if show is not None:
                show(step)

        return report

    def peers(self) -> list[str]:
        """A line for each peer that carried something, the chief ones first."""
        found = self.step.peers if self.step else {}
        return [f"  {address:21}  {format_size(size_bytes)}" for address, size_bytes in found.items()]


class _Tasks:
    """One bar per name, the last step of which is always its end; below it, where wanted, one per peer."""

    def __init__(self, bar: Progress, *, peers: bool = False) -> None:
        self.bar = bar
        self.tasks: dict[str, TaskID] = {}
        self.peers: dict[str, TaskID] | None = {} if peers else None

    def show(self, step: TransferProgress) -> None:
        label = one_line(step.name).rpartition("/")[2][:40]
        if step.name not in self.tasks:
            for done in self.tasks.values():
                self.bar.remove_task(done)
            self.tasks = {step.name: self.bar.add_task(label, total=step.total)}
        text = label if step.phase == "done" else f"{step.phase} {label}"
        self.bar.update(self.tasks[step.name], description=text, completed=step.done, total=step.total)
        if self.peers is not None:
            self._show_peers(step, self.peers)

    def _show_peers(self, step: TransferProgress, shown: dict[str, TaskID]) -> None:
        for address, size_bytes in list(step.peers.items())[:_PEERS_SHOWN_MAX]:
            if address not in shown and len(shown) < _PEERS_SHOWN_MAX:
                shown[address] = self.bar.add_task(f"  {address}", total=step.total)
            if address in shown:
                self.bar.update(shown[address], completed=size_bytes, total=step.total)


def counted(blocks: Iterable[bytes], name: str, total: int | None, report: Report | None) -> Iterator[bytes]:
    """Blocks on their way, each of them reported."""
    done = 0
    for block in blocks:
        done += len(block)
        if report is not None:
            report(TransferProgress(name, "fetching" if total is not None else "reading", done, total))
        yield block
