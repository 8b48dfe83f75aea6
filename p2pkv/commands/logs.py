"""Where a running peer's log goes: standard error, and the rotating `log` of its home, as text or JSON lines."""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
import time
from pathlib import Path

from p2pkv.limits import LOG_BYTES_MAX, LOG_FILES_MAX

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message, and the exception if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, object] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


class _OneLine(logging.Formatter):
    """Text; a traceback only where it was asked for."""

    def __init__(self, tracebacks: bool) -> None:
        super().__init__(_TEXT)
        self.tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        if self.tracebacks or not record.exc_info:
            return super().format(record)
        line = logging.makeLogRecord({**record.__dict__, "exc_info": None, "exc_text": None, "stack_info": None})
        return super().format(line)


def set_up(file: Path | None, *, verbose: int = 0, quiet: bool = False, as_json: bool = False) -> None:
    """Send the log to standard error (warnings, unless -v says more) and, with everything from INFO, to a file."""
    to_terminal = logging.StreamHandler(sys.stderr)
    to_terminal.setLevel(logging.ERROR if quiet else [logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)])
    to_terminal.setFormatter(JsonFormatter() if as_json else _OneLine(verbose > 1))
    handlers: list[logging.Handler] = [to_terminal]
    if file is not None:
        handlers.append(_file_handler(file, as_json))
    logging.basicConfig(level=logging.DEBUG if verbose > 1 else logging.INFO, handlers=handlers, force=True)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


def _file_handler(file: Path, as_json: bool) -> logging.Handler:
    handler = logging.handlers.RotatingFileHandler(
        file, maxBytes=LOG_BYTES_MAX, backupCount=LOG_FILES_MAX - 1, encoding="utf-8", delay=True
    )
    handler.setFormatter(JsonFormatter() if as_json else logging.Formatter(_TEXT))
    return handler
