"""A short-lived peer that stores nothing, for commands in a home where no peer runs.

It serves the very HTTP of a lasting peer on a Unix socket of its own, in a thread with its own loop, so that every
command has one implementation: a client and a socket.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from p2pkv.commands import logs, runner
from p2pkv.gateway.ways import has_unix_sockets
from p2pkv.home import Home

CONNECT_S = 10.0
STOP_S = 10.0


@contextmanager
def ephemeral_peer(settings: Mapping[str, Any], verbose: int = 0) -> Iterator[Path]:
    """The socket of a peer that is connected to the swarm. Raises P2pkvError where that fails."""
    logs.set_up(None, verbose=verbose, quiet=verbose == 0)
    options = runner.PeerOptions(
        bootstrap=list(settings["bootstrap"]),
        k=settings["k"],
        swarm_key=settings["swarm_key"],
        ephemeral=True,
        http="off" if has_unix_sockets() else "127.0.0.1:0",
    )
    with tempfile.TemporaryDirectory(prefix="p2pkv-") as folder:
        home = Home(folder).prepare()
        thread = _PeerThread(home, options)
        thread.start()
        try:
            thread.wait_ready()
            yield home.socket
        finally:
            thread.stop()


class _PeerThread(threading.Thread):
    """Owns the loop and the peer in it. Its failure before being ready is raised in the thread that waits."""

    def __init__(self, home: Home, options: runner.PeerOptions) -> None:
        super().__init__(name="p2pkv-peer", daemon=True)  # Ctrl-C must not wait for a peer that does not stop
        self.home = home
        self.options = options
        self._settled = threading.Event()
        self._error: BaseException | None = None
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self) -> None:
        try:
            runner.run_in_loop(self._serve)
        except asyncio.CancelledError:
            pass  # that is how `stop` ends it
        except BaseException as error:  # carried to the waiting thread
            self._error = error
        finally:
            self._settled.set()

    async def _serve(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        async with runner.running(self.home, self.options) as running:
            await runner.wait_connected(running.peer, self.options, CONNECT_S)
            self._settled.set()
            await running.stop_asked.wait()

    def wait_ready(self) -> None:
        self._settled.wait()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End the peer, also while it is still connecting, and wait for it, within bounds."""
        if self._loop is not None and self._task is not None and self.is_alive():
            try:
                self._loop.call_soon_threadsafe(self._task.cancel)
            except RuntimeError:  # the loop ended by itself in this moment
                return
        self.join(STOP_S)
