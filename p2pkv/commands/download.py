"""`p2pkv download`: fetch files and folders."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p2pkv.commands.completing import file_names
from p2pkv.commands.each import for_each
from p2pkv.commands.options import Parsed, command, option
from p2pkv.commands.progress import counted, progress_bar
from p2pkv.commands.session import Session
from p2pkv.commands.transfers import print_outcome
from p2pkv.errors import InvalidError, P2pkvError

if TYPE_CHECKING:
    from p2pkv.commands.client import Client

_EXAMPLE = """p2pkv download summer/holiday.mp4 --to ~/Videos
p2pkv download backups/project.tar --to - | tar x"""
Range = tuple[int, int]


def parse_range(text: str) -> Range:
    """First and last byte of `A-B`, both included, counted from 0."""
    match = re.fullmatch(r"([0-9]{1,18})-([0-9]{1,18})", text.strip())
    if match is None or int(match[1]) > int(match[2]):
        raise InvalidError(f"not a range: {text!r}", "write it as A-B: the first and the last byte, counted from 0")
    return int(match[1]), int(match[2])


@command("download", exits=(0, 1, 2, 3, 5, 6, 130), example=_EXAMPLE, peer=True)
@click.argument("names", nargs=-1, required=True, metavar="NAME|LINK ...", shell_complete=file_names)
@option(
    "--to",
    default=".",
    type=click.Path(),
    metavar="PATH",
    help="folder or file to write, - for standard output  [default: here]",
)
@option(
    "--range", "byte_range", type=Parsed("range", parse_range), metavar="A-B", help="only bytes A to B, both included"
)
def download(session: Session, names: tuple[str, ...], to: str, byte_range: Range | None) -> None:
    """Fetch files or folders by name or link; a last argument - writes to standard output, too.

    Every chunk is verified. Nothing half appears under the final name; the same command resumes what an
    interrupted one left. With -v, each peer's part is shown, too.
    """
    if len(names) > 1 and names[-1] == "-":
        names, to = names[:-1], "-"
    if to == "-":
        _to_standard_output(session, names, byte_range)
        return
    target = _target(to, several=len(names) > 1)
    with session.client() as client:
        for_each(session, names, lambda name: _download(session, client, name, target, byte_range))


def _target(to: str, *, several: bool) -> Path:
    """Where to write; a folder is made where the text or the number of names says that it is one."""
    target = Path(to).absolute()
    try:
        if to.endswith("/") or several:
            target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise P2pkvError(f"{to}: {error.strerror}", "choose another folder with --to") from error
    if not target.exists() and not target.parent.is_dir():
        raise P2pkvError(f"{target.parent}: No such file or directory", "make the folder, or end --to with a slash")
    return target


def _download(session: Session, client: Client, name: str, target: Path, byte_range: Range | None) -> None:
    with progress_bar(session) as report:
        outcome = client.download(name, target, byte_range=byte_range, progress=report)
    print_outcome(session, outcome, "downloaded", show_link=False)


def _to_standard_output(session: Session, names: tuple[str, ...], byte_range: Range | None) -> None:
    """The contents one after the other; the first failure ends it, because a gap would go unnoticed."""
    with session.client() as client, progress_bar(session, wanted=not sys.stdout.isatty()) as report:
        for name in names:
            info, blocks = client.open_file(name, byte_range=byte_range)
            total = info.size if byte_range is None else byte_range[1] - byte_range[0] + 1
            for block in counted(blocks, info.name, total, report):
                sys.stdout.buffer.write(block)
    sys.stdout.flush()
