"""The command line. Owns the entry point `main` and how every failure reaches the user: one line and an exit code.

Nothing heavy is imported here: a command's module is imported when it runs, and the peer's machinery (asyncio,
aiohttp, kademlia) only by the commands that run a peer. A reader that closes the pipe ends a command quietly with
141, as the signal would.
"""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """The console script: run `sys.argv` and exit with its code."""
    try:
        from p2pkv.commands.run import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # outside of any command: while modules load, or once more while an error is printed
        code = 130
    sys.exit(code)
