"""`p2pkv watch`: records as they arrive."""

from __future__ import annotations

import sys

import click

from p2pkv.commands.get import print_record
from p2pkv.commands.options import KEY, command, option
from p2pkv.commands.session import Session


@command("watch", exits=(0, 1, 2, 5, 6, 130), example="p2pkv watch sensor/7 --json", peer=True)
@click.argument("key", type=KEY)
@option("--after", metavar="CURSOR", help="begin behind this record (see --json)")
@option("--raw", is_flag=True, help="bytes as they are: no newline added")
def watch(session: Session, key: bytes, after: str | None, raw: bool) -> None:
    """Print the records under KEY as they arrive, until Ctrl-C. With --after none in between is missed."""
    last = after
    with session.client() as client:
        try:
            for record in client.watch(key, after=after):
                print_record(session, client, key, record, raw=raw)
                sys.stdout.flush()
                last = record.cursor
        finally:
            if last is not None and last != after:
                session.say(f"resume with --after {last}")
