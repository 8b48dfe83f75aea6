"""What upload and download tell of a file or folder that was carried."""

from __future__ import annotations

import click

from p2pkv.commands.session import Session
from p2pkv.commands.text import one_line
from p2pkv.outcomes import TransferOutcome
from p2pkv.units import format_duration, format_size


def print_outcome(session: Session, outcome: TransferOutcome, verb: str, *, show_link: bool) -> None:
    """The link (or with --json the outcome) on standard output, a summary on standard error."""
    if session.json:
        session.emit(outcome)
    elif show_link and outcome.link:
        click.echo(outcome.link)
    session.say(f"{verb} {one_line(outcome.name)}: {_summary(outcome)}")
    if outcome.erasure:
        session.say(
            f"erasure code {outcome.erasure}: expected to be lost within a year with probability "
            f"{_probability(outcome.loss_per_year)} (docs/durability.md says under which assumptions)"
        )


def _probability(value: float) -> str:
    return f"{value:.1e}" if value >= 1e-15 else "below 1e-15"


def _summary(outcome: TransferOutcome) -> str:
    rate = format_size(outcome.size / outcome.seconds) + "/s" if outcome.seconds > 0 else ""
    took = f"{outcome.seconds:.1f} s" if outcome.seconds < 60 else format_duration(outcome.seconds)
    text = f"{format_size(outcome.size)} in {took}" + (f", {rate}" if rate else "")
    # The replicas of an erasure-coded file are those of its lists of shards alone.
    text += f", {outcome.replicas} replicas" if outcome.replicas and not outcome.erasure else ""
    return f"{outcome.files} files, {text}" if outcome.files != 1 or outcome.folders else text
