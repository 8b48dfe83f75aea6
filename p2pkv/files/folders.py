"""Whole folders up and down: many files at once, each failure told by name, none hidden.

Symbolic links travel as links and are never followed; special files are refused. On the way down nothing is written
outside the target folder: bad names, links in the way and links that point out of it are refused.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import msgspec

from p2pkv.core.manifest import FileMeta, Kind
from p2pkv.errors import InvalidError, P2pkvError, UnreachableError
from p2pkv.files import names
from p2pkv.files.concurrency import Job, Offload, run_jobs
from p2pkv.files.download import Downloader
from p2pkv.files.namespace import Entry
from p2pkv.files.partfile import NoSpaceError, disk_error
from p2pkv.files.progress import Meter
from p2pkv.files.source import check_regular, local_error
from p2pkv.files.upload import Uploader, UploadOptions
from p2pkv.limits import FAILURES_REPORTED_MAX, FILES_IN_FLIGHT_MAX
from p2pkv.outcomes import FileFailure, FolderOutcome

_FATAL = (UnreachableError, NoSpaceError)
"""What will not be better for the next file: the whole folder ends."""


class Found(msgspec.Struct, frozen=True):
    """Something of a local folder. `place` is its full name in the swarm."""

    path: Path
    place: str
    stat: os.stat_result


class Tally:
    """Counts what became of a folder's files."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.files = self.folders = self.links = self.size = self.failed = 0
        self._failures: list[FileFailure] = []

    async def attempt(self, name: str, step: Callable[[], Awaitable[None]]) -> None:
        """Do one file's part; a failure of its own is noted, one that concerns all is raised."""
        try:
            await step()
        except _FATAL:
            raise
        except P2pkvError as error:
            self.fail(name, str(error))

    def fail(self, name: str, reason: str) -> None:
        self.failed += 1
        if len(self._failures) < FAILURES_REPORTED_MAX:
            self._failures.append(FileFailure(name, reason))

    def outcome(self, name: str, link: str = "") -> FolderOutcome:
        return FolderOutcome(
            name=name,
            files=self.files,
            folders=self.folders,
            links=self.links,
            size=self.size,
            seconds=self.meter.seconds,
            failed=self.failed,
            failures=self._failures,
            replicas=self.meter.replicas,
            link=link,
        )


async def run_all(jobs: AsyncGenerator[Job[None], None]) -> None:
    """Run a folder's jobs, a bounded number at once, in no order."""
    async with aclosing(jobs), aclosing(run_jobs(jobs, limit=FILES_IN_FLIGHT_MAX, ordered=False)) as finished:
        async for _ in finished:
            pass


# --- up ---


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


# --- down ---


class FolderDownload:
    """A folder of the swarm on its way into a local one."""

    def __init__(self, downloader: Downloader, root: Path, place: str, key: bytes | None, meter: Meter) -> None:
        self._downloader = downloader
        self._tree = LocalTree(root)
        self._place = place
        self._key = key
        self._meter = meter
        self._links: list[Entry] = []
        self._folders: list[tuple[str, FileMeta]] = []
        self.tally = Tally(meter)

    async def run(self, entries: AsyncIterator[Entry], own: Entry | None) -> None:
        """Files first, then links (nothing is ever written through one), then the folders' modes and times."""
        await self._downloader.offload(self._tree.make, "")
        await run_all(self._jobs(entries))
        for entry in self._links:
            await self.tally.attempt(entry.name, self._step(self._link, entry))
        if own:
            self._folders.insert(0, ("", own.meta))
        await self._downloader.offload(self._finish_folders)

    async def _jobs(self, entries: AsyncIterator[Entry]) -> AsyncGenerator[Job[None], None]:
        async for entry in entries:
            if entry.meta.kind is Kind.LINK:
                self._links.append(entry)
            elif entry.meta.kind is Kind.FOLDER:
                await self.tally.attempt(entry.name, self._step(self._folder, entry))
            else:
                self._meter.total = (self._meter.total or 0) + entry.version.size_bytes
                yield self._job(entry)

    def _job(self, entry: Entry) -> Job[None]:
        async def attempt() -> None:
            await self.tally.attempt(entry.name, self._step(self._file, entry))

        return attempt

    @staticmethod
    def _step(action: Callable[[Entry], Awaitable[None]], entry: Entry) -> Callable[[], Awaitable[None]]:
        return lambda: action(entry)

    def _relative(self, entry: Entry) -> str:
        return entry.name.removeprefix(self._place + "/") if self._place else entry.name

    async def _folder(self, entry: Entry) -> None:
        relative = self._relative(entry)
        await self._downloader.offload(self._tree.make, relative)
        self._folders.append((relative, entry.meta))
        self.tally.folders += 1

    async def _file(self, entry: Entry) -> None:
        target = await self._downloader.offload(self._tree.place, self._relative(entry))
        outcome = await self._downloader.file(entry, self._key, target, self._meter)
        self.tally.files += 1
        self.tally.size += outcome.size

    async def _link(self, entry: Entry) -> None:
        relative = self._relative(entry)
        text = entry.version.body.decode()
        if not names.link_stays_inside(relative, text):
            raise InvalidError(f"its target {text!r} does not plainly lie within the folder", "make the link yourself")
        await self._downloader.symlink(entry, await self._downloader.offload(self._tree.place, relative))
        self.tally.links += 1

    def _finish_folders(self) -> None:
        """What lies deeper comes later in the list and is finished first, so that its change touches no time above."""
        while self._folders:
            relative, meta = self._folders.pop()
            try:
                self._tree.finish(relative, meta)
            except P2pkvError as error:
                self.tally.fail(names.join(self._place, relative), str(error))


class LocalTree:
    """A local folder that is only ever written within. Blocking: called in threads."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._made: set[str] = set()  # one string per folder of the tree

    def make(self, relative: str) -> Path:
        """Make a folder and those above it. Raises InvalidError where a name is bad or a link is in the way."""
        path = self._root / relative
        if relative in self._made:
            return path
        if relative:
            self.make(relative.rpartition("/")[0])
            names.check_local(path.name)
        try:
            if relative and path.is_symlink():
                raise InvalidError(f"{path}: is a link, and links are not followed", "move it away")
            path.mkdir(parents=not relative, exist_ok=True)
        except OSError as error:
            raise disk_error(path, error) from None
        self._made.add(relative)
        return path

    def place(self, relative: str) -> Path:
        """Where a file goes; its folder is made."""
        folder, _, name = relative.rpartition("/")
        return self.make(folder) / names.check_local(name)

    def finish(self, relative: str, meta: FileMeta) -> None:
        """Give a folder its mode and time, when all within is done."""
        path = self.make(relative)
        try:
            path.chmod(meta.mode & 0o777 or 0o755)
            os.utime(path, ns=(meta.mtime_ns, meta.mtime_ns))
        except OSError as error:
            raise disk_error(path, error) from None
