"""What a command is: a name, its arguments, a manual and a function. `commands.py` is the table of them."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from examples.shell.expansion import Takes
from examples.shell.session import Session, UsageError

Run = Callable[[Session, argparse.Namespace], Awaitable[int]]


class _Parser(argparse.ArgumentParser):
    """argparse ends the program at an error; a shell goes on."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n{self.format_usage().strip()}")


@dataclass(frozen=True)
class Argument:
    """One argument of a command, in the words of argparse."""

    flags: tuple[str, ...]
    settings: dict[str, Any]


def argument(*flags: str, **settings: Any) -> Argument:
    return Argument(flags, settings)


@dataclass(frozen=True)
class Command:
    name: str
    summary: str
    takes: Takes  # what its arguments name: decides patterns and completion
    arguments: tuple[Argument, ...]
    run: Run

    @property
    def options(self) -> list[str]:
        return [flag for each in self.arguments for flag in each.flags if flag.startswith("-")]

    @property
    def manual(self) -> str:
        return self._parser().format_help().strip()

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """Raises UsageError."""
        return self._parser().parse_args(arguments)

    def _parser(self) -> _Parser:
        parser = _Parser(
            prog=self.name,
            description=f"{self.summary[0].upper()}{self.summary[1:]}.",
            epilog=(self.run.__doc__ or "").strip() or None,
            add_help=False,
            allow_abbrev=False,
        )
        for each in self.arguments:
            parser.add_argument(*each.flags, **each.settings)
        return parser
