"""Files whose disk fills up, fails or loses power: what was not synced may be kept, torn, lost or cut off."""

from __future__ import annotations

import errno
import random
from pathlib import Path

from p2pkv.storage.files import AppendFile, Files


class FaultyFile(AppendFile):
    def __init__(self, world: FaultyFiles, path: Path, size_bytes: int) -> None:
        self._world = world
        self.path = path
        self.unsynced: list[tuple[int, int]] = []  # (offset, size) of each write
        self._end = size_bytes
        super().__init__(path, size_bytes)

    def write(self, data: bytes) -> None:
        self._world.act("write", len(data))
        self.unsynced.append((self._end, len(data)))
        self._end += len(data)
        super().write(data)

    def sync(self) -> None:
        self._world.act("sync")
        super().sync()
        self.unsynced.clear()

    def truncate(self, size_bytes: int) -> None:
        self._world.act("truncate")
        super().truncate(size_bytes)
        self._end = size_bytes


class FaultyFiles(Files):
    """`actions_left` counts down to a loss of power; `fault` is raised by the next actions of its kind."""

    def __init__(self, seed: int = 0, actions_left: int | None = None) -> None:
        self.random = random.Random(seed)
        self.actions_left = actions_left
        self.fault: tuple[str, int] | None = None  # kind of action, errno
        self.room_bytes: int | None = None  # on the disk
        self._files: list[FaultyFile] = []
        self._unsynced_names: set[Path] = set()

    def act(self, kind: str, size_bytes: int = 0) -> None:
        if self.actions_left is not None:
            self.actions_left -= 1
            if self.actions_left < 0:
                raise OSError(errno.EIO, "no power")
        if self.fault is not None and self.fault[0] == kind:
            raise OSError(self.fault[1], "as asked")
        if self.room_bytes is not None and kind == "write":
            self.room_bytes -= size_bytes
            if self.room_bytes < 0:
                raise OSError(errno.ENOSPC, "no space")

    def open_append(self, path: Path, size_bytes: int) -> AppendFile:
        self.act("open")
        if not path.exists():
            self._unsynced_names.add(path)
        file = FaultyFile(self, path, size_bytes)
        self._files.append(file)
        return file

    def unlink(self, path: Path) -> None:
        self.act("unlink")
        super().unlink(path)
        self._unsynced_names.discard(path)

    def sync_folder(self, folder: Path) -> None:
        self.act("sync")
        super().sync_folder(folder)
        self._unsynced_names = {path for path in self._unsynced_names if path.parent != folder}

    def lose_power(self) -> None:
        """Make of the real files what a disk might show afterwards."""
        for file in self._files:
            if file.path.exists():
                self._damage(file)
        for path in self._unsynced_names:
            if self.random.random() < 0.5:
                path.unlink(missing_ok=True)

    def _damage(self, file: FaultyFile) -> None:
        with file.path.open("r+b") as real:
            for offset, size_bytes in file.unsynced:
                kept = self.random.choice((0, size_bytes, self.random.randrange(size_bytes + 1)))
                real.seek(offset + kept)
                if offset + kept < file.path.stat().st_size:
                    real.write(bytes(min(size_bytes - kept, file.path.stat().st_size - offset - kept)))
            if file.unsynced and self.random.random() < 0.5:
                real.truncate(self.random.choice(file.unsynced)[0])
