"""A folder of the swarm on its way onto the disk.

Nothing is written outside the target folder, whatever a stranger put into the swarm: bad names, links in the way and
links that point out of it are refused by name, and nothing is written through a link.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path

from p2pkv.core.manifest import FileMeta, Kind
from p2pkv.errors import InvalidError, P2pkvError
from p2pkv.files import names
from p2pkv.files.concurrency import Job
from p2pkv.files.download import Downloader
from p2pkv.files.folders import Tally, run_all
from p2pkv.files.namespace import Entry
from p2pkv.files.partfile import disk_error
from p2pkv.files.progress import Meter


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
        relative = self._relative(entry)
        target = self._tree.known_place(relative)
        if target is None:
            target = await self._downloader.offload(self._tree.place, relative)
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

    def known_place(self, relative: str) -> Path | None:
        """The same, where the folder is there already: does not touch the disk."""
        folder, _, name = relative.rpartition("/")
        return self._root / folder / names.check_local(name) if folder in self._made else None

    def finish(self, relative: str, meta: FileMeta) -> None:
        """Give a folder its mode and time, when all within is done."""
        path = self.make(relative)
        try:
            path.chmod(meta.mode & 0o777 or 0o755)
            os.utime(path, ns=(meta.mtime_ns, meta.mtime_ns))
        except OSError as error:
            raise disk_error(path, error) from None
