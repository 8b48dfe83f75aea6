"""Bad input gets one line that names the mend, and the right exit code; never a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p2pkv.commands import get as get_module
from tests.commands.conftest import CommandLine
from tests.commands.fake_server import FakePeer


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("get", ""), 2, "the key is empty"),
        (("get", "x" * 1025), 2, "1024 is the most"),
        (("get",), 2, "missing argument 'KEY'"),
        (("get", "k", "--limit", "0"), 2, "limit"),
        (("get", "k", "--nonsense"), 2, "no such option"),
        (("put", "temperature", "-5"), 2, "goes behind --"),
        (("gte", "k"), 2, "did you mean 'get'"),
        (("put", "k", "v", "--acks", "7"), 2, "choose 1, quorum or all"),
        (("put", "k", "v", "--ttl", "soon"), 2, "write it like 90s"),
        (("put", "k", "v", "--lines"), 2, "choose one source"),
        (("put", "k", "v", "--once"), 2, "add --name NAME"),
        (("put", "k", "v", "w", "--name", "n"), 2, "one by one"),
        (("put", "k", "--file", "/none"), 1, "/none: No such file or directory"),
        (("put", "k", "v", "--name", ""), 2, "the name is empty"),
        (("upload", "/none"), 1, "/none: No such file or directory"),
        (("upload", "-"), 2, "--as NAME"),
        (("upload", "a", "b", "--as", "n"), 2, "--to FOLDER"),
        (("download", "none"), 3, "no file 'none'"),
        (("download", "f", "--range", "5-2"), 2, "A-B"),
        (("download", "f", "--to", "/none/deep/f"), 1, "/none/deep: No such file or directory"),
        (("delete-file", "none"), 3, "no file"),
        (("list-files", "none"), 3, "no file"),
        (("start", "--listen", "nowhere"), 2, "HOST:PORT"),
        (("start", "--listen", "127.0.0.1:70000"), 2, "from 0 to 65535"),
        (("start", "--bootstrap", "127.0.0.1:0"), 2, "the port that the peer listens on"),
        (("start", "--k", "0"), 2, "from 1 to 64"),
        (("swarm", "0"), 2, "N"),
        (("completion", "cmd"), 2, "bash"),
        (("keygen", "/none/deep/key"), 1, "/none/deep/key: No such file or directory"),
    ],
)
def test_one_line_and_the_code(p2pkv: CommandLine, peer: FakePeer, args: tuple[str, ...], code: int, said: str) -> None:
    ran = p2pkv(*args)
    assert (ran.code, ran.out) == (code, b"")
    assert said.lower() in ran.err.lower()
    assert ran.err.startswith("p2pkv: ")
    assert ran.err.count("\n") == 1


def test_errors_are_json_where_json_was_asked_for(p2pkv: CommandLine, peer: FakePeer) -> None:
    for args, code in ((("get", "", "--json"), 2), (("--json", "get", "none"), 3), (("--json", "gte"), 2)):
        ran = p2pkv(*args)
        report = json.loads(ran.err)
        assert (ran.code, report["exit_code"]) == (code, code)
        assert {"error", "message", "mend"} <= set(report)


def test_no_peer_exits_6_and_names_both_ways(p2pkv: CommandLine) -> None:
    for args in (("get", "k"), ("put", "k", "v"), ("status",), ("list-files",)):
        ran = p2pkv(*args)
        assert ran.code == 6
        assert "p2pkv start" in ran.err
        assert ran.err.count("\n") == 1
    assert "--bootstrap HOST:PORT" in p2pkv("get", "k").err
    assert p2pkv("stop").code == 6


def test_a_home_of_the_future_is_refused(p2pkv: CommandLine, peer: FakePeer) -> None:
    (p2pkv.home / "format").write_text("99\n")
    for args in (("get", "k"), ("start",)):
        ran = p2pkv(*args)
        assert ran.code == 1
        assert "format 99" in ran.err


def test_a_bug_of_ours_is_one_line_unless_asked(
    p2pkv: CommandLine, peer: FakePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    peer.add(b"k", b"v")
    monkeypatch.setattr(get_module, "print_record", broken)
    ran = p2pkv("get", "k")
    assert ran.code == 1
    assert ran.err == "p2pkv: unexpected ZeroDivisionError: division by zero; run again with -vv for the traceback\n"
    assert "Traceback" in p2pkv("get", "k", "-vv").err


def test_ctrl_c_exits_130(p2pkv: CommandLine, peer: FakePeer, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    peer.add(b"k", b"v")
    monkeypatch.setattr(get_module, "print_record", interrupted)
    ran = p2pkv("get", "k")
    assert (ran.code, ran.err) == (130, "p2pkv: interrupted\n")


def test_keygen_makes_a_private_file_and_never_overwrites(p2pkv: CommandLine, tmp_path: Path) -> None:
    key = tmp_path / "swarm.key"
    assert p2pkv("keygen", str(key)).code == 0
    assert key.stat().st_mode & 0o777 == 0o600
    before = key.read_text()
    assert before.startswith("p2pkv-swarm-key ")
    assert p2pkv("keygen", str(key)).code == 4
    assert key.read_text() == before
    assert p2pkv("keygen", str(tmp_path / "other.key"), "--kind", "author").code == 0
