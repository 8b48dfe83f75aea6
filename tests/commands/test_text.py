"""What strangers wrote reaches a pipe as it is, and a terminal only as something to read."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pkv.commands.text import one_line, printable, write_line

HOSTILE = st.text(st.characters(codec=None), max_size=60)


class _Terminal(io.TextIOWrapper):
    def __init__(self, terminal: bool) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8")
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def _written(monkeypatch: pytest.MonkeyPatch, data: bytes, terminal: bool, raw: bool) -> bytes:
    stream = _Terminal(terminal)
    monkeypatch.setattr(sys, "stdout", stream)
    write_line(data, raw=raw)
    stream.flush()
    return stream.buffer.getvalue()  # type: ignore[attr-defined,no-any-return]


@given(HOSTILE)
def test_a_terminal_gets_no_control_characters(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable() or not any(ord(char) < 32 and char not in "\t\n" for char in shown)
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    shown.encode()


@given(HOSTILE)
def test_a_name_is_one_line(text: str) -> None:
    assert "\n" not in one_line(text)
    assert "\r" not in one_line(text)


@given(st.text(st.characters(categories=("L", "N", "P", "S")), max_size=60))
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("terminal", "raw", "expected"),
    [
        (False, False, b"\x1b[2J\xff\n"),
        (False, True, b"\x1b[2J\xff"),
        (True, False, b"\\x1b[2J\\xff\n"),
        (True, True, b"\x1b[2J\xff"),
    ],
)
def test_bytes_are_changed_only_for_eyes(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, raw: bool, expected: bytes
) -> None:
    assert _written(monkeypatch, b"\x1b[2J\xff", terminal, raw) == expected
