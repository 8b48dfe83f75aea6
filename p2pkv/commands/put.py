"""`p2pkv put`: add records under a key."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from p2pkv.commands.options import KEY, NAME, command, option, setting
from p2pkv.commands.session import Session
from p2pkv.errors import IncompleteError, InvalidError, P2pkvError
from p2pkv.limits import HTTP_BLOCK_BYTES, VALUE_IN_MEMORY_BYTES_MAX

if TYPE_CHECKING:
    from p2pkv.commands.client import Client
    from p2pkv.outcomes import PutOutcome

_EXAMPLE = """p2pkv put sensor/7 21.4 21.6
p2pkv put config/theme dark --name current
journalctl -o cat | p2pkv put log/today --lines"""


@command("put", exits=(0, 1, 2, 4, 5, 6), example=_EXAMPLE, peer=True)
@click.argument("key", type=KEY)
@click.argument("values", nargs=-1, metavar="[VALUE ...]")
@option("--lines", is_flag=True, help="one record for each line of standard input")
@option(
    "--file", type=click.Path(dir_okay=False, path_type=Path), metavar="PATH", help="the file's bytes are the value"
)
@option("--name", type=NAME, metavar="NAME", help="name within the key; a second put of it replaces the record")
@option("--once", is_flag=True, help="write-once: refuse where the name exists")
@option("--own", is_flag=True, help="only its author may replace or delete it")
@option("--if-version", metavar="V", help="only if this is the record's version")
@setting("ttl")
@setting("acks")
def put(session: Session, key: bytes, values: tuple[str, ...], lines: bool, file: Path | None, **options: Any) -> None:
    """Add one record per VALUE under KEY. Without VALUE, standard input is the value, byte for byte.

    A put without --name always adds; readers get the records oldest first. It is done when as many replicas
    as --acks says have it on disk; where they are fewer, the exit code is 5.
    """
    if bool(values) + lines + (file is not None) > 1:
        raise InvalidError("VALUE, --lines and --file exclude each other", "choose one source")
    many = lines or len(values) > 1
    _check(many, options)
    options["ttl_s"] = options.pop("ttl")
    with session.client() as client:
        if many:
            keep = {name: options[name] for name in ("ttl_s", "own", "acks")}
            source = _lines(sys.stdin.buffer) if lines else map(_encode, values)
            outcomes: Iterable[PutOutcome] = client.put_many(key, source, **keep)
        else:
            outcomes = _put_one(client, key, values, file, options)
        _report(session, outcomes)


def _check(many: bool, options: dict[str, Any]) -> None:
    if many and (options["name"] is not None or options["once"] or options["if_version"] is not None):
        raise InvalidError("--name, --once and --if-version go with one value", "put the values one by one")
    if (options["once"] or options["if_version"] is not None) and options["name"] is None:
        raise InvalidError("--once and --if-version need a name", "add --name NAME")


def _put_one(
    client: Client, key: bytes, values: tuple[str, ...], file: Path | None, options: dict[str, Any]
) -> Iterator[PutOutcome]:
    """The outcome of a single value, wherever it comes from; also one that too few replicas have."""
    try:
        if values:
            yield client.put(key, _encode(values[0]), **options)
        elif file is None:
            yield client.put(key, blocks_of(sys.stdin.buffer), **options)
        else:
            with file.open("rb") as source:
                yield client.put(key, blocks_of(source), **options)
    except IncompleteError as error:
        if error.outcome is None:
            raise
        yield error.outcome


def _encode(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape")  # an argument's own bytes


def blocks_of(source: BinaryIO) -> Iterator[bytes]:
    """A file's bytes as they come, in blocks. Raises P2pkvError where it cannot be read."""
    read = getattr(source, "read1", source.read)
    try:
        while block := read(HTTP_BLOCK_BYTES):
            yield block
    except OSError as error:
        raise P2pkvError(f"cannot read what to store: {error.strerror}", "nothing of it was stored") from error


def _lines(source: BinaryIO) -> Iterator[bytes]:
    """Lines without their ends."""
    while line := source.readline(VALUE_IN_MEMORY_BYTES_MAX + 1):
        if len(line) > VALUE_IN_MEMORY_BYTES_MAX:
            raise InvalidError(f"a line is longer than {VALUE_IN_MEMORY_BYTES_MAX} bytes", "put it with --file")
        yield line.removesuffix(b"\n")


def _report(session: Session, outcomes: Iterable[PutOutcome]) -> None:
    """Tell each outcome, and fail at the end if any record is on too few replicas."""
    short: list[PutOutcome] = []
    count = 0
    for outcome in outcomes:
        count += 1
        if session.json:
            from p2pkv.gateway.shapes import put_line

            session.emit(put_line(outcome))
        else:
            session.say(_text(outcome))
        if not outcome.reached:
            short.append(outcome)
    if short:
        raise _too_few(short, count)


def _text(outcome: PutOutcome) -> str:
    return f"{outcome.name}: stored on {outcome.stored} of {outcome.asked} (needed {outcome.needed})"


def _too_few(short: list[PutOutcome], count: int) -> IncompleteError:
    first = short[0]
    reasons = ", ".join(f"{failure.address} {failure.reason}" for failure in first.failures[:3])
    what = _text(first) if count == 1 else f"{len(short)} of {count} records are on too few replicas; {_text(first)}"
    mend = "put it again, ask for less with --acks, or see `p2pkv peers`"
    return IncompleteError(what + (f" ({reasons})" if reasons else ""), mend)
