"""Completion as a shell asks for it: commands, choices, local paths, names in the swarm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.fake_server import FakePeer

ROOT = Path(__file__).parents[2]


def offered(home: Path, *words: str) -> list[tuple[str, str]]:
    """(kind, text) of what bash is offered for the last word."""
    asked = {"_P2PKV_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    environment = {**os.environ, **asked, "PYTHONPATH": str(ROOT), "P2PKV_HOME": str(home)}
    ran = subprocess.run(
        [sys.executable, "-m", "p2pkv"], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.stderr == ""
    return [(line.partition(",")[0], line.partition(",")[2]) for line in ran.stdout.split()]


def test_commands_options_and_choices(tmp_path: Path) -> None:
    assert offered(tmp_path, "p2pkv", "dele") == [("plain", "delete"), ("plain", "delete-file")]
    assert ("plain", "--replicas") in offered(tmp_path, "p2pkv", "upload", "--re")
    assert offered(tmp_path, "p2pkv", "put", "k", "--acks", "q") == [("plain", "quorum")]


@pytest.mark.parametrize("words", [("upload", "x"), ("start", "--swarm-key", "x"), ("put", "k", "--file", "x")])
def test_local_paths_are_left_to_the_shell(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert [kind for kind, _ in offered(tmp_path, "p2pkv", *words)] == ["file"]


@pytest.mark.parametrize("command", ["download", "delete-file", "stat-file", "list-files", "ls"])
def test_names_of_the_swarm_are_those_that_the_peer_knows(tmp_path: Path, peer: FakePeer, command: str) -> None:
    peer.files = {"photos/a": b"", "photos/b": b"", "else": b""}
    expected = [("plain", "photos/a"), ("plain", "photos/b")]
    assert offered(tmp_path / "h", "p2pkv", command, "ph") == expected
    assert offered(tmp_path, "p2pkv", "--home", str(tmp_path / "h"), command, "ph") == expected
    assert offered(tmp_path / "none", "p2pkv", command, "ph") == []
