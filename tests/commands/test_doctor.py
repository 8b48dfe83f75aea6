"""doctor, verify, repair and status: what is wrong, and the mend for it."""

from __future__ import annotations

import json
import socket

import pytest

from p2pkv.commands import checkups
from p2pkv.errors import P2pkvError
from p2pkv.outcomes import Sighting
from tests.commands.conftest import CommandLine
from tests.commands.fake_server import FakePeer


def test_a_port_in_use_fails_with_its_mend(p2pkv: CommandLine) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ran = p2pkv("doctor", "--listen", address, "--http", "off")
        assert ran.code == 1
        line = next(line for line in ran.out.decode().splitlines() if line.startswith("fail"))
        assert address in line
        assert "--listen" in line
    assert p2pkv("doctor", "--listen", address, "--http", "off").code == 0


def test_each_check_is_an_object_with_json(p2pkv: CommandLine) -> None:
    ran = p2pkv("--json", "doctor", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
    found = [json.loads(line) for line in ran.out.splitlines()]
    assert {entry["name"] for entry in found} >= {"home", "disk", "clock", "buffers", "udp", "http"}
    assert all(entry["mend"] for entry in found if entry["level"] != "ok")


def test_nothing_is_left_behind(p2pkv: CommandLine) -> None:
    p2pkv("doctor", "--listen", "127.0.0.1:0", "--http", "off")
    assert not p2pkv.home.exists()


def test_a_running_peer_is_asked_in_place_of_its_ports(p2pkv: CommandLine, peer: FakePeer) -> None:
    ran = p2pkv("doctor")
    assert ran.code == 0
    assert "warn  peer: the clock \\x1b[2Jjumps" in ran.out.decode()
    assert "udp" not in ran.out.decode()


@pytest.mark.parametrize(("free", "level"), [(1 << 40, "ok"), (1 << 29, "warn"), (1 << 20, "fail")])
def test_a_full_disk(p2pkv: CommandLine, monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    monkeypatch.setattr(checkups.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    ran = p2pkv("doctor", "--listen", "127.0.0.1:0", "--http", "off", "--json")
    disk = next(entry for entry in map(json.loads, ran.out.splitlines()) if entry["name"] == "disk")
    assert disk["level"] == level
    assert ran.code == (1 if level == "fail" else 0)


def test_a_clock_before_this_program_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkups.time, "time", lambda: 1_000_000.0)
    assert checkups.clock().level == "fail"


def test_damage_exits_1_and_names_the_mend(p2pkv: CommandLine, peer: FakePeer) -> None:
    assert p2pkv("verify").code == 0
    peer.broken = P2pkvError("damage")
    ran = p2pkv("verify", "--json")
    assert ran.code == 1
    assert json.loads(ran.out)["chunks_damaged"] == ["ee" * 32]
    assert "p2pkv repair" in ran.err


def test_repair_and_status(p2pkv: CommandLine, peer: FakePeer) -> None:
    assert p2pkv("repair").out == b"records sent: 0\n"
    assert json.loads(p2pkv("status", "--json").out)["contacts"] == 3
    text = p2pkv("status").out.decode()
    assert "3 contacts, about 4 peers" in text
    assert "up:        1m1s" in text


@pytest.mark.parametrize(
    ("contact", "seen", "level", "says"),
    [
        ("127.0.0.1:9", "127.0.0.1:8468", "ok", "no contact beyond this machine"),
        ("192.0.2.7:9", "198.51.100.1:8468", "ok", "198.51.100.1:8468"),
        ("192.0.2.7:9", "198.51.100.1:40001", "warn", "--advertise"),
    ],
)
def test_the_outside_view_is_told(
    p2pkv: CommandLine, peer: FakePeer, contact: str, seen: str, level: str, says: str
) -> None:
    peer.sightings = [Sighting("ab" * 20, contact, seen)]
    lines = p2pkv("doctor").out.decode().splitlines()
    (line,) = [line for line in lines if " outside: " in line]
    assert line.startswith(level)
    assert says in line
