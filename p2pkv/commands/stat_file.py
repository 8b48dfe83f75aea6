"""`p2pkv stat-file`: a file's manifest, where its chunks lie, and its health."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import click

from p2pkv.commands.completing import file_names
from p2pkv.commands.options import command, option
from p2pkv.commands.session import Session
from p2pkv.commands.text import local_time, one_line
from p2pkv.units import format_size

if TYPE_CHECKING:
    from p2pkv.outcomes import FileStat


@command("stat-file", exits=(0, 1, 2, 3, 5, 6), example="p2pkv stat-file summer/holiday.mp4 --chunks", peer=True)
@click.argument("name", shell_complete=file_names)
@option("--chunks", is_flag=True, help="each chunk with its replicas, too")
def stat_file(session: Session, name: str, chunks: bool) -> None:
    """Show what the swarm knows of a file, and whether each of its chunks has all its replicas."""
    with session.client() as client:
        found = client.stat_file(name)
    if session.json:
        from p2pkv.gateway.shapes import stat_shape

        session.emit(stat_shape(found))
        return
    for title, value in _facts(found):
        click.echo(f"{title + ':':10} {value}")
    if chunks:
        _print_chunks(session, found)


def _facts(found: FileStat) -> list[tuple[str, str]]:
    info = found.info
    return [
        ("name", one_line(info.name)),
        ("kind", info.kind + (", encrypted" if info.encrypted else "")),
        ("size", f"{info.size} bytes ({format_size(info.size)})"),
        ("mode", stat.filemode(info.mode)[1:]),
        ("modified", local_time(info.mtime)),
        ("stored", local_time(info.time)),
        ("hash", info.hash or "-"),
        ("author", info.author or "-"),
        ("link", found.link),
        ("chunks", str(len(found.chunks))),
        ("erasure", info.erasure or "-"),
        ("replicas", _replicas(found)),
        ("health", "good" if found.healthy else "some chunks lack replicas; `p2pkv repair` brings them back"),
    ]


def _replicas(found: FileStat) -> str:
    """A swarm smaller than what is wanted cannot hold more than one on each peer."""
    whole = [chunk for chunk in found.chunks if not chunk.wanted]
    if not whole:
        return "-"
    asked = min(len(chunk.replicas) for chunk in whole)
    few = f" ({found.replicas_wanted} wanted, the swarm has {asked} peers)" if asked < found.replicas_wanted else ""
    least = min(sum(replica.holds for replica in chunk.replicas) for chunk in whole)
    told = f"{least} of {min(asked, found.replicas_wanted)} at least for every chunk{few}"
    shards = [any(replica.holds for replica in chunk.replicas) for chunk in found.chunks if chunk.wanted]
    return f"{told}, {sum(shards)} of {len(shards)} shards" if shards else told


def _print_chunks(session: Session, found: FileStat) -> None:
    from p2pkv.commands.tables import print_table

    rows = [
        (chunk.id[:16], chunk.size, ", ".join(replica.address for replica in chunk.replicas if replica.holds))
        for chunk in found.chunks
    ]
    print_table(session, ["chunk", ">size", "held by"], rows)
