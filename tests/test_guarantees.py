"""Every promise names the test that checks it, and that test exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "guarantees.md").read_text()
PROMISE = re.compile(r"^\| (?!promise|---)(.+) \| (.+) \|$", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def functions_of(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_promise_names_a_test() -> None:
    promises = PROMISE.findall(DOCUMENT)
    assert len(promises) > 20
    assert [promise for promise, checked in promises if not TEST.search(checked)] == []


def test_every_test_that_is_named_exists() -> None:
    named = TEST.findall(DOCUMENT)
    missing = [f"{path}::{name}" for path, name in named if name not in functions_of(ROOT / path)]
    assert not missing
