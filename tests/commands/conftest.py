"""A fake peer in a home, and the command line run in this process against it."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2pkv.commands.run import run
from tests.commands.fake_server import FakePeer


@dataclass(frozen=True)
class Ran:
    code: int
    out: bytes
    err: str


class CommandLine:
    """`p2pkv ARGS` in a home; standard input may be given."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[bytes]) -> None:
        self.home = home
        self._patch = monkeypatch
        self._capture = capture

    def __call__(self, *args: str, stdin: bytes = b"") -> Ran:
        self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        self._capture.readouterr()
        code = run(["--home", str(self.home), *args])
        said = self._capture.readouterr()
        return Ran(code, said.out, said.err.decode())


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("P2PKV_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("P2PKV_HOME", str(tmp_path / "default-home"))


@pytest.fixture
def p2pkv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> CommandLine:
    return CommandLine(tmp_path / "h", monkeypatch, capfdbinary)


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[FakePeer]:
    with FakePeer(tmp_path / "h") as peer:
        yield peer
