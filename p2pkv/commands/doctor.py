"""`p2pkv doctor`: what may be wrong on this machine and with this peer, with the mend for each.

The checks themselves are in `checkups`; this file chooses and prints them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from p2pkv.commands.exits import FAILED
from p2pkv.commands.options import command, setting
from p2pkv.commands.session import Session, is_listening
from p2pkv.commands.text import one_line
from p2pkv.errors import P2pkvError

if TYPE_CHECKING:
    from p2pkv.commands.checkups import Finding
    from p2pkv.outcomes import Sighting, Status

_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


@command("doctor", exits=(0, 1, 2), example="p2pkv doctor --bootstrap swarm.example.org:8468")
@setting("listen")
@setting("bootstrap")
@setting("http")
@setting("k", hidden=True)
@setting("swarm-key")
@setting("quota")
def doctor(
    session: Session,
    listen: tuple[str, ...],
    bootstrap: tuple[str, ...],
    http: str,
    quota: int | None,
    k: int,
    swarm_key: str | None,
) -> None:
    """Check the home, the disk, the clock, the socket buffers, the ports and how contacts see them from outside, and
    whether the bootstrap peers answer.

    Give it the options that `p2pkv start` gets. Exit 1 where a check fails; warnings alone are no failure.
    """
    from p2pkv.commands import checkups

    def all_findings() -> Iterator[Finding]:
        status, sightings = _ask_peer(session)
        yield from checkups.home(session.home, quota)
        yield checkups.clock()
        yield checkups.socket_buffers()
        if status is None:
            yield from checkups.ports(listen, http)
        else:
            yield from checkups.running_peer(status)
            yield from checkups.seen_from_outside(status, sightings)
        for address in bootstrap:
            yield checkups.bootstrap(session, address, k, swarm_key)

    _print(session, all_findings())


def _ask_peer(session: Session) -> tuple[Status | None, list[Sighting]]:
    """What the running peer says of itself and its contacts of it, None where none runs or answers."""
    if not is_listening(session.home):
        return None, []
    try:
        with session.client() as client:
            return client.status(), client.seen_as()
    except P2pkvError as error:
        session.say(f"the peer of this home does not answer as it should: {error}")
        return None, []


def _print(session: Session, findings: Iterator[Finding]) -> None:
    color = session.color(sys.stdout.isatty())
    failed = False
    for finding in findings:
        failed = failed or finding.level == "fail"
        if session.json:
            session.emit(finding)
            continue
        level = click.style(f"{finding.level:4}", fg=_STYLES[finding.level]) if color else f"{finding.level:4}"
        mend = f"; {finding.mend}" if finding.mend else ""
        click.echo(f"{level}  {finding.name}: {one_line(finding.message)}{one_line(mend)}", color=color)
    if failed:
        raise click.exceptions.Exit(FAILED)
