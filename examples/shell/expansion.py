"""What words stand for: `~`, local patterns, and patterns of names in the swarm."""

from __future__ import annotations

import glob
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from examples.shell.parsing import Word
from examples.shell.store import Store

Takes = Literal["local", "remote", "command", "text"]


async def expand(words: list[Word], takes: Takes, folder: Path, store: Store) -> list[str]:
    """The arguments of a command. A pattern that matches nothing stays as it was typed, as in a shell."""
    arguments: list[str] = []
    for word in words:
        _expand_tilde(word)
        found: list[str] = []
        if word.is_pattern and takes == "local":
            found = sorted(glob.glob(word.pattern, root_dir=folder))  # noqa: PTH207 - Path.glob refuses absolute patterns
        elif word.is_pattern and takes == "remote":
            found = await _remote(word.pattern, store)
        arguments += found or [word.text]
    return arguments


def _expand_tilde(word: Word) -> None:
    if word.tilde and word.text.split("/")[0] == "~":
        home = str(Path.home())
        word.text, word.pattern = home + word.text[1:], glob.escape(home) + word.pattern[1:]


async def _remote(pattern: str, store: Store) -> list[str]:
    """Names in the swarm that match, `*` stopping at a slash."""
    head = pattern[: min(pattern.index(char) for char in "*?[" if char in pattern)]
    steps = pattern.split("/")
    found: list[str] = []
    async for info in store.list_files(head):
        parts = info.name.removesuffix("/").split("/")
        if len(parts) == len(steps) and all(map(fnmatchcase, parts, steps)):
            found.append(info.name)
    return found
