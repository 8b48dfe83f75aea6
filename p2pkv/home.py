"""The home folder of a peer: where it lies, what each thing in it is called, which format it has.

Owns names and the format version. Never opens the store, takes no lock and starts nothing; whoever runs a peer does.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from p2pkv.errors import InvalidError, P2pkvError

FORMAT = 1  # of everything in a home; a program refuses a home of a higher one
SOCKET_PATH_BYTES_MAX = 100  # sun_path has 108 bytes on Linux, 104 on macOS, terminating zero included
_SHORT_BASE = "/tmp"  # noqa: S108 - $TMPDIR may be long itself; the folder in it is checked to be ours
_RECORD_BYTES_MAX = 4096  # what is read of a one-line file in the home


def default_folder() -> Path:
    """`$P2PKV_HOME`, else the platform's folder for user data."""
    if chosen := os.environ.get("P2PKV_HOME"):
        return Path(chosen).expanduser()
    from platformdirs import user_data_path

    return user_data_path("p2pkv", appauthor=False)


class Home:
    """Paths of one peer's home. Making this object touches nothing on disk."""

    def __init__(self, folder: Path | str | None = None) -> None:
        self.folder = (default_folder() if folder is None else Path(folder).expanduser()).absolute()
        self.identity = self.folder / "identity.key"
        self.config = self.folder / "config.toml"
        self.store = self.folder / "store"
        self.contacts = self.folder / "contacts.json"
        self.token = self.folder / "http.token"
        self.log = self.folder / "log"
        self.format = self.folder / "format"
        self.pid = self.folder / "pid"
        self.lock = self.folder / "lock"
        self.socket_record = self.folder / "peer.sock.path"  # where the socket is, if not in the home

    @property
    def socket(self) -> Path:
        """Where this home's peer listens for commands: `peer.sock`, or a short path where that one is too long."""
        inside = self.folder / "peer.sock"
        if _fits(inside) or not hasattr(os, "getuid"):  # Windows has neither
            return inside
        return _read_line(self.socket_record) or self._short_socket()

    def _short_socket(self) -> Path:
        """A short path of this home's own, in a folder that belongs to this user alone."""
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        name = f"p2pkv-{hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]}.sock"
        if runtime and _fits(Path(runtime) / name):
            return Path(runtime) / name
        return Path(_SHORT_BASE) / f"p2pkv-{os.getuid()}" / name

    def prepare(self) -> Home:
        """Create the folder, readable by its owner alone, and stamp or check its format. Raises P2pkvError."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_writable()
            self.check_format()
            if not self.format.exists():
                self.format.write_text(f"{FORMAT}\n")
            self._prepare_socket()
        except OSError as error:
            raise P2pkvError(f"cannot use the home {self.folder}: {error.strerror}", _MEND_HOME) from error
        return self

    def _check_writable(self) -> None:
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise P2pkvError(f"cannot write the home {self.folder}: permission denied", _MEND_HOME)

    def _prepare_socket(self) -> None:
        """Where the socket lies outside, its folder must be ours alone and the place be written down for clients."""
        if self.socket.parent == self.folder:
            return
        socket = self._short_socket()
        socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if socket.parent.stat().st_uid != os.getuid():
            raise P2pkvError(f"{socket.parent} belongs to another user", "set XDG_RUNTIME_DIR to a folder of your own")
        self.socket_record.write_text(f"{socket}\n")

    def check_format(self) -> None:
        """Refuse a home that a newer p2pkv made. A home without a stamp passes: it is new."""
        line = _read_line(self.format)
        if line is None:
            return
        if not (text := str(line)).isdigit():
            raise P2pkvError(f"{self.format} is damaged", f"write {FORMAT} into it, or choose another home with --home")
        if int(text) > FORMAT:
            message = f"the home {self.folder} has format {text}; this p2pkv reads up to {FORMAT}"
            raise P2pkvError(message, "use the newer p2pkv, or choose another home with --home")


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX


_MEND_HOME = "choose another with --home DIR, or correct its permissions"


def _read_line(path: Path) -> Path | None:
    """A file's only line as a path, None where the file is absent or empty."""
    try:
        with path.open("rb") as file:
            line = os.fsdecode(file.read(_RECORD_BYTES_MAX).strip())
    except OSError:
        return None
    if "\0" in line:
        raise InvalidError(f"{path} is damaged", "delete it")
    return Path(line) if line else None
