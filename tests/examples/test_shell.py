"""The example shell, as a person at a terminal and as a script sees it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.shell.parsing import LineError, parse, parse_unfinished, quote

ROOT = Path(__file__).parents[2]
FAKE = [sys.executable, "-m", "tests.examples.fake_store"]
WAIT_S = 20
CONTROL_C, CONTROL_D, TAB = "\x03", "\x04", "\t"


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("P2PKV_")}
    return kept | {"PYTHONPATH": str(ROOT), "HOME": str(home), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}


class Terminal:
    """The shell behind a pseudo-terminal."""

    def __init__(self, folder: Path) -> None:
        history = str(folder / ".history")
        self.child: pexpect.spawn[str] = pexpect.spawn(
            FAKE[0],
            [*FAKE[1:], history],
            cwd=str(folder),
            env=environment(folder),
            encoding="utf-8",
            timeout=WAIT_S,
            dimensions=(50, 200),
        )
        self.prompt()

    def prompt(self) -> str:
        """Wait for the next prompt; what came before it."""
        self.child.expect(r"p2pkv:[^\r\n]*\$")
        return str(self.child.before)

    def expect_drawn(self, text: str) -> None:
        """Wait until `text` stands there, however many strokes the terminal needed to draw it."""
        strokes = r"(?:\x1b\[[0-9;?]*[A-Za-z])*"
        self.child.expect(strokes.join(map(re.escape, text)))

    def type(self, text: str) -> None:
        self.child.send(text)

    def run(self, line: str) -> str:
        self.type(line + "\r")
        self.child.expect_exact("\n")  # the line's own end: what follows is output
        return self.prompt()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.child.close(force=True)


def script(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*FAKE, str(folder / ".history")],
        input=text,
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


def test_a_file_goes_up_and_comes_down_again(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "a file.txt").write_text("content")
    assert "a file.txt  7 bytes" in terminal.run("upload 'a file.txt'")
    assert "a file.txt" in terminal.run("list-files")
    (tmp_path / "down").mkdir()
    terminal.run("cd down")
    assert str(tmp_path / "down") in terminal.run("pwd")
    terminal.run('download "a file.txt"')
    assert (tmp_path / "down" / "a file.txt").read_text() == "content"


def test_errors_are_those_of_a_shell(terminal: Terminal) -> None:
    assert "upload: x: No such file or directory" in terminal.run("upload x")
    assert "cd: nowhere: No such file or directory" in terminal.run("cd nowhere")
    assert "frobnicate: command not found" in terminal.run("frobnicate")
    assert "download: nope: no such file in the swarm" in terminal.run("download nope")
    assert "usage: put" in terminal.run("put")
    assert "unfinished" in terminal.run("put 'key")


def test_ctrl_c_cancels_the_command_and_not_the_shell(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "slow.bin").write_bytes(bytes(1000))
    terminal.type("upload slow.bin\r")
    terminal.child.expect("70%")
    terminal.type(CONTROL_C)
    terminal.prompt()
    assert "slow.bin" not in terminal.run("list-files")
    assert "kept" in terminal.run("put k kept") + terminal.run("get k")


def test_ctrl_c_at_the_prompt_drops_the_line_and_ctrl_d_leaves(terminal: Terminal) -> None:
    terminal.type("put k never" + CONTROL_C + "get k\r")
    terminal.child.expect("get: k: No such record")
    terminal.prompt()
    terminal.type(CONTROL_D)
    terminal.child.expect(pexpect.EOF)
    terminal.child.close()
    assert terminal.child.exitstatus == 3  # of the last command, as in sh


def test_tab_completes_commands_paths_and_names_in_the_swarm(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "my photo.jpg").write_bytes(b"jpg")
    terminal.type("upl" + TAB)
    terminal.expect_drawn("upload")
    terminal.type("my" + TAB)
    terminal.expect_drawn("'my photo.jpg'")
    terminal.type("--as remote-name.jpg\r")
    terminal.child.expect("remote-name.jpg  3 bytes")
    terminal.prompt()
    terminal.type("download rem" + TAB)
    terminal.expect_drawn("download remote-name.jpg")
    terminal.type("\r")
    terminal.child.expect("remote-name.jpg  3 bytes")
    assert (tmp_path / "remote-name.jpg").read_bytes() == b"jpg"


def test_history_outlives_the_session(tmp_path: Path) -> None:
    first = Terminal(tmp_path)
    first.run("put k remembered")
    first.type(CONTROL_D)
    first.child.expect(pexpect.EOF)
    second = Terminal(tmp_path)
    second.type("\x1b[A")
    second.expect_drawn("put k remembered")
    second.child.close(force=True)


def test_a_script_goes_on_after_an_error_and_returns_the_last_status(tmp_path: Path) -> None:
    done = script(tmp_path, "upload missing\nput k v1 'v 2' # two\n\nget k\ncount k\ndelete-file gone\n")
    assert done.stdout == "v1\nv 2\n2\n"
    assert done.stderr.splitlines() == [
        "upload: missing: No such file or directory",
        "delete-file: gone: no such file in the swarm",
    ]
    assert done.returncode == 3


def test_one_failed_file_does_not_keep_the_others_back(tmp_path: Path) -> None:
    (tmp_path / "good").write_text("1")
    done = script(tmp_path, "upload missing good\nlist-files\nexit 7\nput never reached\n")
    assert "good" in done.stdout.splitlines()
    assert "upload: missing: No such file or directory" in done.stderr
    assert done.returncode == 7


def test_patterns_expand_here_and_in_the_swarm_but_not_in_quotes(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "*.log", "c.log"):
        (tmp_path / name).write_text(name)
    lines = "upload *.txt '*.log' --to logs", "list-files", "cd down", "download logs/?.txt", "ls", "put k *", "get k"
    (tmp_path / "down").mkdir()
    done = script(tmp_path, "\n".join(lines) + "\n")
    assert [line for line in done.stdout.splitlines() if " bytes" not in line] == [
        *("logs/*.log", "logs/a.txt", "logs/b.txt"),
        *("a.txt", "b.txt"),
        "*",
    ]


def test_a_file_name_is_never_given_to_a_shell(tmp_path: Path) -> None:
    name = "$(touch owned); touch owned; `touch owned`"
    (tmp_path / name).write_text("harmless")
    done = script(tmp_path, f"upload {quote(name)}\ndownload {quote(name)} --to copy\n")
    assert done.returncode == 0
    assert (tmp_path / "copy").read_text() == "harmless"
    assert not (tmp_path / "owned").exists()


def test_one_command_as_an_argument(tmp_path: Path) -> None:
    done = subprocess.run(
        [*FAKE, str(tmp_path / "h"), "get nothing"],
        env=environment(tmp_path),
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 3


def test_every_command_has_a_manual(tmp_path: Path) -> None:
    named = [line.split()[0] for line in script(tmp_path, "help\n").stdout.splitlines()]
    assert {"cd", "ls", "pwd", "upload", "download", "list-files", "delete-file", "put", "get", "man"} <= set(named)
    manuals = script(tmp_path, "".join(f"man {name}\n" for name in named)).stdout
    assert all(f"usage: {name}" in manuals for name in named)


def test_what_strangers_stored_cannot_steer_the_terminal(tmp_path: Path) -> None:
    done = script(tmp_path, "put k '\x1b[2J'\nget k\n")
    assert done.stdout == "\\x1b[2J\n"


@given(st.lists(st.text()))
def test_quoted_words_are_read_back_unchanged(texts: list[str]) -> None:
    words = parse(" ".join(map(quote, texts)))
    assert [word.text for word in words] == texts
    assert not any(word.is_pattern for word in words)


@given(st.text(alphabet="ab '\"\\*~#/"))
def test_any_line_is_parsed_or_refused(line: str) -> None:
    before, word = parse_unfinished(line)
    assert 0 <= word.start <= len(line)
    try:
        texts = [each.text for each in parse(line)]
    except LineError:
        return
    assert texts in ([*before, word.text], before)
