"""start, stop, swarm and short-lived peers, as processes, with a quick stand-in for the peer itself."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

STAND_IN = Path(__file__).parent / "stand_in"
ROOT = Path(__file__).parents[2]
READY = re.compile(r"ready node=[0-9a-f]{40} udp=127\.0\.0\.1:(\d+) http=(\S+) home=(\S+)\n")
DEADLINE_S = 30.0
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `p2pkv ARGS`; every process is gone at the end."""
    children: list[subprocess.Popen[str]] = []

    def begin(*args: str, **environment: str) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(STAND_IN), str(ROOT)])
        child = subprocess.Popen(
            [sys.executable, "-m", "p2pkv", *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "QUICK_PEER_IMPATIENT": "1", **environment},
        )
        children.append(child)
        return child

    yield begin
    for child in children:
        if child.poll() is None:
            child.kill()
        child.communicate()


def _peer(start: Start, home: Path, *args: str, **environment: str) -> tuple[subprocess.Popen[str], re.Match[str]]:
    options = ["--listen", "127.0.0.1:0", "--http", "off", *args]
    child = start("--home", str(home), "start", *options, **environment)
    assert child.stdout is not None
    ready = READY.fullmatch(child.stdout.readline())
    assert ready is not None
    return child, ready


def _end(child: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = child.communicate(timeout=DEADLINE_S)
    return child.returncode, out, err


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_gracefully(start: Start, tmp_path: Path, number: int) -> None:
    child, ready = _peer(start, tmp_path / "h", "--http", "127.0.0.1:0")
    assert ready[2].startswith("http://127.0.0.1:")
    assert ready[3] == str(tmp_path / "h")
    child.send_signal(number)
    assert _end(child) == (0, "", "")
    assert not (tmp_path / "h" / "peer.sock").exists()
    assert not (tmp_path / "h" / "pid").exists()
    assert "stopping" in (tmp_path / "h" / "log").read_text()


def test_a_second_signal_ends_it_at_once(start: Start, tmp_path: Path) -> None:
    child, _ = _peer(start, tmp_path / "h", QUICK_PEER_SLOW_STOP="60")
    child.terminate()
    _until(lambda: "stopping" in (tmp_path / "h" / "log").read_text())
    child.terminate()
    assert _end(child)[0] == 128 + signal.SIGTERM


def test_commands_reach_it_and_stop_ends_it(start: Start, tmp_path: Path) -> None:
    child, _ = _peer(start, tmp_path / "h")
    home = ["--home", str(tmp_path / "h")]
    assert _end(start(*home, "put", "k", "v", "-q")) == (0, "", "")
    assert _end(start(*home, "get", "k")) == (0, "v\n", "")
    code, out, _ = _end(start(*home, "stop", "--json", "-q"))
    assert (code, json.loads(out)) == (0, {"stopped": True, "pid": child.pid})
    assert child.poll() == 0
    assert _end(start(*home, "stop"))[0] == 6


def test_stop_gives_up_in_time_unless_it_may_kill(start: Start, tmp_path: Path) -> None:
    _peer(start, tmp_path / "h", QUICK_PEER_SLOW_STOP="60")
    stop = ["--home", str(tmp_path / "h"), "stop", "--wait", "0.2s"]
    code, _, err = _end(start(*stop))
    assert code == 1
    assert "still stopping" in err
    child, _ = _peer(start, tmp_path / "h2", QUICK_PEER_SLOW_STOP="60")
    assert _end(start("--home", str(tmp_path / "h2"), "stop", "--wait", "0.2s", "--kill"))[0] == 0
    assert child.wait(DEADLINE_S) == -signal.SIGKILL


def test_json_ready_line_and_systemd(start: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(DEADLINE_S)
        args = ["start", "--json", "--home", str(tmp_path / "h"), "--listen", "127.0.0.1:0", "--http", "off"]
        child = start(*args, NOTIFY_SOCKET=str(tmp_path / "notify"))
        assert child.stdout is not None
        entry = json.loads(child.stdout.readline())
        assert entry["addresses"] == [entry["udp"]]
        assert {"node", "udp", "http", "home"} <= set(entry)
        assert manager.recv(100) == b"READY=1"
        child.terminate()
        assert manager.recv(100) == b"STOPPING=1"
    assert _end(child)[0] == 0


def test_a_port_in_use_is_one_line_with_the_mend(start: Start, tmp_path: Path) -> None:
    _, ready = _peer(start, tmp_path / "a")
    args = ["--home", str(tmp_path / "b"), "start", "--listen", f"127.0.0.1:{ready[1]}", "--http", "off"]
    code, out, err = _end(start(*args))
    assert (code, out) == (1, "")
    assert re.fullmatch(r"p2pkv: .*in use.*; .*--listen.*\n", err)


def test_a_home_in_use_is_one_line_with_the_mend(start: Start, tmp_path: Path) -> None:
    _peer(start, tmp_path / "a")
    args = ["--home", str(tmp_path / "a"), "start", "--listen", "127.0.0.1:0", "--http", "off"]
    code, out, err = _end(start(*args))
    assert (code, out) == (1, "")
    assert re.fullmatch(r"p2pkv: .*; .*--home.*\n", err)


def test_a_silent_bootstrap_is_a_warning_and_no_end(start: Start, tmp_path: Path) -> None:
    child, _ = _peer(start, tmp_path / "h", "--bootstrap", "127.0.0.1:9")
    assert child.stderr is not None
    line = child.stderr.readline()
    assert "127.0.0.1:9; still trying" in line
    assert child.poll() is None


def test_detach_returns_when_it_serves(start: Start, tmp_path: Path) -> None:
    home = ["--home", str(tmp_path / "h")]
    options = ["--listen", "127.0.0.1:0", "--http", "off", "--detach"]
    code, out, err = _end(start(*home, "start", *options))
    try:
        assert (code, err) == (0, "")
        assert READY.fullmatch(out)
        assert _end(start(*home, "status"))[0] == 0
        code, out, err = _end(start(*home, "start", *options))
        assert (code, out) == (1, "")
        assert re.fullmatch(r"p2pkv: the peer did not start: .*; .*\n", err)
    finally:
        assert _end(start(*home, "stop"))[0] == 0


def test_without_a_peer_a_bootstrap_makes_one_of_its_own(start: Start, tmp_path: Path) -> None:
    _, ready = _peer(start, tmp_path / "h")
    elsewhere = ["--home", str(tmp_path / "none"), "put", "k", "v", "--bootstrap"]
    code, out, err = _end(start(*elsewhere, f"127.0.0.1:{ready[1]}"))
    assert (code, out) == (0, "")
    assert "stored on" in err
    assert not (tmp_path / "none").exists()
    code, out, err = _end(start(*elsewhere, "127.0.0.1:9"))
    assert (code, out) == (6, "")
    assert re.fullmatch(r"p2pkv: no bootstrap peer answers: 127\.0\.0\.1:9; .*\n", err)


def test_ctrl_c_while_it_connects_ends_it_at_once(start: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.settimeout(DEADLINE_S)
        args = ["--home", str(tmp_path), "get", "k", "--bootstrap", f"127.0.0.1:{silent.getsockname()[1]}"]
        child = start(*args, QUICK_PEER_IMPATIENT="")
        assert silent.recv(100) == b"ping"
        begun = time.monotonic()
        child.send_signal(signal.SIGINT)
        assert _end(child) == (130, "", "p2pkv: interrupted\n")
        assert time.monotonic() - begun < 5


def test_a_swarm_serves_and_ends_with_its_parent(start: Start, tmp_path: Path) -> None:
    swarm = start("swarm", "3", "--dir", str(tmp_path), "--json")
    assert swarm.stdout is not None
    peers = json.loads(swarm.stdout.readline())["peers"]
    assert [Path(peer["home"]).name for peer in peers] == ["1", "2", "3"]
    assert _end(start("--home", peers[2]["home"], "status"))[0] == 0
    os.kill(peers[1]["pid"], signal.SIGKILL)
    assert swarm.stderr is not None
    assert any(line == "peer 2 ended (SIGKILL)\n" for line in swarm.stderr)
    assert _end(start("--home", peers[2]["home"], "status"))[0] == 0
    swarm.send_signal(signal.SIGINT)
    assert _end(swarm)[0] == 0
    assert not any((tmp_path / name / "peer.sock").exists() for name in "13")


def test_no_peer_of_a_swarm_outlives_a_killed_parent(start: Start, tmp_path: Path) -> None:
    swarm = start("swarm", "2", "--dir", str(tmp_path), "--json")
    assert swarm.stdout is not None
    assert swarm.stdout.readline()
    swarm.kill()
    _until(lambda: not any((tmp_path / name / "peer.sock").exists() for name in "12"))


def test_a_reader_that_leaves_is_no_error(start: Start, tmp_path: Path) -> None:
    _peer(start, tmp_path / "h")
    home = ["--home", str(tmp_path / "h")]
    lines = start(*home, "put", "k", "--lines", "-q")
    lines.communicate("".join(f"{'x' * 100} {number}\n" for number in range(5000)), timeout=DEADLINE_S)
    reader = start(*home, "get", "k")
    assert reader.stdout is not None
    assert reader.stdout.readline()
    reader.stdout.close()
    assert reader.stderr is not None
    assert reader.stderr.read() == ""
    assert reader.wait(DEADLINE_S) == 141
