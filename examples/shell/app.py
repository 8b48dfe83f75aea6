"""The program: reads its options, opens the store, and feeds lines to a session from a prompt, a script or `-c`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from examples.shell.session import INTERRUPTED, Session
from examples.shell.store import Store, open_store
from p2pkv import P2pkvError


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options().parse_args(arguments)
    try:
        return asyncio.run(_main(options))
    except P2pkvError as error:
        print(f"p2pkv: {error}" + (f" ({error.mend})" if error.mend else ""), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="shell", description="A shell for files and records in a p2pkv swarm.")
    parser.add_argument("--home", type=Path, help="home of the running peer to talk to (default: the user's)")
    parser.add_argument(
        "--bootstrap", metavar="HOST:PORT", action="append", default=[], help="run a peer of the shell's own instead"
    )
    parser.add_argument("-c", dest="command", metavar="COMMAND", help="carry out this line and leave")
    return parser


async def _main(options: argparse.Namespace) -> int:
    async with open_store(options.home, options.bootstrap) as store:
        history = options.home / "shell_history" if options.home and options.home.is_dir() else None
        return await run(store, command=options.command, history=history)


async def run(store: Store, *, command: str | None = None, history: Path | None = None) -> int:
    """One session on a store; the status is that of the last command."""
    session = Session(store, Path.cwd(), sys.stdout, sys.stderr)
    if command is not None:
        await session.run_line(command)
    elif sys.stdin.isatty():
        from examples.shell.prompt import converse

        await converse(session, history)
    else:
        await _run_script(session)
    return session.status


async def _run_script(session: Session) -> None:
    """Lines of standard input, to the end, `exit` or Ctrl-C; a failed command does not end it, as in sh."""
    while not session.leaving and session.status != INTERRUPTED:
        line = await asyncio.to_thread(sys.stdin.readline)
        if not line:
            return
        await session.run_line(line.rstrip("\n"))
