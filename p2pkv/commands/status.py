"""`p2pkv status`: this peer at a glance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from p2pkv.commands.options import command
from p2pkv.commands.session import Session
from p2pkv.commands.text import one_line
from p2pkv.units import format_duration, format_size

if TYPE_CHECKING:
    from p2pkv.outcomes import Status


@command("status", exits=(0, 1, 2, 6), example="p2pkv status --json")
def status(session: Session) -> None:
    """Show the peer of this home: who it is, where it listens, what it holds, and its warnings."""
    with session.client() as client:
        found = client.status()
    if session.json:
        session.emit(found)
        return
    for title, value in _facts(found):
        click.echo(f"{title + ':':10} {one_line(value)}")


def _facts(found: Status) -> list[tuple[str, str]]:
    quota = "no quota" if found.quota_bytes is None else f"quota {format_size(found.quota_bytes)}"
    swarm = f"{found.contacts} contacts, about {found.swarm_size_estimate} peers"
    facts = [
        ("node", found.node),
        ("author", found.author),
        ("version", found.version),
        ("home", found.home),
        ("udp", ", ".join(found.udp)),
        ("http", found.http or "off"),
        ("up", format_duration(found.uptime_s)),
        ("swarm", swarm + ("" if found.connected or not found.bootstrap else "; not connected")),
        ("bootstrap", ", ".join(found.bootstrap) or "-"),
        ("holds", f"{found.records} records of {found.keys} keys, {found.chunks} chunks"),
        ("store", f"{format_size(found.stored_bytes)}, {quota}"),
        ("loop", f"{found.loop}, socket buffer {format_size(found.socket_buffer_bytes)}"),
    ]
    return facts + [("warning", warning) for warning in found.warnings]
