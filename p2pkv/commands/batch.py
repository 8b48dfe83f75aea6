"""`p2pkv batch`: put and delete records of several keys, all of them or none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

import click

from p2pkv.commands.options import command, setting
from p2pkv.commands.session import Session
from p2pkv.errors import P2pkvError

if TYPE_CHECKING:
    from p2pkv.outcomes import BatchChange, BatchRecord

_EXAMPLE = """p2pkv batch <<'END'
{"key": "account/anna", "name": "balance", "value": "70"}
{"key": "account/bert", "name": "balance", "value": "130"}
{"key": "orders/open", "name": "o-17", "delete": true}
END"""


@command("batch", exits=(0, 1, 2, 4, 5, 6), example=_EXAMPLE, peer=True)
@click.argument("file", type=click.File("rb"), default="-", metavar="[FILE]")
@setting("acks")
def batch(session: Session, file: BinaryIO, **options: Any) -> None:
    """Put and delete the records that FILE, or standard input, names: all become visible together, or none.

    Each line is a JSON object with "key" or "key_base64", "name", "value" or "value_base64", and, where
    wanted, "ttl" in seconds, "own": true, or "delete": true in place of a value. At most 1000 lines. When
    the command is done, every get sees all of it. Where it is not done, nothing of it is visible; if that
    cannot be known because peers fell silent, the message says "unknown".
    """
    changes = _read(file)
    with session.client() as client:
        outcome = client.put_batch(changes, **options)
    if session.json:
        from p2pkv.gateway.batches import batch_shape

        session.emit(batch_shape(outcome))
        return
    for record in outcome.records:
        session.say(_text(record))


def _read(file: BinaryIO) -> list[BatchChange]:
    from p2pkv.gateway.batches import Changes

    changes = Changes()
    try:
        for line in file:
            changes.add(line)
    except OSError as error:
        raise P2pkvError(f"cannot read the batch: {error.strerror}", "nothing of it was stored") from error
    return changes.all


def _text(record: BatchRecord) -> str:
    outcome, what = record.outcome, "deleted" if record.deleted else "stored"
    key = record.key.decode(errors="backslashreplace")
    return f"{key} {outcome.name}: {what} on {outcome.stored} of {outcome.asked} (needed {outcome.needed})"
