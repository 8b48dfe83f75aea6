"""Processes that carry out orders: one JSON object a line in, one JSON object a line out. Both ends of the pipe.

Owns starting, asking and killing them, and what the system tells of their time and memory. Knows nothing of peers.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

ANSWER_BYTES_MAX = 16 << 20
START_S_MAX = 120.0

T = TypeVar("T")
Answer = dict[str, Any]
Order = Callable[..., Awaitable[Answer]]


class Worker:
    """The parent's end."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def hear(self) -> Any:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise SystemExit("a process of the benchmark ended before its time")
        return json.loads(line)

    async def ask(self, order: str, **arguments: Any) -> Answer:
        """Have an order carried out; what it returned."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([order, arguments]).encode() + b"\n")
        answer: Answer = await self.hear()
        return answer

    def cpu_s(self) -> float:
        """The processor time that the process has taken; 0 where the system does not tell."""
        stat = Path(f"/proc/{self._process.pid}/stat")
        if not stat.exists():
            return 0.0
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """SIGKILL: no farewell, nothing written."""
        self._process.kill()


@asynccontextmanager
async def worker(module: str, *arguments: object) -> AsyncIterator[Worker]:
    """A process that runs a module; it is gone when the block ends."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=ANSWER_BYTES_MAX)
    try:
        yield Worker(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


# --- the child's end ---


async def serve(hello: Any, orders: dict[str, Order]) -> None:
    """Say hello, then carry out orders until the parent closes the pipe."""
    reader = asyncio.StreamReader(ANSWER_BYTES_MAX)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print(json.dumps(hello), flush=True)
    while line := await reader.readline():
        order, arguments = json.loads(line)
        print(json.dumps(await orders[order](**arguments)), flush=True)


def run(work: Coroutine[Any, Any, T]) -> T:
    """On the event loop that p2pkv itself would choose."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)


def peak_mb() -> float:
    """The most memory that this process ever had. Not `ru_maxrss`: that counts what the parent had when it forked."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) / 1024, 1)
    return float("nan")
