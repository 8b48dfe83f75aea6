"""The contacts that a peer saves for its next start: JSON, bounded, replaced whole.

Owns the file's form. A file that cannot be read is an empty one: it only saves a newcomer's work.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec

from p2pkv.limits import CONTACTS_FILE_BYTES_MAX, CONTACTS_SAVED_MAX
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.environment import Address
from p2pkv.swarm.udp import is_usable_host
from p2pkv.wire import PORT_MAX

log = logging.getLogger(__name__)


class SavedContact(msgspec.Struct):
    """One contact of the file."""

    node: str
    host: str
    port: int


class _File(msgspec.Struct):
    version: int
    contacts: list[SavedContact]


def save(path: Path, contacts: Sequence[Contact]) -> None:
    """Those heard last. Raises OSError."""
    latest = sorted(contacts, key=lambda contact: -contact.last_seen_s)[:CONTACTS_SAVED_MAX]
    saved = [SavedContact(contact.id.hex(), contact.ip, contact.port) for contact in latest]
    draft = path.with_name(path.name + ".new")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(_File(1, saved))))
    draft.replace(path)


def load(path: Path) -> list[Address]:
    """Their addresses; none where there is no file or it is damaged."""
    try:
        with path.open("rb") as file:
            content = file.read(CONTACTS_FILE_BYTES_MAX)
        saved = msgspec.json.decode(content, type=_File).contacts
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        log.warning("cannot use the saved contacts in %s: %s", path, error)
        return []
    return [(c.host, c.port) for c in saved[:CONTACTS_SAVED_MAX] if is_usable_host(c.host) and 0 < c.port <= PORT_MAX]
