"""The example shell on real peers, typed at a pseudo-terminal: what a newcomer does in the first minutes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.examples.test_shell import CONTROL_C, CONTROL_D, ROOT, TAB, WAIT_S, environment

PROMPT = r"p2pkv:[^\r\n]*\$"


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, str]]]:
    """Three peer processes, as `p2pkv --json swarm` tells of them."""
    folder = tmp_path_factory.mktemp("swarm")
    args = [sys.executable, "-m", "p2pkv", "--json", "--home", str(folder / "h"), "swarm", "3", "--dir", str(folder)]
    swarm = subprocess.Popen(args, stdout=subprocess.PIPE, env=environment(folder), text=True)
    assert swarm.stdout is not None
    try:
        yield json.loads(swarm.stdout.readline())["peers"]
    finally:
        swarm.terminate()
        swarm.communicate(timeout=60)


@pytest.fixture
def shell(peers: list[dict[str, str]], tmp_path: Path) -> Iterator[pexpect.spawn[str]]:
    child = start(tmp_path, "--home", peers[0]["home"])
    yield child
    child.close(force=True)


def start(folder: Path, *options: str) -> pexpect.spawn[str]:
    child: pexpect.spawn[str] = pexpect.spawn(
        sys.executable,
        [str(ROOT / "examples" / "shell"), *options],
        cwd=str(folder),
        env=environment(folder),
        encoding="utf-8",
        timeout=WAIT_S,
        dimensions=(50, 200),
    )
    child.expect(PROMPT)
    return child


def run(child: pexpect.spawn[str], line: str) -> str:
    child.send(line + "\r")
    child.expect_exact("\n")
    child.expect(PROMPT)
    return str(child.before)


def test_files_go_up_and_come_down_on_another_peer(
    shell: pexpect.spawn[str], peers: list[dict[str, str]], tmp_path: Path
) -> None:
    (tmp_path / "my photo.jpg").write_bytes(os.urandom(3_000_000))
    (tmp_path / "b.txt").write_bytes(b"b")
    (tmp_path / "down").mkdir()
    shell.send("upload my" + TAB)
    shell.expect_exact("'my photo.jpg'")
    shell.send("b.* --to album\r")
    shell.expect("album/my photo.jpg  3000000 bytes")
    shell.expect("album/b.txt  1 bytes")
    shell.expect(PROMPT)
    other = start(tmp_path, "--home", peers[2]["home"])
    run(other, "cd down")
    assert "album/b.txt" in run(other, "list-files album/")
    other.send("download album/my" + TAB)
    other.expect_exact("'album/my photo.jpg'")
    other.send("album/*.txt\r")
    other.expect("album/b.txt  1 bytes")
    other.expect(PROMPT)
    assert (tmp_path / "down" / "my photo.jpg").read_bytes() == (tmp_path / "my photo.jpg").read_bytes()
    assert (tmp_path / "down" / "b.txt").read_bytes() == b"b"
    assert "b.txt" in run(other, "ls")
    run(other, "delete-file -r album")
    assert "no file" in run(other, "download album/b.txt")
    other.send(CONTROL_D)
    other.expect(pexpect.EOF)
    other.close()
    assert other.exitstatus == 3


def test_ctrl_c_ends_an_upload_and_leaves_nothing(shell: pexpect.spawn[str], tmp_path: Path) -> None:
    with (tmp_path / "endless").open("wb") as file:
        file.truncate(1 << 40)  # a hole: it takes no room, and no machine is quick enough for it
    shell.send("upload endless\r")
    shell.expect("sending endless")
    shell.send(CONTROL_C)
    shell.expect(PROMPT)
    assert "endless" not in run(shell, "list-files").replace("upload endless", "")
    assert "kept" in run(shell, "put k kept") + run(shell, "get k")


def test_a_peer_of_the_shells_own_serves_where_none_runs(peers: list[dict[str, str]], tmp_path: Path) -> None:
    child = start(tmp_path, "--bootstrap", peers[1]["udp"])
    run(child, "put own 'by a guest'")
    assert "by a guest" in run(child, "get own")
    assert "1" in run(child, "count own")
    child.close(force=True)


def test_without_a_peer_the_error_says_so(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "shell"), "--home", str(tmp_path / "none"), "-c", "list-files"]
    ran = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert ran.returncode == 6
    assert "p2pkv start" in ran.stderr
    assert "Traceback" not in ran.stderr
