"""Every setting: its name, type, default, environment variable and key in `config.toml`.

Owns the table and the reading of the file. The order flag, environment, file, default is carried out by click, which
gets its options from this table (`p2pkv.commands.options`) and knows where each value came from.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from p2pkv.errors import InvalidError
from p2pkv.limits import ALPHA_DEFAULT, K_DEFAULT, K_MAX
from p2pkv.units import format_address, parse_address, parse_duration, parse_size

Kind = Literal["text", "flag", "count"]
Plain = str | int | float | bool
CONFIG_BYTES_MAX = 1 << 20


@dataclass(frozen=True)
class Setting:
    """One setting. `parse` turns its text into what the program uses, and raises InvalidError."""

    name: str  # as in `--swarm-key`
    help: str
    default: Plain | None = None
    parse: Callable[[str], object] = str
    kind: Kind = "text"
    many: bool = False
    metavar: str = "TEXT"
    choices: tuple[str, ...] = ()  # for completion; `parse` decides

    @property
    def key(self) -> str:
        """The Python name, and the key of the file (which takes the dashed name too)."""
        return self.name.replace("-", "_")

    @property
    def env(self) -> str:
        return env_name(self.name)


def env_name(option: str) -> str:
    """`--swarm-key` is `P2PKV_SWARM_KEY` in the environment."""
    return "P2PKV_" + option.lstrip("-").upper().replace("-", "_")


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text.strip()) or not least <= int(text) <= most:
            raise InvalidError(f"not a whole number from {least} to {most}: {text!r}", "choose one in that range")
        return int(text)

    return parse


def _listen(text: str) -> str:
    return format_address(*parse_address(text))


def _http(text: str) -> str:
    return text if text == "off" else _listen(text)


def _peer(text: str) -> str:
    """An address that can be connected to: port 0 is none."""
    host, port = parse_address(text)
    if port == 0:
        raise InvalidError(f"not a peer's address: {text!r}", "give the port that the peer listens on")
    return format_address(host, port)


_ACKS = ("1", "quorum", "all")


def _acks(text: str) -> str:
    if text not in _ACKS:
        raise InvalidError(f"not a number of acknowledgements: {text!r}", "choose 1, quorum or all")
    return text


_ADDRESS = "HOST:PORT"
_TABLE = (
    Setting("json", "print JSON instead of text", False, kind="flag"),
    Setting("quiet", "print results and errors alone", False, kind="flag"),
    Setting("verbose", "say more; twice: with tracebacks", 0, _whole(0, 9), kind="count"),
    Setting("no-color", "no colours and no styles", False, kind="flag"),
    Setting("listen", "address to listen on; port 0 picks one", "0.0.0.0:8468", _listen, many=True, metavar=_ADDRESS),
    Setting("bootstrap", "a peer of the swarm to join", None, _peer, many=True, metavar=_ADDRESS),
    Setting("advertise", "address that others reach this peer at", None, _peer, metavar=_ADDRESS),
    Setting("k", "replicas of everything, contacts in an answer", K_DEFAULT, _whole(1, K_MAX), metavar="N"),
    Setting("alpha", "requests in flight of one lookup", ALPHA_DEFAULT, _whole(1, K_MAX), metavar="N"),
    Setting("http", "loopback address of HTTP and the dashboard, or off", "127.0.0.1:8469", _http, metavar=_ADDRESS),
    Setting("swarm-key", "key file of a closed swarm (refused: this version has none)", None, metavar="FILE"),
    Setting("quota", "bytes that the store may take", None, parse_size, metavar="SIZE"),
    Setting("log-json", "log JSON lines", False, kind="flag"),
    Setting("acks", "replicas that must have a record: 1, quorum or all", "quorum", _acks, metavar="N", choices=_ACKS),
    Setting("ttl", "how long records live, as 10m or 30d", None, parse_duration, metavar="TIME"),
    Setting("replicas", "replicas that each chunk must reach", None, _whole(1, K_MAX), metavar="N"),
    Setting("encrypt", "seal files before they leave; the key lies in the link", False, kind="flag"),
)
SETTINGS = {setting.name: setting for setting in _TABLE}
_BY_KEY = {setting.key: setting for setting in _TABLE}


def load(path: Path) -> dict[str, Plain | list[str]]:
    """The settings of a `config.toml`, by `key`; none where there is no file. Raises InvalidError naming the line."""
    text = _read(path)
    if not text:
        return {}
    import tomllib

    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _bad_syntax(path, text, str(error)) from None
    return dict(_entry(path, text, key, value) for key, value in table.items())


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(CONFIG_BYTES_MAX).decode()
    except FileNotFoundError:
        return ""
    except NotADirectoryError as error:
        raise InvalidError(f"the home {path.parent} is no folder", "choose another with --home DIR") from error
    except UnicodeDecodeError as error:
        raise InvalidError(f"{path} is not UTF-8 text", "save it as UTF-8") from error
    except OSError as error:
        raise InvalidError(f"cannot read {path}: {error.strerror}", "correct its permissions") from error


def _bad_syntax(path: Path, text: str, message: str) -> InvalidError:
    found = re.search(r"\s*\(at (?:line (\d+).*|end of document)\)", message)
    line = (found and found[1]) or str(text.count("\n") + 1)
    reason = message[: found.start()] if found else message
    return InvalidError(f"{path} line {line}: {reason.lower()}", 'write each setting as name = "value"')


def _entry(path: Path, text: str, key: str, value: object) -> tuple[str, Plain | list[str]]:
    """One checked setting of the file."""
    place = f"{path} line {_line_of(text, key)}"
    setting = _BY_KEY.get(key.replace("-", "_"))
    if setting is None:
        raise InvalidError(f"{place}: unknown setting {key!r}", _suggestion(key))
    try:
        return setting.key, _checked(setting, value)
    except InvalidError as error:
        raise InvalidError(f"{place}: {setting.name}: {error}", error.mend) from None


def _checked(setting: Setting, value: object) -> Plain | list[str]:
    if setting.kind == "flag":
        if not isinstance(value, bool):
            raise InvalidError("not a truth value", "write true or false")
        return value
    values = value if setting.many and isinstance(value, list) else [value]
    if not all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in values):
        wanted = "a text or a list of texts" if setting.many else "one text or number"
        raise InvalidError(f"needs {wanted}", f'write {setting.name} = "value"')
    texts = [str(one) for one in values]
    for one in texts:
        setting.parse(one)
    return texts if setting.many else texts[0]


def _line_of(text: str, key: str) -> int:
    """The line that sets a key. Only for messages: the first line that begins with it."""
    pattern = re.compile(rf"""^\s*\[?\s*["']?{re.escape(key)}["']?\s*[=.\]]""", re.MULTILINE)
    found = pattern.search(text)
    return text.count("\n", 0, found.start()) + 1 + found[0].count("\n") if found else 1


def _suggestion(key: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(key.replace("_", "-"), SETTINGS, n=1)
    return f"did you mean {close[0]!r}?" if close else "`p2pkv config show` lists the settings"
