"""From a line to words: quotes, escapes, comments and patterns, as a POSIX shell reads them. No shell is involved.

Owns the grammar of a line. Knows no command, and expands nothing: `expansion.py` does.
"""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass

_PART = re.compile(
    r"""(?P<space>\s+)
    |'(?P<single>[^']*)'
    |"(?P<double>(?:[^"\\]|\\.)*)"
    |\\(?P<escaped>.)
    |(?P<plain>[^\s'"\\]+)""",
    re.DOTALL | re.VERBOSE,
)
_ESCAPED_IN_DOUBLE = re.compile(r'\\(["\\$`])')
_NEEDS_QUOTES = re.compile(r"""[\s'"\\*?\[\]#~]""")


class LineError(ValueError):
    """The line is no sentence of the grammar."""


@dataclass
class Word:
    """One word: the text a command gets, and the pattern it stands for, in which quoted characters are literal."""

    start: int  # where it begins in the line
    end: int = 0
    text: str = ""
    pattern: str = ""
    tilde: bool = False  # it begins with a `~` that is not quoted

    @property
    def is_pattern(self) -> bool:
        return self.pattern != glob.escape(self.text)

    def add(self, text: str, end: int, *, literal: bool) -> None:
        self.tilde |= not self.text and not literal and text.startswith("~")
        self.text += text
        self.pattern += glob.escape(text) if literal else text
        self.end = end


def parse(line: str) -> list[Word]:
    """The words of a line. Raises LineError where a quote is not closed."""
    words: list[Word] = []
    inside = False
    position = 0
    while position < len(line) and (inside or line[position] != "#"):
        match = _PART.match(line, position)
        if match is None:
            raise LineError(f"unfinished: nothing follows or closes the {line[position]}")
        if match["space"] is None:
            if not inside:
                words.append(Word(position))
            _add_part(words[-1], match)
        inside = match["space"] is None
        position = match.end()
    return words


def _add_part(word: Word, match: re.Match[str]) -> None:
    if match["plain"] is not None:
        word.add(match["plain"], match.end(), literal=False)
    elif match["double"] is not None:
        word.add(_ESCAPED_IN_DOUBLE.sub(r"\1", match["double"]), match.end(), literal=True)
    else:
        word.add(match["single"] if match["single"] is not None else match["escaped"], match.end(), literal=True)


def parse_unfinished(line: str) -> tuple[list[str], Word]:
    """The words before the one being typed at the end of the line, and that one, its quotes closed."""
    for closing in ("", "'", '"', " "):
        try:
            words = parse(line + closing)
        except LineError:
            continue
        if words and words[-1].end >= len(line):
            return [word.text for word in words[:-1]], words[-1]
        return [word.text for word in words], Word(len(line), len(line))
    return [], Word(len(line), len(line))


def quote(text: str) -> str:
    """The text as one word that `parse` reads back unchanged."""
    if text and not _NEEDS_QUOTES.search(text):
        return text
    return "'" + text.replace("'", "'\\''") + "'"
