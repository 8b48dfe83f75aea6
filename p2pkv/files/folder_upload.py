"""A whole local folder on its way into the swarm: many files at once.

Symbolic links travel as links and are never followed; special files are refused by name.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import msgspec

from p2pkv.core.manifest import FileMeta, Kind
from p2pkv.files import names
from p2pkv.files.concurrency import Job, Offload
from p2pkv.files.folders import Tally, run_all
from p2pkv.files.progress import Meter
from p2pkv.files.source import check_regular, local_error
from p2pkv.files.upload import Uploader, UploadOptions


class Found(msgspec.Struct, frozen=True):
    """Something of a local folder. `place` is its full name in the swarm."""

    path: Path
    place: str
    stat: os.stat_result


class FolderUpload:
    """One local folder on its way into the swarm, as the folder `place`."""

    def __init__(self, uploader: Uploader, root: Path, place: str, options: UploadOptions, meter: Meter) -> None:
        self._uploader = uploader
        self._root = root
        self._place = place
        self._options = options
        self._meter = meter
        self.tally = Tally(meter)

    async def run(self) -> None:
        await run_all(self._jobs())

    async def _jobs(self) -> AsyncGenerator[Job[None], None]:
        async for found in walk(self._root, self._place, self._uploader.offload, self.tally):
            yield self._job(found)

    def _job(self, found: Found) -> Job[None]:
        async def attempt() -> None:
            await self.tally.attempt(found.place, lambda: self._carry(found))

        return attempt

    async def _carry(self, found: Found) -> None:
        mode = found.stat.st_mode
        if stat.S_ISDIR(mode):
            await self._folder(found)
        elif stat.S_ISLNK(mode):
            await self._link(found)
        else:
            check_regular(found.path, found.stat)
            await self._file(found)

    async def _folder(self, found: Found) -> None:
        meta = FileMeta(Kind.FOLDER, found.stat.st_mtime_ns, found.stat.st_mode & 0o7777)
        await self._uploader.namespace.put_folder(names.check_folder(found.place), meta, acks=self._options.acks)
        self.tally.folders += 1

    async def _link(self, found: Found) -> None:
        place = names.split(found.place)
        try:
            target = str(await self._uploader.offload(found.path.readlink))
        except OSError as error:
            raise local_error(found.path, error) from None
        await self._uploader.symlink(target, found.stat.st_mtime_ns, place, self._options)
        self.tally.links += 1

    async def _file(self, found: Found) -> None:
        self._meter.total = (self._meter.total or 0) + found.stat.st_size
        place = names.split(found.place)
        outcome = await self._uploader.file(found.path, place, self._options, self._meter, follow=False)
        self.tally.files += 1
        self.tally.size += outcome.size
        self.tally.coded(outcome)


async def walk(root: Path, place: str, offload: Offload, tally: Tally) -> AsyncIterator[Found]:
    """A folder and all within, folders before what they hold, sorted. What cannot be read is noted as failed."""
    waiting = [(root, place)]
    while waiting:
        folder, at = waiting.pop()
        try:
            own, inside = await offload(_scan, folder)
        except OSError as error:
            tally.fail(at, str(local_error(folder, error)))
            continue
        yield Found(folder, at, own)
        below: list[tuple[Path, str]] = []
        for path, found in inside:
            inner = names.join(at, path.name)
            if stat.S_ISDIR(found.st_mode):
                below.append((path, inner))
            else:
                yield Found(path, inner, found)
        waiting.extend(reversed(below))


def _scan(folder: Path) -> tuple[os.stat_result, list[tuple[Path, os.stat_result]]]:
    with os.scandir(folder) as entries:
        inside = [(Path(entry.path), entry.stat(follow_symlinks=False)) for entry in entries]
    return folder.stat(), sorted(inside)
