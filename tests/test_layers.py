"""Imports go only downward: a module of one layer names no module of a layer above it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "p2pkv"

# From the ground up. A module may import from its own layer and from those before it.
LAYERS = [
    {"version", "ids", "limits", "errors", "outcomes", "units"},
    {"wire"},
    {"core"},
    {"messages"},
    {"storage"},
    {"swarm"},
    {"files"},
    {"home", "config"},
    {"translation", "peer_events", "read_ahead"},
    {"peer_records", "peer_files"},
    {"peer"},
    {"gateway"},
    {"client"},
    {"simulation"},
    {"real_swarm"},
    {"testing"},
    {"commands"},
    {"__init__", "__main__"},
]
LIBRARY_HOMES = {"kademlia": {"swarm"}, "rpcudp": {"swarm"}, "click": {"commands"}, "aiohttp": {"gateway", "client"}}
NOT_IN_CORE = {"asyncio", "socket", "time", "random", "os", "pathlib", "threading"}


def floor_of(layer: str) -> int:
    for floor, layers in enumerate(LAYERS):
        if layer in layers:
            return floor
    raise AssertionError(f"p2pkv/{layer} belongs to no layer: name it in LAYERS and in docs/design.md")


def layer_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Every module that a file names in an import at its top level or in a function, type checking aside."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            if node.module == "p2pkv":
                names.update(f"p2pkv.{alias.name}" for alias in node.names)
    return names


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downward(path: Path) -> None:
    floor = floor_of(layer_of(path))
    for name in imports_of(path):
        if name.startswith("p2pkv."):
            assert floor_of(name.split(".")[1]) <= floor, f"{path.name} imports {name}, which lies above it"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_libraries_stay_in_their_layers(path: Path) -> None:
    layer = layer_of(path)
    roots = {name.split(".")[0] for name in imports_of(path)}
    for library, homes in LIBRARY_HOMES.items():
        assert library not in roots or layer in homes, f"{path.name} imports {library}"
    if layer == "core":
        assert not roots & NOT_IN_CORE, f"{path.name} does IO or reads a clock: {roots & NOT_IN_CORE}"
