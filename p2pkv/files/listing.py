"""Listing the tree of folders: everything that begins with a prefix, sorted by full name, streamed.

A folder's records sort by name with the slash included, so depth first is the order of full names. A tree of many
folders would cost one wait after the other; so the next few are read while the caller is busy with this one. What is
read ahead is bounded, and an error in it is raised where it belongs in the order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing

from p2pkv.core.manifest import Kind
from p2pkv.core.records import Version, rank
from p2pkv.errors import IncompleteError, InvalidError
from p2pkv.files import names
from p2pkv.files.namespace import Entry, parse_entry
from p2pkv.files.ports import Records
from p2pkv.limits import ENTRIES_READ_AHEAD_MAX, FOLDER_DEPTH_MAX, FOLDERS_READ_AHEAD_MAX


async def list_entries(records: Records, prefix: str = "", *, recursive: bool = True) -> AsyncGenerator[Entry, None]:
    """Entries whose full name begins with `prefix`, folders before what they hold. Bounded memory.

    A slash at the beginning means the root. Raises InvalidError where the prefix can begin no name, IncompleteError
    where something may be missing. Close it when leaving early (`contextlib.aclosing`).
    """
    folder, slash, beginning = prefix.removeprefix("/").rpartition("/")
    if slash and not folder:
        raise InvalidError(f"no name begins with {prefix!r}", "folders are separated by single slashes")
    async with _Readers(records, recursive=recursive) as readers:
        open_folders = [_Folder(readers.read(names.check_path(folder), beginning), readers)]
        while open_folders:
            found = await open_folders[-1].next()
            if found is None:
                readers.forget(open_folders.pop().reader)
                continue
            entry, reader = found
            yield entry
            if recursive and entry.meta.kind is Kind.FOLDER:
                if len(open_folders) > FOLDER_DEPTH_MAX:
                    raise IncompleteError(f"{entry.name}: folders lie too deep to list", "list a folder within it")
                open_folders.append(_Folder(readers.opened(reader) or readers.read(entry.name), readers))


class _Reader:
    """One folder being read by a task of its own."""

    def __init__(self, records: Records, path: str, beginning: str) -> None:
        self._queue: asyncio.Queue[Entry | Exception | None] = asyncio.Queue(ENTRIES_READ_AHEAD_MAX)
        self.task = asyncio.create_task(self._run(records, path, beginning))

    @property
    def ready(self) -> bool:
        return not self._queue.empty()

    async def next(self) -> Entry | None:
        """The next entry; None at the end, once. Raises what the reading raised."""
        found = await self._queue.get()
        if isinstance(found, Exception):
            raise found
        return found

    async def _run(self, records: Records, path: str, beginning: str) -> None:
        end: Exception | None = None
        try:
            async with aclosing(_entries(records, path, beginning)) as entries:
                async for entry in entries:
                    await self._queue.put(entry)
        except Exception as error:  # whatever it is, the one who reads the queue raises it
            end = error
        await self._queue.put(end)


class _Readers:
    """Owns every reader of one listing, and says how many may run ahead."""

    def __init__(self, records: Records, *, recursive: bool) -> None:
        self._records = records
        self._recursive = recursive
        self._all: set[_Reader] = set()
        self._ahead: set[_Reader] = set()

    async def __aenter__(self) -> _Readers:
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [reader.task for reader in self._all]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def read(self, path: str, beginning: str = "") -> _Reader:
        reader = _Reader(self._records, path, beginning)
        self._all.add(reader)
        return reader

    def read_ahead(self, entry: Entry) -> _Reader | None:
        """Begin to read a folder that will be opened soon, if there is room."""
        if not self._recursive or entry.meta.kind is not Kind.FOLDER or len(self._ahead) >= FOLDERS_READ_AHEAD_MAX:
            return None
        reader = self.read(entry.name)
        self._ahead.add(reader)
        return reader

    def opened(self, reader: _Reader | None) -> _Reader | None:
        """It is no longer ahead."""
        if reader:
            self._ahead.discard(reader)
        return reader

    def forget(self, reader: _Reader) -> None:
        """It came to its end."""
        self._all.discard(reader)


class _Folder:
    """A folder that is being listed, with its next few entries in view."""

    def __init__(self, reader: _Reader, readers: _Readers) -> None:
        self.reader = reader
        self._readers = readers
        self._view: deque[tuple[Entry, _Reader | None]] = deque()
        self._failure: Exception | None = None
        self._ended = False

    async def next(self) -> tuple[Entry, _Reader | None] | None:
        """The next entry, and its reader where it is a folder that is read already."""
        while not self._ended and (not self._view or (len(self._view) < FOLDERS_READ_AHEAD_MAX and self.reader.ready)):
            await self._look()
        if self._view:
            return self._view.popleft()
        if self._failure:
            raise self._failure
        return None

    async def _look(self) -> None:
        try:
            entry = await self.reader.next()
        except Exception as error:  # kept for its place in the order
            self._ended, self._failure = True, error
            return
        if entry is None:
            self._ended = True
        else:
            self._view.append((entry, self._readers.read_ahead(entry)))


async def _entries(records: Records, path: str, beginning: str) -> AsyncGenerator[Entry, None]:
    """One folder's entries in the order of names, of each name the one of the highest rank."""
    best: Version | None = None
    async for version in records.read(names.folder_key(path), order="name", prefix=beginning.encode()):
        if best is not None and best.name == version.name:
            best = max(best, version, key=rank)
            continue
        if best is not None and (entry := parse_entry(path, best)):
            yield entry
        best = version
    if best is not None and (entry := parse_entry(path, best)):
        yield entry
