"""Commands about the swarm: files and records."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path, PurePosixPath

from examples.shell.local import timestamp
from examples.shell.progress import bar
from examples.shell.session import Session, UsageError
from p2pkv.outcomes import FileInfo, Record, TransferOutcome


async def upload(session: Session, options: Namespace) -> int:
    """A file appears in the swarm whole or not at all; Ctrl-C leaves nothing behind."""
    if options.as_ and len(options.file) > 1:
        raise UsageError("--as names one file; use --to for several")

    async def one(text: str) -> None:
        path = session.local(text)
        path.stat()  # a missing file is told before anything is sent
        with bar(session.err, text) as progress:
            outcome = await session.store.upload(path, options.as_, to=options.to, progress=progress)
        _report(session, outcome)

    return await session.each("upload", options.file, one)


async def download(session: Session, options: Namespace) -> int:
    """Every chunk is verified. A file that is there already is replaced once the new one is whole."""
    several = len(options.name) > 1

    async def one(name: str) -> None:
        target = _target(session, name, options.to, into=several)
        with bar(session.err, name) as progress:
            outcome = await session.store.download(name, target, progress=progress)
        _report(session, outcome)

    return await session.each("download", options.name, one)


async def list_files(session: Session, options: Namespace) -> int:
    async def show(prefix: str) -> None:
        async for info in session.store.list_files(prefix):
            session.say(_row(info) if options.long else info.name)

    return await session.each("list-files", options.prefix or [""], show)


async def delete_file(session: Session, options: Namespace) -> int:
    async def one(name: str) -> None:
        await session.store.delete_file(name, recursive=options.recursive)

    return await session.each("delete-file", options.name, one)


async def put(session: Session, options: Namespace) -> int:
    """Without --name every value becomes a record of its own; a put with a name replaces the record of that name."""
    if options.name is not None and len(options.value) > 1:
        raise UsageError("--name names one record: give one value")
    for value in options.value:
        await session.store.put(options.key, value.encode(errors="surrogateescape"), name=options.name)
    return 0


async def get(session: Session, options: Namespace) -> int:
    found = False
    async for record in session.store.get(options.key, name=options.name):
        found = True
        session.say(_value(record))
    if not found:
        session.complain(f"get: {options.key}: No such record")
    return 0 if found else 3


async def count(session: Session, options: Namespace) -> int:
    session.say(str(await session.store.count(options.key)))
    return 0


async def delete(session: Session, options: Namespace) -> int:
    if await session.store.delete(options.key, name=options.name):
        return 0
    session.complain(f"delete: {options.key}: No such record")
    return 3


def _target(session: Session, name: str, to: str | None, *, into: bool) -> Path:
    """Where a download goes: into the current folder or `to`, or, of one file, to the name `to`."""
    place = session.folder if to is None else session.local(to)
    if to is None or into or to.endswith("/") or place.is_dir():
        return place / (PurePosixPath(_plain_name(name)).name or "download")
    return place


def _plain_name(name: str) -> str:
    """The name in a `p2pkv:` link, or the name itself."""
    if not name.startswith("p2pkv:"):
        return name
    from urllib.parse import unquote

    return unquote(name.removeprefix("p2pkv:").partition("#")[0])


def _report(session: Session, outcome: TransferOutcome) -> None:
    rate = outcome.size / outcome.seconds / 1e6 if outcome.seconds > 0 else 0.0
    files = f"{outcome.files} files  " if outcome.files != 1 or outcome.folders else ""
    session.say(f"{outcome.name}  {files}{outcome.size} bytes  {outcome.seconds:.2f} s  {rate:.1f} MB/s")


def _row(info: FileInfo) -> str:
    return f"{info.size:>12}  {timestamp(info.mtime)}  {info.name}"


def _value(record: Record) -> str:
    if record.value is None:
        return f"({record.size} bytes: too long to show)"
    return record.value.decode(errors="backslashreplace")
