"""`p2pkv start --detach`: the same command line in a new session, until it says that it is ready."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence

from p2pkv.commands.children import start_self
from p2pkv.errors import P2pkvError

_MESSAGE_BYTES_MAX = 4096


def start_detached(args: Sequence[str]) -> str:
    """Start the peer in the background; its ready line. Raises P2pkvError with what it said where it failed."""
    kept = [arg for arg in args if arg != "--detach"]
    with tempfile.TemporaryFile() as errors:
        child = start_self(
            [*kept, "--detached"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        line = _first_line(child)
        if line:
            return line
        child.wait()
        errors.seek(0)
        said = errors.read(_MESSAGE_BYTES_MAX).decode(errors="replace").strip().splitlines()
    raise _failure(said[-1] if said else f"it ended with exit code {child.returncode}")


def _first_line(child: subprocess.Popen[bytes]) -> str:
    """The ready line, empty where the child ended without one. Ctrl-C takes the child along."""
    assert child.stdout is not None  # it was asked for as a pipe
    try:
        return child.stdout.readline().decode(errors="replace").strip()
    except KeyboardInterrupt:
        child.terminate()
        child.wait()
        raise
    finally:
        child.stdout.close()


def _failure(line: str) -> P2pkvError:
    """The child's last line, text or JSON, as an error of ours."""
    if line.startswith("{"):
        report = json.loads(line)
        message, mend = str(report.get("message", line)), str(report.get("mend", ""))
    else:
        message, _, mend = line.removeprefix("p2pkv: ").partition("; ")
    return P2pkvError(f"the peer did not start: {message}", mend)
