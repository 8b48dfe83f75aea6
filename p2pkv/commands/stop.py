"""`p2pkv stop`: end the peer of this home and wait until it is gone."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import time

from p2pkv.commands.options import DURATION, command, option
from p2pkv.commands.session import Session, is_listening
from p2pkv.errors import P2pkvError, UnreachableError
from p2pkv.gateway.ways import has_unix_sockets
from p2pkv.home import Home

_POLL_S = 0.05
_PEER_CREDENTIALS = struct.Struct("3i")  # struct ucred of unix(7): process, user, group


@command("stop", exits=(0, 1, 2, 6), example="p2pkv stop --wait 1m")
@option("--wait", type=DURATION, default="60s", show_default=True, metavar="TIME", help="how long to wait for its end")
@option("--kill", is_flag=True, help="end it by force where it does not stop in time")
def stop(session: Session, wait: float, kill: bool) -> None:
    """Stop the peer of this home: it hands over what it holds, and this command returns when it is gone."""
    process = _process_of(session.home)
    end = _End(session.home, process)
    if process > 0:
        _signal(process, signal.SIGTERM)
    else:
        with session.client() as client:
            client.stop()
    if not end.wait(wait):
        if not kill or process <= 0:
            raise P2pkvError(f"the peer (process {process}) is still stopping after {wait:g} s", _MEND_WAIT)
        _signal(process, signal.SIGKILL)
        end.wait(wait)
    if session.json:
        session.emit({"stopped": True, "pid": process})
    session.say(f"stopped the peer of {session.home.folder}")


_MEND_WAIT = "wait longer with --wait TIME, or end it by force with --kill"


def _process_of(home: Home) -> int:
    """The process that listens on the home's socket, 0 where it runs outside of our process namespace.

    Asked of the kernel where it can say so: a pid file may lie.
    """
    if not is_listening(home):
        raise UnreachableError(f"no peer runs in {home.folder}", "choose its home with --home DIR")
    if has_unix_sockets() and hasattr(socket, "SO_PEERCRED"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.connect(os.fspath(home.socket))
            raw = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
            return int(_PEER_CREDENTIALS.unpack(raw)[0])
    text = home.pid.read_text().strip()
    if not text.isdigit():
        raise P2pkvError(f"{home.pid} is damaged", "end the peer's process by its number")
    return int(text)


class _End:
    """The end of a process, whoever its parent is."""

    def __init__(self, home: Home, process: int) -> None:
        self.home = home
        self.handle = os.pidfd_open(process) if process > 0 and hasattr(os, "pidfd_open") else None

    def wait(self, timeout_s: float) -> bool:
        """Whether it ended in time."""
        if self.handle is not None:
            return bool(select.select([self.handle], [], [], timeout_s)[0])
        deadline = time.monotonic() + timeout_s
        while is_listening(self.home):
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True


def _signal(process: int, number: signal.Signals) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise P2pkvError(f"process {process} belongs to another user", "run this as that user") from error
