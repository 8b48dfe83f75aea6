"""Every command has help that ends with its exit codes and an example, and loads nothing that it does not need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from p2pkv.commands.exits import MEANINGS
from p2pkv.commands.root import ALIASES, TABLE, root
from p2pkv.config import env_name
from tests.commands.conftest import CommandLine
from tests.commands.fake_server import FakePeer

HEAVY = {"asyncio", "aiohttp", "kademlia", "rich", "cryptography", "uvloop", "http.client", "platformdirs", "logging"}


def _leaves() -> list[tuple[str, ...]]:
    return [("config", "show") if name == "config" else (name,) for name in TABLE]


@pytest.mark.parametrize("path", _leaves(), ids=" ".join)
def test_help_ends_with_exit_codes_and_an_example(p2pkv: CommandLine, path: tuple[str, ...]) -> None:
    ran = p2pkv(*path, "--help")
    assert ran.code == 0
    head, _, tail = ran.out.decode().partition("Exit codes:\n")
    assert head.startswith(f"Usage: p2pkv {' '.join(path)} ")
    codes, _, example = tail.partition("Example:\n")
    assert next(line.split()[0] for line in codes.splitlines() if line.strip()) == "0"
    assert MEANINGS[0] in codes
    assert "p2pkv " in example


@pytest.mark.parametrize("path", _leaves(), ids=" ".join)
def test_every_option_has_its_variable(path: tuple[str, ...]) -> None:
    context = click.Context(root)
    found = root.get_command(context, path[0])
    if isinstance(found, click.Group):
        found = found.get_command(context, path[1])
    assert found is not None
    for param in found.params:
        if isinstance(param, click.Option) and param.name not in {"detached", "with_parent"}:
            long = next(name for name in param.opts if name.startswith("--"))
            assert param.envvar == env_name(long)


def test_the_group_lists_every_command(p2pkv: CommandLine) -> None:
    text = p2pkv("--help").out.decode()
    assert all(f"  {name} " in text for name in TABLE)
    assert set(ALIASES.values()) <= set(TABLE)
    assert b"Usage: p2pkv" in p2pkv("--help").out


def test_version(p2pkv: CommandLine) -> None:
    assert p2pkv("--version").out.startswith(b"p2pkv 0.")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(p2pkv: CommandLine, shell: str) -> None:
    assert b"_P2PKV_COMPLETE" in p2pkv("completion", shell).out


def test_completion_completes(tmp_path: Path) -> None:
    environment = {**os.environ, "_P2PKV_COMPLETE": "bash_complete", "COMP_WORDS": "p2pkv list", "COMP_CWORD": "1"}
    ran = subprocess.run([sys.executable, "-m", "p2pkv"], env=environment, capture_output=True, check=False)
    assert b"list-files" in ran.stdout


_PROBE = """
import sys
from p2pkv.commands.run import run
code = run(sys.argv[1:])
loaded = set(sys.modules) & {heavy!r}
sys.exit(f"loaded {{sorted(loaded)}}" if loaded else code)
"""


@pytest.mark.parametrize("args", [("get", "k"), ("put", "k", "v"), ("list-files",), ("--help",), ("get", "--help")])
def test_a_command_loads_nothing_heavy(peer: FakePeer, tmp_path: Path, args: tuple[str, ...]) -> None:
    peer.add(b"k", b"v")
    script = _PROBE.format(heavy=HEAVY)
    command = [sys.executable, "-c", script, "--home", str(tmp_path / "h"), *args]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("args", [("get", "k"), ("--help",), ("config", "show")])
def test_an_output_that_takes_nothing_is_one_line(peer: FakePeer, tmp_path: Path, args: tuple[str, ...]) -> None:
    peer.add(b"k", b"v")
    command = [sys.executable, "-m", "p2pkv", "--home", str(tmp_path / "h"), *args]
    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (1, "p2pkv: No space left on device; free some space, or write elsewhere\n")
