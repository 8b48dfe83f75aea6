"""The database of a disk store: its tables, its settings and the version of its format.

Owns the spelling of the schema. Never reads or writes a record.
"""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

from p2pkv.errors import P2pkvError
from p2pkv.storage import disk_blocks
from p2pkv.storage.files import Files

FORMAT_VERSION = 2  # 1 knew no blocks
_FORMAT_PREFIX = "p2pkv store "
DATABASE = "store.db"

_TABLES = """
CREATE TABLE IF NOT EXISTS pages (
    id INTEGER PRIMARY KEY, place BLOB NOT NULL UNIQUE, key BLOB NOT NULL,
    total INTEGER NOT NULL, dead INTEGER NOT NULL, size_bytes INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS pages_by_key ON pages (key, place) WHERE key != x'';
CREATE TABLE IF NOT EXISTS versions (
    id INTEGER PRIMARY KEY, page INTEGER NOT NULL, name BLOB NOT NULL, owner BLOB NOT NULL, clock INTEGER NOT NULL,
    dead INTEGER NOT NULL, expires_ms INTEGER NOT NULL, crc INTEGER NOT NULL, data BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS versions_by_name ON versions (page, name, owner);
CREATE INDEX IF NOT EXISTS versions_by_time ON versions (page, clock, name, owner);
CREATE INDEX IF NOT EXISTS versions_by_expiry ON versions (page, expires_ms) WHERE expires_ms > 0 AND dead = 0;
CREATE INDEX IF NOT EXISTS versions_pending ON versions (page) WHERE dead = 2;
CREATE TABLE IF NOT EXISTS registers (
    place BLOB NOT NULL, name BLOB NOT NULL, crc INTEGER NOT NULL, state BLOB NOT NULL, PRIMARY KEY (place, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS chunks (
    id BLOB PRIMARY KEY, pack INTEGER NOT NULL, offset INTEGER NOT NULL, size_bytes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS chunk_days (id BLOB PRIMARY KEY, day INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS packs (
    id INTEGER PRIMARY KEY, live_bytes INTEGER NOT NULL, end_bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS usage (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    keys INTEGER NOT NULL, records INTEGER NOT NULL, chunks INTEGER NOT NULL, size_bytes INTEGER NOT NULL);
INSERT OR IGNORE INTO usage VALUES (1, 0, 0, 0, 0);
"""


def check_format(folder: Path) -> None:
    """Raise P2pkvError where the folder is of a version that this program does not know. Touches nothing."""
    try:
        text = (folder / "format").read_text("ascii").strip()
    except FileNotFoundError:
        return
    except ValueError:
        text = ""
    number = text.removeprefix(_FORMAT_PREFIX)
    if not text.startswith(_FORMAT_PREFIX) or not number.isdecimal():
        raise P2pkvError(f"{folder} is not a p2pkv store", "use another home, or restore its file `format`")
    if int(number) > FORMAT_VERSION:
        raise P2pkvError(
            f"{folder} was written by a newer p2pkv (format {number})", "update p2pkv, or use another home"
        )


def write_format(folder: Path, files: Files) -> None:
    """Say which version a store is of, that is new or has just been brought up to this one."""
    text = f"{_FORMAT_PREFIX}{FORMAT_VERSION}\n".encode("ascii")
    path = folder / "format"
    if files.size_bytes(path) is None or path.read_bytes() != text:
        files.write_whole(path, text)
        files.sync_folder(folder.parent)


def create(folder: Path) -> None:
    """Make the tables where they are missing; raise P2pkvError where the file is not a sound database."""
    try:
        database = connect(folder)
        try:
            database.executescript(_TABLES + disk_blocks.TABLE)
        finally:
            database.close()
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
            raise P2pkvError(f"no space left for {folder}", "free some space on the disk") from error
        mend = "move the folder away and start anew: the other replicas fill it again"
        raise P2pkvError(f"the database in {folder} cannot be opened: {error}", mend) from error


def connect(folder: Path, *, reader: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode. Commits of a writer are durable when they return."""
    database = sqlite3.connect(folder / DATABASE, timeout=30, isolation_level=None, check_same_thread=False)
    database.text_factory = bytes  # there is no text in the tables; what damage makes look so must not fail to decode
    for name, value in _pragmas(reader):
        database.execute(f"PRAGMA {name} = {value}")
    return database


def _pragmas(reader: bool) -> list[tuple[str, str | int]]:
    if reader:
        return [("query_only", 1), ("cache_size", -8192)]
    pragmas: list[tuple[str, str | int]] = [("journal_mode", "WAL"), ("synchronous", "FULL"), ("cache_size", -32768)]
    # 16 MiB between checkpoints: a page changed by many commits is then written to its place once.
    pragmas += [("wal_autocheckpoint", 4096), ("journal_size_limit", 64 << 20)]
    if sys.platform == "darwin":
        pragmas += [("fullfsync", 1), ("checkpoint_fullfsync", 1)]
    return pragmas
