"""put, get, count, delete, watch, keys, where: what goes to which stream, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p2pkv.errors import IncompleteError, P2pkvError, RefusedError
from tests.commands.conftest import CommandLine
from tests.commands.fake_server import FakePeer


def test_what_was_put_is_printed_oldest_first(p2pkv: CommandLine, peer: FakePeer) -> None:
    put = p2pkv("put", "k", "one", "two")
    assert (put.code, put.out) == (0, b"")
    assert put.err.count("stored on 8 of 8 (needed 5)") == 2
    assert p2pkv("put", "k", stdin=b"three\n").code == 0
    got = p2pkv("get", "k")
    assert (got.code, got.out, got.err) == (0, b"one\ntwo\nthree\n\n", "")
    assert p2pkv("get", "k", "--reverse", "--limit", "2").out == b"three\n\ntwo\n"


def test_lines_files_and_bytes(p2pkv: CommandLine, peer: FakePeer, tmp_path: Path) -> None:
    assert p2pkv("put", "k", "--lines", "-q", stdin=b"a\n\nb").code == 0
    (tmp_path / "f").write_bytes(bytes(range(256)))
    assert p2pkv("put", "k", "--file", str(tmp_path / "f")).code == 0
    assert p2pkv("get", "k", "--raw").out == b"ab" + bytes(range(256))
    assert p2pkv("count", "k").out == b"4\n"


def test_a_key_is_any_bytes(p2pkv: CommandLine, peer: FakePeer) -> None:
    key = b"a/\xff \n%2F?".decode("utf-8", "surrogateescape")
    assert p2pkv("put", key, "v").code == 0
    assert list(peer.records) == [b"a/\xff \n%2F?"]
    assert p2pkv("get", key).out == b"v\n"
    assert p2pkv("keys").out == b"a/\xff \n%2F?\n"


def test_json_is_one_object_a_line(p2pkv: CommandLine, peer: FakePeer) -> None:
    put = p2pkv("put", "k", "v", "--json")
    outcome = json.loads(put.out)
    assert (outcome["stored"], outcome["reached"], put.err) == (8, True, "")
    peer.add(b"k", b"\xff")
    lines = [json.loads(line) for line in p2pkv("--json", "get", "k").out.splitlines()]
    assert lines[0]["value"] == "v"
    assert lines[1]["value_base64"] == "/w=="
    assert {"name", "size", "author", "time", "cursor"} <= set(lines[0])


def test_a_value_too_long_for_memory_is_streamed(p2pkv: CommandLine, peer: FakePeer) -> None:
    peer.add(b"k", None, size=1000)
    assert p2pkv("get", "k").out == b"x" * 1000 + b"\n"


def test_options_reach_the_peer(p2pkv: CommandLine, peer: FakePeer) -> None:
    p2pkv("put", "k", "v", "--name", "n", "--ttl", "10m", "--acks", "all", "--own", "--if-version", "v1")
    assert peer.asked[-1][1] == {"name": "n", "ttl": "600.0", "acks": "all", "own": "1", "if_version": "v1"}
    p2pkv("get", "k", "--prefix", "a b", "--after", "c1", "--limit", "7")
    assert peer.asked[-1][1].items() >= {"prefix": "a b", "after": "c1", "limit": "7"}.items()


def test_too_few_acknowledgements_exit_5_and_say_which_failed(p2pkv: CommandLine, peer: FakePeer) -> None:
    peer.stored = 3
    for args in (["v"], ["v", "w"]):
        ran = p2pkv("put", "k", *args)
        assert ran.code == 5
        assert "stored on 3 of 8 (needed 5) (127.0.0.1:9 silent" in ran.err
    assert json.loads(p2pkv("put", "k", "v", "--json").out)["reached"] is False


def test_an_incomplete_answer_is_printed_and_exits_5(p2pkv: CommandLine, peer: FakePeer) -> None:
    peer.add(b"k", b"one")
    peer.broken = IncompleteError("page 3 of the key: no replica answered", "try again")
    ran = p2pkv("get", "k")
    assert (ran.code, ran.out) == (5, b"one\n")
    assert ran.err == "p2pkv: page 3 of the key: no replica answered; try again\n"


@pytest.mark.parametrize(
    "args", [("get", "none"), ("get", "none", "--name", "n"), ("delete", "none"), ("where", "none")]
)
def test_nothing_there_exits_3(p2pkv: CommandLine, peer: FakePeer, args: tuple[str, ...]) -> None:
    ran = p2pkv(*args)
    assert ran.code == 3
    assert ran.err.startswith("p2pkv: ")
    assert ran.err.count("\n") == 1


def test_nothing_behind_a_cursor_is_no_failure(p2pkv: CommandLine, peer: FakePeer) -> None:
    peer.add(b"k", b"v")
    assert p2pkv("get", "k", "--after", "c000000").code == 0


def test_write_once_exits_4(p2pkv: CommandLine, peer: FakePeer) -> None:
    assert p2pkv("put", "k", "v", "--name", "n", "--once").code == 0
    ran = p2pkv("put", "k", "v", "--name", "n", "--once")
    assert (ran.code, ran.out) == (4, b"")
    report = json.loads(p2pkv("put", "k", "v", "--name", "n", "--once", "--json").err)
    assert report == {
        "error": "refused", "message": "'n' is write-once and exists", "mend": "choose another name", "exit_code": 4
    }  # fmt: skip


def test_delete_says_how_many(p2pkv: CommandLine, peer: FakePeer) -> None:
    peer.add(b"k", b"v")
    ran = p2pkv("delete", "k")
    assert (ran.code, ran.out, ran.err) == (0, b"", "deleted 1 record\n")


def test_watch_prints_and_tells_how_to_resume(p2pkv: CommandLine, peer: FakePeer) -> None:
    peer.add(b"k", b"one")
    ran = p2pkv("watch", "k")
    assert (ran.out, ran.err) == (b"one\n", "resume with --after c000000\n")


def test_where_and_trace_show_strangers_text_without_its_control_characters(p2pkv: CommandLine, peer: FakePeer) -> None:
    peer.add(b"k", b"v")
    ran = p2pkv("where", "k")
    assert ran.code == 0
    assert b"\x1b" not in ran.out
    assert b"\\x1b[31mred" in ran.out
    assert b"answered" in p2pkv("trace", "k").out
    assert b"\x1b" not in p2pkv("status").out
    assert b"127.0.0.1:9" in p2pkv("peers").out


BATCH = b"""{"key": "a", "name": "x", "value": "1"}

{"key_base64": "/w==", "name": "y", "value_base64": "/w==", "ttl": 60, "own": true}
{"key": "b", "name": "z", "delete": true}
"""


def test_a_batch_is_read_from_standard_input_or_a_file(p2pkv: CommandLine, peer: FakePeer, tmp_path: Path) -> None:
    ran = p2pkv("batch", "--acks", "all", stdin=BATCH)
    assert (ran.code, ran.out) == (0, b"")
    assert ran.err.splitlines()[2] == "b z: deleted on 8 of 8 (needed 5)"
    assert [(key, record[0].name, record[0].value) for key, record in peer.records.items()] == [
        (b"a", "x", b"1"),
        (b"\xff", "y", b"\xff"),
        (b"b", "z", b""),
    ]
    assert peer.asked[-1] == ("POST /v1/batch", {"acks": "all"})
    (tmp_path / "changes").write_bytes(BATCH)
    ran = p2pkv("--json", "batch", str(tmp_path / "changes"))
    told = json.loads(ran.out)
    assert (ran.code, told["committed"], len(told["records"])) == (0, True, 3)
    assert [record.get("key", record.get("key_base64")) for record in told["records"]] == ["a", "/w==", "b"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"not json", "line 1"),
        (b'{"key": "a", "name": "x"}', "line 1"),
        (b'{"name": "x", "value": "1"}', "line 1"),
        (b'{"key": "a", "name": "x", "value": "1", "colour": "red"}', "colour"),
        (b'{"key": "a", "name": "x", "value": "1", "once": true}', "write-once"),
    ],
)
def test_a_line_of_a_batch_that_makes_no_sense_is_named(
    p2pkv: CommandLine, peer: FakePeer, line: bytes, why: str
) -> None:
    ran = p2pkv("batch", stdin=line)
    assert ran.code == 2
    assert why in ran.err
    assert not peer.records


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RefusedError("nothing of the batch was stored: a/x: the record is write-once", "leave these out"), 4),
        (IncompleteError("it is unknown whether the batch was committed"), 5),
    ],
)
def test_a_batch_that_was_not_stored_says_so(p2pkv: CommandLine, peer: FakePeer, error: P2pkvError, code: int) -> None:
    peer.broken = error
    ran = p2pkv("batch", stdin=BATCH)
    assert (ran.code, ran.out) == (code, b"")
    assert str(error) in ran.err


def test_a_batch_without_a_peer_exits_6(p2pkv: CommandLine) -> None:
    assert p2pkv("batch", stdin=BATCH).code == 6
