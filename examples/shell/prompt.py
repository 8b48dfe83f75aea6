"""The conversation on a terminal: prompt with the current folder, history, completion. Ctrl-D leaves."""

from __future__ import annotations

from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import HTML
from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from examples.shell.completion import ShellCompleter
from examples.shell.session import Session


async def converse(session: Session, history_file: Path | None) -> None:
    """Read and carry out lines until the user leaves."""
    history: History = FileHistory(str(history_file)) if history_file else InMemoryHistory()
    prompt: PromptSession[str] = PromptSession(
        history=history, completer=ShellCompleter(session), complete_while_typing=False
    )
    while not session.leaving:
        try:
            line = await prompt.prompt_async(HTML("<b>p2pkv:{}$</b> ").format(_shown(session.folder)))
        except KeyboardInterrupt:
            continue  # the line is dropped, as in a shell
        except EOFError:
            return
        await session.run_line(line)


def _shown(folder: Path) -> str:
    """The folder with the user's home as `~`."""
    home = Path.home()
    return f"~/{folder.relative_to(home)}".removesuffix("/.") if folder.is_relative_to(home) else str(folder)
