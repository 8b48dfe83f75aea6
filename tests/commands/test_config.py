"""Settings: flag before environment before file before default, and `config show` says which it was."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2pkv.commands.root import root
from p2pkv.config import SETTINGS, load
from p2pkv.errors import InvalidError
from tests.commands.conftest import CommandLine

VALUES = st.integers(1, 64)


def _shown(args: list[str]) -> dict[str, Any]:
    result = CliRunner().invoke(root, ["--json", *args])
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flag=st.none() | VALUES, environment=st.none() | VALUES, file=st.none() | VALUES, after=st.booleans())
def test_precedence(tmp_path: Path, flag: int | None, environment: int | None, file: int | None, after: bool) -> None:
    (tmp_path / "config.toml").write_text("" if file is None else f"k = {file}\n")
    home = ["--home", str(tmp_path)]
    args = ["config", "show", *home] if after else [*home, "config", "show"]
    args += [] if flag is None else ["--k", str(flag)]
    with patch.dict(os.environ, {} if environment is None else {"P2PKV_K": str(environment)}):
        row = _shown(args)["k"]
    ways = [("flag", flag), ("environment", environment), ("file", file), ("default", 8)]
    source, value = next((source, value) for source, value in ways if value is not None)
    assert (row["source"], row["value"]) == (source, value)


def test_every_setting_has_all_its_names(p2pkv: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = json.loads(p2pkv("config", "show", "--json").out)
    assert set(SETTINGS) < set(rows)
    monkeypatch.setenv("P2PKV_BOOTSTRAP", "a:1, b:2 [::1]:3")
    monkeypatch.setenv("P2PKV_QUOTA", "10GiB")
    rows = json.loads(p2pkv("config", "show", "--json").out)
    assert rows["bootstrap"]["value"] == ["a:1", "b:2", "[::1]:3"]
    assert rows["quota"] == {"value": 10 << 30, "source": "environment", "variable": "P2PKV_QUOTA"}


def test_global_options_before_or_after(p2pkv: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    assert json.loads(p2pkv("config", "show", "--json", "--home", other).out)["home"]["value"] == other
    monkeypatch.setenv("P2PKV_JSON", "1")
    assert json.loads(p2pkv("config", "show").out)["json"]["source"] == "environment"


def test_the_file_sets_global_options_too(p2pkv: CommandLine) -> None:
    p2pkv.home.mkdir()
    (p2pkv.home / "config.toml").write_text('json = true\nlisten = ["127.0.0.1:1", "[::1]:2"]\nswarm-key = "x"\n')
    rows = json.loads(p2pkv("config", "show").out)
    assert rows["listen"]["value"] == ["127.0.0.1:1", "[::1]:2"]
    assert rows["swarm-key"] == {"value": "x", "source": "file", "file": str(p2pkv.home / "config.toml")}


def test_text_output(p2pkv: CommandLine) -> None:
    lines = p2pkv("config", "show", "--acks", "all").out.decode().splitlines()
    assert any(line.split() == ["acks", "all", "(flag)"] for line in lines)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('\nbootstrp = "a:1"\n', 2, "did you mean 'bootstrap'"),
        ("k = 4\nk = 5\n", 2, "overwrite"),
        ("k = 4\nquota = 10GiB\n", 2, "write each setting as"),
        ('acks = "1"\n\nttl = "soon"\n', 3, "write it like 90s"),
        ("json = 1\n", 1, "write true or false"),
        ("[start]\nk = 4\n", 1, "unknown setting 'start'"),
        ("k = [4]\n", 1, "one text or number"),
        ("listen = [true]\n", 1, "a list of texts"),
        ('k = "4', 1, "write each setting as"),
    ],
)
def test_a_bad_file_names_the_line_and_the_mend(p2pkv: CommandLine, text: str, line: int, said: str) -> None:
    p2pkv.home.mkdir()
    (p2pkv.home / "config.toml").write_text(text)
    ran = p2pkv("config", "show")
    assert ran.code == 2
    assert f"config.toml line {line}: " in ran.err
    assert said in ran.err
    assert ran.err.count("\n") == 1


@given(st.binary(max_size=200))
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(raw)
    try:
        load(path)
    except InvalidError as error:
        assert error.mend


def test_a_bad_value_names_the_variable_that_it_came_from(p2pkv: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2PKV_TTL", "xx")
    ran = p2pkv("put", "k", "v")
    assert ran.code == 2
    assert "'--ttl' (environment variable P2PKV_TTL): not a duration: 'xx'" in ran.err
    assert "environment" not in p2pkv("put", "k", "v", "--ttl", "yy").err
