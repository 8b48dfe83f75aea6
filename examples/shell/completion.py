"""Completion while typing: commands, options, local paths and names in the swarm."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, cast

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from examples.shell.commands import COMMANDS
from examples.shell.parsing import parse_unfinished, quote
from examples.shell.session import Session
from p2pkv import P2pkvError

if TYPE_CHECKING:
    from p2pkv.outcomes import FileInfo

NAMES_MAX = 200  # names of the swarm offered at once
PATIENCE_S = 2.0  # a swarm that does not answer must not hold up typing


class ShellCompleter(Completer):
    def __init__(self, session: Session) -> None:
        self._session = session

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Part of the interface; the prompt asks asynchronously."""
        return []

    async def get_completions_async(
        self, document: Document, complete_event: CompleteEvent
    ) -> AsyncGenerator[Completion, None]:
        line = document.text_before_cursor
        before, word = parse_unfinished(line)
        for text in await self._candidates(before, word.text):
            end = "" if text.endswith("/") else " "
            yield Completion(quote(text) + end, start_position=word.start - len(line), display=text)

    async def _candidates(self, before: list[str], start: str) -> list[str]:
        if not before:
            return [name for name in COMMANDS if name.startswith(start)]
        command = COMMANDS.get(before[0])
        if command is None:
            return []
        if start.startswith("-"):
            return [option for option in command.options if option.startswith(start)]
        if command.takes == "command":
            return [name for name in COMMANDS if name.startswith(start)]
        if command.takes == "remote" and before[-1] != "--to":
            return await self._remote(start)
        return self._local(start, folders_only=command.name == "cd") if command.takes != "text" else []

    def _local(self, start: str, *, folders_only: bool) -> list[str]:
        start = str(Path.home()) + start[1:] if start.startswith("~/") else start
        head = start[: start.rfind("/") + 1]
        beginning = start.removeprefix(head)
        try:
            entries = sorted(os.scandir(self._session.local(head)), key=lambda entry: entry.name)
        except OSError:
            return []
        shown = [e for e in entries if e.name.startswith(beginning) and (beginning or not e.name.startswith("."))]
        return [head + e.name + ("/" if e.is_dir() else "") for e in shown if e.is_dir() or not folders_only]

    async def _remote(self, start: str) -> list[str]:
        found: list[str] = []
        try:
            async with asyncio.timeout(PATIENCE_S):
                listing = cast("AsyncGenerator[FileInfo, None]", self._session.store.list_files(start))
                async with aclosing(listing):
                    async for info in listing:
                        found.append(info.name)
                        if len(found) >= NAMES_MAX:
                            break
        except (P2pkvError, OSError, TimeoutError):
            pass  # what has come so far is still right
        return found
