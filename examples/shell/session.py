"""One session of the shell: where it stands, where it writes, and how it carries out one line.

Errors of a command end the command, never the session.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from examples.shell.expansion import expand
from examples.shell.parsing import LineError, parse
from examples.shell.store import Store
from p2pkv import P2pkvError

INTERRUPTED = 130
NOT_FOUND = 127
USAGE = 2


class UsageError(Exception):
    """A command was called with arguments it does not take."""


class Session:
    """State that lasts from line to line."""

    def __init__(self, store: Store, folder: Path, out: TextIO, err: TextIO) -> None:
        self.store = store
        self.folder = folder
        self.out = out
        self.err = err
        self.status = 0  # of the last command
        self.leaving = False

    def say(self, text: str = "") -> None:
        print(_printable(text), file=self.out, flush=True)

    def complain(self, text: str) -> None:
        print(_printable(text), file=self.err, flush=True)

    def local(self, text: str) -> Path:
        """The path that a user means from the current folder."""
        return Path(os.path.normpath(self.folder / text))

    async def run_line(self, line: str) -> int:
        """Carry out one line; its exit status is kept."""
        task = asyncio.create_task(self._run(line))
        loop = asyncio.get_running_loop()
        with suppress(NotImplementedError):  # Windows: Ctrl-C ends the program there
            loop.add_signal_handler(signal.SIGINT, task.cancel)
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
            with suppress(NotImplementedError):
                loop.remove_signal_handler(signal.SIGINT)
        if task.cancelled():
            self.complain("")
        self.status = INTERRUPTED if task.cancelled() else task.result()
        return self.status

    async def _run(self, line: str) -> int:
        from examples.shell.commands import COMMANDS

        name = "p2pkv"
        try:
            words = parse(line)
            if not words:
                return self.status
            name = words[0].text
            if name not in COMMANDS:
                self.complain(f"{name}: command not found")
                return NOT_FOUND
            command = COMMANDS[name]
            arguments = await expand(words[1:], command.takes, self.folder, self.store)
            return await command.run(self, command.parse(arguments))
        except (LineError, UsageError) as error:
            self.complain(f"{name}: {error}")
            return USAGE
        except (OSError, P2pkvError) as error:
            return self.fail(name, "", error)

    async def each(self, name: str, items: Iterable[str], action: Callable[[str], Awaitable[None]]) -> int:
        """Do it for every item, whatever became of the others; the status is that of the last failure."""
        status = 0
        for item in items:
            try:
                await action(item)
            except (OSError, P2pkvError) as error:
                status = self.fail(name, item, error)
        return status

    def fail(self, name: str, item: str, error: OSError | P2pkvError) -> int:
        """Say what failed as a shell does, with the mend where there is one."""
        if isinstance(error, P2pkvError):
            what = str(error) if not item or item in str(error) else f"{item}: {error}"
            self.complain(f"{name}: {what}" + (f" ({error.mend})" if error.mend else ""))
            return error.exit_code
        where = item or str(error.filename or "")
        self.complain(": ".join(part for part in (name, where, error.strerror or str(error)) if part))
        return 1


def _printable(text: str) -> str:
    """Names and values come from strangers: a control character must not reach the terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else f"\\x{ord(char):02x}" for char in text)
