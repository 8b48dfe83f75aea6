"""What upload and download tell of a file or folder that was carried."""

from __future__ import annotations

import click

from p2pkv.commands.session import Session
from p2pkv.commands.text import one_line
from p2pkv.errors import IncompleteError
from p2pkv.outcomes import FolderOutcome, TransferOutcome
from p2pkv.units import format_duration, format_size

_FAILURES_SHOWN = 3


def print_outcome(session: Session, outcome: TransferOutcome | FolderOutcome, verb: str, *, show_link: bool) -> None:
    """The link (or with --json the outcome) on standard output, a summary on standard error.

    Raises IncompleteError where a folder was not carried whole.
    """
    if session.json:
        session.emit(outcome)
    elif show_link and outcome.link:
        click.echo(outcome.link)
    session.say(f"{verb} {one_line(outcome.name)}: {_summary(outcome)}")
    if isinstance(outcome, FolderOutcome) and outcome.failed:
        raise _not_whole(outcome)


def _summary(outcome: TransferOutcome | FolderOutcome) -> str:
    rate = format_size(outcome.size / outcome.seconds) + "/s" if outcome.seconds > 0 else ""
    took = f"{outcome.seconds:.1f} s" if outcome.seconds < 60 else format_duration(outcome.seconds)
    text = f"{format_size(outcome.size)} in {took}" + (f", {rate}" if rate else "")
    if isinstance(outcome, FolderOutcome):
        return f"{outcome.files} files, {text}"
    return text + (f", {outcome.replicas} replicas" if outcome.replicas else "")


def _not_whole(outcome: FolderOutcome) -> IncompleteError:
    shown = outcome.failures[:_FAILURES_SHOWN]
    reasons = "; ".join(f"{failure.name}: {failure.reason}" for failure in shown)
    total = outcome.files + outcome.failed
    return IncompleteError(
        f"{outcome.failed} of {total} files failed: {reasons}", "run it again: what is done stays done"
    )
