"""upload, download, list-files, delete-file: data to standard output, links too, and nothing half."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.commands.conftest import CommandLine
from tests.commands.fake_server import FakePeer


def test_upload_prints_the_link_and_download_brings_it_back(p2pkv: CommandLine, peer: FakePeer, tmp_path: Path) -> None:
    source = tmp_path / "cat.jpg"
    source.write_bytes(b"meow" * 1000)
    up = p2pkv("upload", str(source), "--to", "photos")
    assert (up.code, up.out) == (0, b"p2pkv:photos/cat.jpg\n")
    assert "3.9 KiB" in up.err
    assert "\x1b" not in up.err
    down = p2pkv("download", "photos/cat.jpg", "--to", f"{tmp_path}/new/")
    assert (down.code, down.out) == (0, b"")
    assert (tmp_path / "new" / "cat.jpg").read_bytes() == b"meow" * 1000


def test_streams_go_both_ways(p2pkv: CommandLine, peer: FakePeer) -> None:
    assert p2pkv("upload", "-", "--as", "notes", "-q", stdin=b"\x00abc").err == ""
    ran = p2pkv("download", "notes", "-")
    assert (ran.code, ran.out) == (0, b"\x00abc")
    assert p2pkv("download", "notes", "--to", "-").out == b"\x00abc"


def test_json_outcomes(p2pkv: CommandLine, peer: FakePeer, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    outcome = json.loads(p2pkv("upload", str(tmp_path / "f"), "--json", "-q").out)
    assert outcome["link"] == "p2pkv:f"
    assert json.loads(p2pkv("list-files", "--json").out)["name"] == "f"


def test_one_that_fails_stops_no_other(p2pkv: CommandLine, peer: FakePeer, tmp_path: Path) -> None:
    peer.files = {"b": b"B"}
    ran = p2pkv("download", "a", "b", "--to", str(tmp_path / "out"))
    assert ran.code == 3
    assert (tmp_path / "out" / "b").read_bytes() == b"B"
    ran = p2pkv("upload", str(tmp_path / "none"), str(tmp_path / "out" / "b"))
    assert (ran.code, ran.out) == (1, b"p2pkv:b\n")


def test_listing(p2pkv: CommandLine, peer: FakePeer) -> None:
    peer.files = {"a/one": b"1", "b": b"22"}
    assert p2pkv("list-files").out == b"a/one\nb\n"
    assert p2pkv("ls", "a/").out == b"a/one\n"
    line = p2pkv("ls", "-l", "b").out.decode()
    assert line.startswith("-rw-r--r--")
    assert line.split()[2] == "2"
    assert line.endswith(" b\n")
    assert p2pkv("delete-file", "b").code == 0
    assert p2pkv("ls").out == b"a/one\n"


def test_verbose_tells_what_each_peer_carried(p2pkv: CommandLine, peer: FakePeer, tmp_path: Path) -> None:
    peer.files["f"] = b"x" * 2048
    assert "127.0.0.1:7001" not in p2pkv("download", "f", "--to", str(tmp_path / "f")).err
    verbose = p2pkv("download", "f", "--to", str(tmp_path / "g"), "-v").err
    assert verbose.splitlines()[0].split() == ["127.0.0.1:7001", "2.0", "KiB"]
    assert p2pkv("download", "f", "--to", str(tmp_path / "h"), "-v", "-q").err == ""


def test_a_progress_bar_on_a_terminal_alone(peer: FakePeer, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 100_000)
    outer, inner = pty.openpty()
    ran = subprocess.Popen(
        [sys.executable, "-m", "p2pkv", "--home", str(tmp_path / "h"), "upload", str(tmp_path / "big")],
        stdout=subprocess.PIPE,
        stderr=inner,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(inner)
    seen = _drain(outer)
    assert ran.stdout is not None
    assert ran.stdout.read() == b"p2pkv:big\n"
    assert ran.wait() == 0
    assert b"sending big" in seen
    assert b"100%" in seen or b"%" in seen


def test_ctrl_c_ends_an_upload_with_130(peer: FakePeer, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x")
    peer.hold.clear()
    command = [sys.executable, "-m", "p2pkv", "--home", str(tmp_path / "h"), "upload", str(tmp_path / "big")]
    ran = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 20
    while not peer.asked:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ran.send_signal(signal.SIGINT)
    out, err = ran.communicate(timeout=20)
    peer.hold.set()
    assert (ran.returncode, out, err) == (130, b"", b"p2pkv: interrupted\n")


def test_stat_file_tells_the_health(p2pkv: CommandLine, peer: FakePeer) -> None:
    peer.files = {"b": b"22"}
    assert b"health:    good\n" in p2pkv("stat-file", "b").out
    peer.stored = 2
    text = p2pkv("stat-file", "b", "--chunks").out.decode()
    assert "replicas:  2 of 8" in text
    assert "p2pkv repair" in text
    assert "127.0.0.1:0, 127.0.0.1:1" in text
    assert json.loads(p2pkv("stat-file", "b", "--json").out)["healthy"] is False


def _drain(terminal: int) -> bytes:
    seen = b""
    while True:
        try:
            block = os.read(terminal, 65_536)
        except OSError:  # the last writer closed its end
            return seen
        if not block:
            return seen
        seen += block
