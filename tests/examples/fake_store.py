"""A store in memory with the API that the shell uses, and a program that runs the shell on it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from examples.shell.app import run
from p2pkv.errors import NotFoundError
from p2pkv.outcomes import FileInfo, PutOutcome, Record, TransferOutcome, TransferProgress

Progress = Callable[[TransferProgress], None]
SLOW_NAME = "slow.bin"  # a transfer of this name stands still at 70 % until it is cancelled


class FakeStore:
    """Records and files of one process, with the errors of the real one."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.records: dict[str, dict[str, bytes]] = {}

    async def put(self, key: str, value: bytes, *, name: str | None = None) -> PutOutcome:
        held = self.records.setdefault(key, {})
        held[name or f"{len(held):08}"] = value
        return PutOutcome(name or "", "v", 8, 8, 5)

    async def get(self, key: str, *, name: str | None = None) -> AsyncIterator[Record]:
        for each, value in self.records.get(key, {}).items():
            if name in (None, each):
                yield Record(each, value, len(value), "", 0.0, "v", "c")

    async def count(self, key: str) -> int:
        return len(self.records.get(key, {}))

    async def delete(self, key: str, *, name: str | None = None) -> int:
        return len(self.records.pop(key, {}))

    async def upload(
        self, path: Path, name: str | None = None, *, to: str = "", progress: Progress | None = None
    ) -> TransferOutcome:
        full = f"{to}/{name or path.name}".lstrip("/")
        content = path.read_bytes()
        await self._stand_still(full, "sending", progress)
        self.files[full] = content
        return TransferOutcome(full, "", len(content), "", 1, 1, 8, 0.5)

    async def download(self, name: str, path: Path, *, progress: Progress | None = None) -> TransferOutcome:
        if name not in self.files:
            raise NotFoundError(f"{name}: no such file in the swarm", "list-files shows what there is")
        await self._stand_still(name, "fetching", progress)
        path.write_bytes(self.files[name])
        return TransferOutcome(name, "", len(self.files[name]), "", 1, 1, 8, 0.5)

    async def list_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        for name, content in sorted(self.files.items()):
            if name.startswith(prefix):
                yield FileInfo(name, len(content), 0.0, 0o644, "file")

    async def delete_file(self, name: str, *, recursive: bool = False) -> int:
        if self.files.pop(name, None) is None:
            raise NotFoundError(f"{name}: no such file in the swarm")
        return 1

    async def _stand_still(self, name: str, phase: str, progress: Progress | None) -> None:
        if not name.endswith(SLOW_NAME):
            return
        if progress:
            progress(TransferProgress(name, "sending" if phase == "sending" else "fetching", 700, 1000))
        await asyncio.Event().wait()


def main() -> int:
    """`fake_store.py HISTORY [COMMAND]`."""
    command = sys.argv[2] if len(sys.argv) > 2 else None
    return asyncio.run(run(FakeStore(), command=command, history=Path(sys.argv[1])))


if __name__ == "__main__":
    sys.exit(main())
