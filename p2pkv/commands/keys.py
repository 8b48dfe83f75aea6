"""`p2pkv keys`: the keys that this peer holds."""

from __future__ import annotations

import os
import sys

import click

from p2pkv.commands.options import command
from p2pkv.commands.session import Session
from p2pkv.commands.text import write_line


@command("keys", exits=(0, 1, 2, 6), example="p2pkv keys sensor/")
@click.argument("prefix", default="")
def keys(session: Session, prefix: str) -> None:
    """Print the keys that this peer holds, those that begin with PREFIX; other peers hold others."""
    with session.client() as client:
        for key, count in client.keys(os.fsencode(prefix)):
            if session.json:
                from p2pkv.gateway.shapes import key_line

                session.emit(key_line(key, count), flush=False)
            else:
                write_line(key)
    sys.stdout.flush()
