"""`p2pkv get`: print the values of a key."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from p2pkv.commands.options import KEY, NAME, TIME, command, option
from p2pkv.commands.session import Session
from p2pkv.commands.text import write_line
from p2pkv.errors import NotFoundError

if TYPE_CHECKING:
    from p2pkv.commands.client import Client
    from p2pkv.outcomes import Record

_EXAMPLE = """p2pkv get sensor/7
p2pkv get config/theme --name current
p2pkv get sensor/7 --since 1h
p2pkv get backup --limit 1 --raw > backup.bin"""


@command("get", exits=(0, 1, 2, 3, 5, 6), example=_EXAMPLE, peer=True)
@click.argument("key", type=KEY)
@option("--name", type=NAME, metavar="NAME", help="the record of this name alone")
@option("--prefix", default="", metavar="P", help="records whose name begins so")
@option("--limit", type=click.IntRange(1), metavar="N", help="at most so many")
@option("--after", metavar="CURSOR", help="only records behind this one (see --json)")
@option(
    "--since", "since_s", type=TIME, metavar="TIME", help="only those put from then on: 2026-11-24T09:30, or 90m ago"
)
@option("--until", "until_s", type=TIME, metavar="TIME", help="only records put before then")
@option("--reverse", is_flag=True, help="newest first")
@option("--raw", is_flag=True, help="bytes as they are: no newline added")
def get(session: Session, key: bytes, raw: bool, **selection: Any) -> None:
    """Print the values under KEY, oldest first, one a line; with --json one object a line.

    Values are printed as they arrive. Where a part of the answer may be missing, what came is printed and the
    exit code is 5; where KEY has no record, it is 3.
    """
    count = 0
    with session.client() as client:
        for record in client.get(key, **selection):
            count += 1
            print_record(session, client, key, record, raw=raw)
    sys.stdout.flush()
    if not count and selection["after"] is None:
        raise _nothing(key, selection)


def print_record(session: Session, client: Client, key: bytes, record: Record, *, raw: bool) -> None:
    """One record as the user asked for it."""
    if session.json:
        from p2pkv.gateway.shapes import record_line

        session.emit(record_line(record), flush=False)
    elif record.value is not None:
        write_line(record.value, raw=raw)
    else:
        for block in client.stream(key, record):
            write_line(block, raw=True)
        write_line(b"", raw=raw)


def _nothing(key: bytes, selection: dict[str, Any]) -> NotFoundError:
    shown = key.decode("utf-8", "backslashreplace")
    if selection["name"] is not None:
        return NotFoundError(
            f"no record {selection['name']!r} under {shown!r}", "`p2pkv get --json KEY` tells the names"
        )
    what = f"no record whose name begins with {selection['prefix']!r}" if selection["prefix"] else "no record"
    return NotFoundError(f"{what} under {shown!r}", "check the key; `p2pkv where KEY` tells which peers would hold it")
