"""`p2pkv keygen`: key files, readable by their owner alone. Never overwrites one."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import click

from p2pkv.commands.options import command, option
from p2pkv.commands.session import Session
from p2pkv.errors import RefusedError

KEY_BYTES = 32  # of a swarm key, and of the seed of an Ed25519 author key


@command("keygen", exits=(0, 1, 2, 4), example="p2pkv keygen swarm.key\np2pkv keygen --kind author author.key")
@option(
    "--kind", type=click.Choice(["swarm", "author"]), default="swarm", show_default=True, help="what the key is for"
)
@click.argument("file", type=click.Path(dir_okay=False))
def keygen(session: Session, kind: str, file: str) -> None:
    """Make a key and write it to FILE, readable by you alone.

    A swarm key closes a swarm: give every peer of it the same file with --swarm-key. An author key signs records.
    """
    write_key(Path(file), kind)
    if session.json:
        session.emit({"kind": kind, "file": file})
    session.say(f"wrote a new {kind} key to {file}; keep it secret")


def write_key(path: Path, kind: str) -> None:
    """One line: `p2pkv-KIND-key` and 64 hexadecimal digits. Raises RefusedError where the file exists."""
    line = f"p2pkv-{kind}-key {secrets.token_hex(KEY_BYTES)}\n"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise RefusedError(f"{path} exists", "choose another name, or remove it if no peer needs it") from error
    with os.fdopen(handle, "w") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
