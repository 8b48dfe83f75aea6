"""Names of files: in the swarm, in links, and on a local disk.

A full name is `folder/folder/file`. In the swarm the file is the record `file` under the key of its folder; a folder
is the record `folder/` in its parent, and the root folder has the path "". Names never hold "", ".", "..", or control
characters, so that what the swarm lists can be made on a disk. Touches neither swarm nor disk.
"""

from __future__ import annotations

import base64
import binascii
import sys
import unicodedata
from urllib.parse import quote, unquote

import msgspec

from p2pkv.core.sealing import SEAL_KEY_BYTES
from p2pkv.errors import InvalidError
from p2pkv.limits import FOLDER_DEPTH_MAX, KEY_BYTES_MAX, LINK_CHARS_MAX, NAME_BYTES_MAX

FOLDER_KEY_PREFIX = b"\x00p2pkv/folder/"
LINK_SCHEME = "p2pkv:"
_PATH_BYTES_MAX = KEY_BYTES_MAX - len(FOLDER_KEY_PREFIX)
_PART_BYTES_MAX = NAME_BYTES_MAX - 1  # a folder's record name has "/" behind it
_WINDOWS_DEVICES = frozenset(
    {"CON", "PRN", "AUX", "NUL", *(f"{device}{n}" for device in ("COM", "LPT") for n in "123456789¹²³")}
)
_WINDOWS_FORBIDDEN = frozenset('<>:"|?*\\')


class Place(msgspec.Struct, frozen=True):
    """Where a file's record lies: the path of its folder ("" is the root) and its name within."""

    folder: str
    name: str

    @property
    def key(self) -> bytes:
        return folder_key(self.folder)

    @property
    def full(self) -> str:
        return join(self.folder, self.name)


class Link(msgspec.Struct, frozen=True):
    """What a user gives to name a file: its full name and, where it is encrypted, the key."""

    name: str
    key: bytes | None = None

    def __str__(self) -> str:
        fragment = "#" + base64.urlsafe_b64encode(self.key).decode().rstrip("=") if self.key else ""
        return LINK_SCHEME + quote(self.name) + fragment


def join(folder: str, name: str) -> str:
    """The full name of something in a folder."""
    return f"{folder}/{name}" if folder else name


def folder_key(path: str) -> bytes:
    """The key under which a folder's entries lie."""
    return FOLDER_KEY_PREFIX + path.encode()


def check_part(part: str) -> str:
    """One step of a full name. Raises InvalidError."""
    fault = _fault_of(part)
    if fault:
        raise InvalidError(f"bad name {part!r}: {fault}", "choose another name")
    return part


def split(name: str) -> Place:
    """Where the file of this full name lies; a slash at the end is ignored. Raises InvalidError."""
    folder, slash, last = name.removesuffix("/").rpartition("/")
    check_part(last)
    if slash and not folder:
        raise InvalidError(f"bad name {name!r}: full names begin without a slash", f"say {last!r}")
    return Place(check_path(folder), last)


def check_folder(path: str) -> str:
    """The path of a folder, without a slash at its end. Raises InvalidError."""
    return check_path(path.removesuffix("/"))


def check_path(path: str) -> str:
    """The same, for a path that must have no slash at its end."""
    parts = path.split("/") if path else []
    for part in parts:
        check_part(part)
    if len(parts) > FOLDER_DEPTH_MAX or len(path.encode()) > _PATH_BYTES_MAX:
        limit = f"{_PATH_BYTES_MAX} bytes and {FOLDER_DEPTH_MAX} folders deep"
        raise InvalidError(f"the folder's name is too long: at most {limit}", "use shorter names")
    return path


def parse(text: str) -> Link:
    """Read a name or a `p2pkv:` link. Raises InvalidError."""
    if len(text) > LINK_CHARS_MAX:
        raise InvalidError(f"a name or link has at most {LINK_CHARS_MAX} characters")
    if not text.startswith(LINK_SCHEME):
        return Link(split(text).full)
    quoted, _, fragment = text.removeprefix(LINK_SCHEME).partition("#")
    try:
        name = unquote(quoted, errors="strict")
    except UnicodeDecodeError:
        raise InvalidError("the link's name is not UTF-8", "copy the whole link") from None
    return Link(split(name).full, _parse_key(fragment) if fragment else None)


def check_local(part: str, *, windows: bool = sys.platform == "win32") -> str:
    """A name that is safe to create on this machine's disk, within the folder that we chose. Raises InvalidError."""
    check_part(part)
    if windows and _bad_on_windows(part):
        raise InvalidError(f"Windows cannot hold a file called {part!r}", "download it alone, to a name of your own")
    return part


def link_stays_inside(place: str, target: str) -> bool:
    """Whether a symbolic link at the relative path `place` surely points into the tree that `place` is relative to.

    `..` may only stand at the beginning: behind a name that is itself a link, it would lead somewhere else.
    """
    if target.startswith("/") or "\\" in target or ":" in target or not target:
        return False
    steps = [step for step in target.split("/") if step not in ("", ".")]
    ups = next((index for index, step in enumerate(steps) if step != ".."), len(steps))
    return ups <= place.count("/") and ".." not in steps[ups:]


def has_controls(text: str) -> bool:
    """Whether showing the text could do more than show it: control characters and line breaks."""
    return any(unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in text)


def _fault_of(part: str) -> str:
    if part in ("", ".", "..") or "/" in part:
        return "empty, '.', '..' and '/' are no names"
    if has_controls(part):
        return "it holds control characters"
    try:
        encoded = part.encode()
    except UnicodeEncodeError:
        return "it is not Unicode text"
    return f"it is longer than {_PART_BYTES_MAX} bytes" if len(encoded) > _PART_BYTES_MAX else ""


def _bad_on_windows(part: str) -> bool:
    device = part.split(".", maxsplit=1)[0].rstrip(" ").upper() in _WINDOWS_DEVICES
    return device or part[-1] in ". " or not _WINDOWS_FORBIDDEN.isdisjoint(part)


def _parse_key(fragment: str) -> bytes:
    try:
        key = base64.b64decode(fragment + "=" * (-len(fragment) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != SEAL_KEY_BYTES:
        raise InvalidError("the key in the link is damaged", "copy the whole link, with all behind the #")
    return key
