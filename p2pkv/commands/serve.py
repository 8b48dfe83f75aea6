"""The life of a peer under `p2pkv start`: ready line, signals, systemd, and the end with its parent.

Owns the process's signals and its standard output while the peer runs.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable

from p2pkv.commands import runner
from p2pkv.errors import UnreachableError
from p2pkv.home import Home

log = logging.getLogger("p2pkv")
# A peer makes some hundred objects a request and few cycles: with the interpreter's 700 the collector runs every few
# requests and walks the whole cache of pages, which costs gets a quarter of their rate.
GC_THRESHOLDS = (100_000, 50, 100)
FIRST_CONTACT_S = 5.0  # after this long alone, a warning


class Stop:
    """Told to stop: by a signal (a second one ends the process at once), or by the end of standard input."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def on_signals(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self._signalled, number)

    def _signalled(self, number: int) -> None:
        if self.asked.is_set():
            os._exit(128 + number)
        self.asked.set()

    def on_end_of_input(self) -> None:
        """Whoever started us holds the other end of the pipe; when it closes, that process is gone."""
        self._loop.add_reader(sys.stdin.fileno(), self._read_input)

    def _read_input(self) -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            self._loop.remove_reader(sys.stdin.fileno())
            self.asked.set()


async def serve(
    home: Home, options: runner.PeerOptions, *, as_json: bool, with_parent: bool, when_ready: Callable[[], None]
) -> None:
    """Run the peer of a home until it is told to stop, then leave gracefully."""
    stop = Stop()
    stop.on_signals()
    if with_parent:
        stop.on_end_of_input()
    gc.set_threshold(*GC_THRESHOLDS)
    async with runner.running(home, options) as running, asyncio.TaskGroup() as tasks:
        home.pid.write_text(f"{os.getpid()}\n")
        try:
            log.info("serving as %s on %s", running.node, ", ".join(running.udp))
            print(ready_line(home, running, as_json), flush=True)
            notify("READY=1")
            when_ready()
            watcher = tasks.create_task(_warn_while_alone(running, options))
            client = tasks.create_task(_pass_on(running.stop_asked, stop.asked))
            await stop.asked.wait()
            watcher.cancel()
            client.cancel()
            notify("STOPPING=1")
            log.info("stopping")
        finally:
            home.pid.unlink(missing_ok=True)


def ready_line(home: Home, running: runner.Running, as_json: bool) -> str:
    """The one line on standard output that says where the peer serves. Of several addresses, `udp` is the first."""
    if as_json:
        entry = {"node": running.node, "udp": running.udp[0], "http": running.http, "home": str(home.folder)}
        return json.dumps({**entry, "addresses": running.udp, "pid": os.getpid()})
    return f"ready node={running.node} udp={running.udp[0]} http={running.http} home={home.folder}"


async def _pass_on(first: asyncio.Event, second: asyncio.Event) -> None:
    await first.wait()
    second.set()


async def _warn_while_alone(running: runner.Running, options: runner.PeerOptions) -> None:
    """Say once that nobody answers; the peer itself goes on trying."""
    if not options.bootstrap:
        return
    try:
        await runner.wait_connected(running.peer, options, FIRST_CONTACT_S)
    except UnreachableError as error:
        log.warning("%s; still trying (%s)", error, error.mend)


def notify(state: str) -> None:
    """Tell systemd, where it asked to be told (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    target = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        try:
            sender.sendto(state.encode(), target)
        except OSError as error:
            log.warning("cannot tell the service manager %s: %s", state, error)


def forget_terminal() -> None:
    """Let go of standard output and error, which belong to a command that has ended."""
    null = os.open(os.devnull, os.O_RDWR)
    sys.stdout.flush()
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)
