"""Listing the tree of folders: everything that begins with a prefix, sorted by full name, streamed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing

from p2pkv.core.manifest import Kind
from p2pkv.core.records import Version, rank
from p2pkv.errors import IncompleteError
from p2pkv.files import names
from p2pkv.files.namespace import Entry, parse_entry
from p2pkv.files.ports import Records
from p2pkv.limits import FOLDER_DEPTH_MAX


async def list_entries(records: Records, prefix: str = "", *, recursive: bool = True) -> AsyncGenerator[Entry, None]:
    """Entries whose full name begins with `prefix`, folders before what they hold. Bounded memory.

    A folder's records sort by name with the slash included, so depth first is the order of full names.
    Raises IncompleteError where something may be missing.
    """
    folder, _, beginning = prefix.rpartition("/")
    async with AsyncExitStack() as stack:

        async def enter(path: str, start: str = "") -> AsyncGenerator[Entry, None]:
            return await stack.enter_async_context(aclosing(_folder(records, path, start)))

        open_folders = [await enter(names.check_folder(folder), beginning)]
        while open_folders:
            entry = await anext(open_folders[-1], None)
            if entry is None:
                open_folders.pop()
                continue
            yield entry
            if recursive and entry.meta.kind is Kind.FOLDER:
                if len(open_folders) > FOLDER_DEPTH_MAX:
                    raise IncompleteError(f"{entry.name}: folders lie too deep to list", "list a folder within it")
                open_folders.append(await enter(entry.name))


async def _folder(records: Records, path: str, beginning: str) -> AsyncGenerator[Entry, None]:
    """One folder's entries in the order of names, of each name the one of the highest rank."""
    best: Version | None = None
    versions = records.read(names.folder_key(path), order="name", prefix=beginning.encode())
    async for version in versions:
        if best is not None and best.name == version.name:
            best = max(best, version, key=rank)
            continue
        if best is not None and (entry := parse_entry(path, best)):
            yield entry
        best = version
    if best is not None and (entry := parse_entry(path, best)):
        yield entry
