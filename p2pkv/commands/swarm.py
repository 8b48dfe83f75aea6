"""`p2pkv swarm`: several peers on this machine, for trying things out. None of them outlives this command.

Each child holds the end of a pipe from here as its standard input and leaves when that closes, however we end.
"""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from p2pkv.commands.children import start_self
from p2pkv.commands.options import command, option, setting
from p2pkv.commands.session import Session
from p2pkv.errors import InvalidError, P2pkvError
from p2pkv.home import Home

PEERS_MAX = 200
PORT_MAX = 65_535
READY_S = 60.0
LEAVE_S = 30.0
_LINE_BYTES_MAX = 65_536


@command("swarm", exits=(0, 1, 2), example="p2pkv swarm 5 --dir /tmp/swarm")
@click.argument("n", type=click.IntRange(1, PEERS_MAX))
@option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="folder of the homes  [default: swarm in the home]",
)
@option("--base-port", type=click.IntRange(1024, PORT_MAX), metavar="PORT", help="UDP port of the first (else any)")
@setting("k")
def swarm(session: Session, n: int, folder: str | None, base_port: int | None, k: int) -> None:
    """Start N peers on this machine as a swarm and keep them running until Ctrl-C.

    Their homes are DIR/1 to DIR/N and stay there: the same command starts the same peers again.
    """
    if base_port is not None and base_port + n - 1 > PORT_MAX:
        raise InvalidError(f"{n} ports from {base_port} on go beyond {PORT_MAX}", "choose a lower --base-port")
    homes = Path(folder).absolute() if folder else session.home.folder / "swarm"
    peers = Swarm(homes, base_port, k)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        for number, ready in enumerate(peers.start(n), 1):
            session.say(f"peer {number}: node={ready['node'][:12]} udp={ready['udp']} http={ready['http']}")
        _tell(session, peers)
        peers.wait(session)
    except KeyboardInterrupt:
        session.say("stopping the swarm")
    finally:
        peers.end()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _tell(session: Session, peers: Swarm) -> None:
    if session.json:
        session.emit({"peers": peers.ready})
        return
    first, last = (shlex.quote(peers.ready[index]["home"]) for index in (0, -1))
    click.echo(f"{len(peers.ready)} peers serve. Try, in another terminal:")
    click.echo(f"  p2pkv --home {first} put greeting hello")
    click.echo(f"  p2pkv --home {last} get greeting")
    if url := _dashboard(peers.ready[0]):
        click.echo(f"Dashboard: {url}")
    click.echo("Ctrl-C ends them all.")
    sys.stdout.flush()


def _dashboard(ready: dict[str, Any]) -> str:
    """The first peer's, with the token that opens it to its owner; empty where HTTP is off."""
    if ready["http"] == "off":
        return ""
    return f"{ready['http']}/?token={Home(ready['home']).token.read_text().strip()}"


class Swarm:
    """The child processes, in the order of their start. The first is the bootstrap of the others."""

    def __init__(self, homes: Path, base_port: int | None, k: int) -> None:
        self.homes = homes
        self.base_port = base_port
        self.k = k
        self.children: list[subprocess.Popen[bytes]] = []
        self.ready: list[dict[str, Any]] = []

    def start(self, count: int) -> Iterator[dict[str, Any]]:
        """Start the first peer, and when it serves all others at once; what each says of itself."""
        self._launch(1)
        for number in range(1, count + 1):
            self.ready.append(_ready(self.children[number - 1], number))
            yield self.ready[-1]
            if number == 1:
                for other in range(2, count + 1):
                    self._launch(other)

    def _launch(self, number: int) -> None:
        port = self.base_port + number - 1 if self.base_port else 0
        args = ["--json", "--home", str(self.homes / str(number)), "start", "--with-parent", "--k", str(self.k)]
        args += ["--listen", f"127.0.0.1:{port}", "--http", "127.0.0.1:0" if number == 1 else "off"]
        if self.ready:
            args += ["--bootstrap", self.ready[0]["udp"]]
        pipe = subprocess.PIPE
        child = start_self(args, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True, settings=False)
        self.children.append(child)

    def wait(self, session: Session) -> None:
        """Pass on what the peers say, and tell when one ends; raise P2pkvError when none is left."""
        outputs = {child.stderr.fileno(): child for child in self.children if child.stderr}
        while outputs:
            for handle in select.select(list(outputs), [], [])[0]:
                said = _read_some(outputs[handle])
                if said:
                    sys.stderr.buffer.write(said)
                    sys.stderr.flush()
                else:
                    child = outputs.pop(handle)
                    session.say(f"peer {self.children.index(child) + 1} ended ({_ending(child.wait())})")
        raise P2pkvError("all peers ended", f"see the logs in their homes, {self.homes}")

    def end(self) -> None:
        """Tell all to leave, wait for them, end by force whoever does not."""
        for child in self.children:
            if child.stdin:
                child.stdin.close()
        deadline = time.monotonic() + LEAVE_S
        for child in self.children:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _ready(child: subprocess.Popen[bytes], number: int) -> dict[str, Any]:
    assert child.stdout is not None  # it was asked for as a pipe
    if not select.select([child.stdout], [], [], READY_S)[0]:
        raise P2pkvError(f"peer {number} is not ready after {READY_S:g} s", "see the log in its home")
    line = child.stdout.readline(_LINE_BYTES_MAX)
    if line:
        entry: dict[str, Any] = json.loads(line)
        return entry
    child.wait()
    raise _failure(child, number)


def _failure(child: subprocess.Popen[bytes], number: int) -> P2pkvError:
    said = _read_some(child).decode(errors="replace").strip().splitlines()
    try:
        report = json.loads(said[-1]) if said else {}
    except ValueError:
        report = {"message": said[-1]}
    message = report.get("message") or f"it ended with exit code {child.returncode}"
    return P2pkvError(f"peer {number} did not start: {message}", report.get("mend", ""))


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def _read_some(child: subprocess.Popen[bytes]) -> bytes:
    assert child.stderr is not None  # it was asked for as a pipe
    return os.read(child.stderr.fileno(), _LINE_BYTES_MAX)
