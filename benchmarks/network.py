"""A network of the benchmark's own: a namespace with a loopback, in which datagrams can be made to vanish.

Needs root and the tools `ip` and `nft`; where they are missing the runs with loss are left out, and the report says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parent.parent


def fault() -> str:
    """Why there can be no namespace here; empty where there can."""
    missing = [tool for tool in ("ip", "nft") if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if os.geteuid() != 0:
        return "needs root"
    return ""


@contextmanager
def namespace() -> Iterator[list[str]]:
    """A fresh namespace with its loopback up; what to put before a command so that it runs in there."""
    name = f"p2pkv-bench-{os.getpid()}"
    _run("ip", "netns", "add", name)
    before = ["ip", "netns", "exec", name]
    try:
        _run(*before, "ip", "link", "set", "lo", "up")
        yield before
    finally:
        _run("ip", "netns", "del", name)


def inside() -> bool:
    """Does this process run in a namespace of its own?"""
    identify = subprocess.run(["ip", "netns", "identify", str(os.getpid())], capture_output=True, text=True, check=True)
    return bool(identify.stdout.strip())


def run_inside(module: str) -> NoReturn:
    """Run a module of ours with this process's own arguments in a fresh namespace, and end as it ends."""
    if reason := fault():
        raise SystemExit(f"no loss can be made here: {reason}")
    with namespace() as before:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [*before, sys.executable, "-m", module, *sys.argv[1:]]
        done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    raise SystemExit(done.returncode)


def drop_datagrams(percent: int) -> None:
    """From now on this namespace's loopback loses so many of every hundred UDP datagrams, at random.

    Never the machine's own: whatever else runs there would lose its datagrams too, for good.
    """
    if not inside():
        raise SystemExit("datagrams are dropped in a network namespace only: run this by benchmarks.run")
    rule = f"meta l4proto udp numgen random mod 100 < {percent} drop"
    chain = f"chain loss {{\ntype filter hook input priority 0;\n{rule}\n}}"
    subprocess.run(["nft", "-f", "-"], input=f"table ip bench {{\n{chain}\n}}\n", text=True, check=True)


def carry_all() -> None:
    """Lose nothing from now on."""
    subprocess.run(["nft", "delete", "table", "ip", "bench"], check=False, capture_output=True)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
