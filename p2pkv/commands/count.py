"""`p2pkv count`: how many records a key has."""

from __future__ import annotations

import click

from p2pkv.commands.options import KEY, command, option
from p2pkv.commands.session import Session


@command("count", exits=(0, 1, 2, 5, 6), example="p2pkv count sensor/7", peer=True)
@click.argument("key", type=KEY)
@option("--prefix", default="", metavar="P", help="records whose name begins so")
def count(session: Session, key: bytes, prefix: str) -> None:
    """Print the number of records under KEY, without fetching their values."""
    with session.client() as client:
        found = client.count(key, prefix=prefix)
    if session.json:
        session.emit({"count": found})
    else:
        click.echo(found)
