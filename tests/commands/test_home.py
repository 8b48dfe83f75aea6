"""A home is private, knows its format, and always has a socket path that the system takes."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from p2pkv.errors import P2pkvError
from p2pkv.home import FORMAT, SOCKET_PATH_BYTES_MAX, Home


def test_a_new_home_is_its_owners_alone_and_carries_its_format(tmp_path: Path) -> None:
    home = Home(tmp_path / "a" / "b").prepare()
    assert home.folder.stat().st_mode & 0o777 == 0o700
    assert home.format.read_text() == f"{FORMAT}\n"
    assert home.socket == home.folder / "peer.sock"
    Home(home.folder).prepare()


def test_making_the_object_touches_nothing(tmp_path: Path) -> None:
    Home(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_home_of_the_future_is_refused_with_the_mend(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    home.format.write_text(f"{FORMAT + 1}\n")
    with pytest.raises(P2pkvError, match=f"format {FORMAT + 1}") as caught:
        home.prepare()
    assert "--home" in caught.value.mend


def test_a_damaged_stamp_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    home.format.write_text("x\n")
    with pytest.raises(P2pkvError, match="damaged"):
        home.prepare()


def test_a_file_in_place_of_the_home_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    for folder in (tmp_path / "f", tmp_path / "f" / "below"):
        with pytest.raises(P2pkvError) as caught:
            Home(folder).prepare()
        assert "--home" in caught.value.mend


@pytest.mark.parametrize("runtime", [True, False])
def test_a_long_home_gets_a_short_socket_that_clients_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: bool
) -> None:
    if runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    else:
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    home = Home(tmp_path / ("x" * 120)).prepare()
    assert len(os.fsencode(home.socket)) <= SOCKET_PATH_BYTES_MAX
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home.socket))
        try:
            monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)  # a client elsewhere has none
            assert Home(home.folder).socket == home.socket
        finally:
            home.socket.unlink()


def test_the_environment_chooses_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2PKV_HOME", str(tmp_path / "env"))
    assert Home().folder == tmp_path / "env"
    assert Home(tmp_path / "arg").folder == tmp_path / "arg"
