"""Commands about this machine: the current folder, its files, the screen."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from pathlib import Path

from examples.shell.session import Session


async def cd(session: Session, options: Namespace) -> int:
    """Without a folder: to the home folder."""
    folder = Path.home() if options.folder is None else session.local(options.folder)

    async def change(_: str) -> None:
        with os.scandir(folder):  # says what is wrong with it, if anything
            session.folder = folder

    return await session.each("cd", [options.folder or str(folder)], change)


async def pwd(session: Session, options: Namespace) -> int:
    session.say(str(session.folder))
    return 0


async def ls(session: Session, options: Namespace) -> int:
    async def show(text: str) -> None:
        path = session.local(text)
        if not path.is_dir():
            session.say(_row(path, text, long=options.long))
            return
        if len(options.path) > 1:
            session.say(f"{text}:")
        for entry in sorted(path.iterdir()):
            if not entry.name.startswith("."):
                session.say(_row(entry, entry.name, long=options.long))

    return await session.each("ls", options.path or ["."], show)


async def clear(session: Session, options: Namespace) -> int:
    if session.out.isatty():
        session.out.write("\x1b[H\x1b[2J\x1b[3J")
        session.out.flush()
    return 0


def _row(path: Path, name: str, *, long: bool) -> str:
    about = path.lstat()
    shown = f"{name}/" if path.is_dir() else name
    return f"{about.st_size:>12}  {timestamp(about.st_mtime)}  {shown}" if long else shown


def timestamp(time_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(time_s))
