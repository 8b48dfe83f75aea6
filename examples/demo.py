"""A swarm on this machine, seen at work: a file goes up, two of five peers are killed, the file comes down whole.

Uses only the command line of p2pkv, as a person would: every peer is a process of its own. Leaves nothing behind.
With `--keep` the swarm and its dashboard stay until Ctrl-C.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PEERS = 5
KILLED = 2
FILE_BYTES = 64 << 20
START_DEADLINE_S = 30.0
CLI = [sys.executable, "-m", "p2pkv"]


@dataclass
class PeerProcess:
    """One running `p2pkv start`."""

    number: int
    home: Path
    process: subprocess.Popen[str]
    udp: str
    http: str
    node: str

    def kill(self) -> None:
        """The hard way: no goodbye, nothing written."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the swarm running until Ctrl-C")
    parser.add_argument("--size", type=int, default=FILE_BYTES, help="bytes of the file (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="p2pkv-demo-") as folder:
        try:
            return run(Path(folder), options.size, keep=options.keep)
        except KeyboardInterrupt:
            say("interrupted; the peers are stopped")
            return 130


def run(folder: Path, size_bytes: int, *, keep: bool) -> int:
    peers: list[PeerProcess] = []
    try:
        with step(f"start {PEERS} peers, each a process with its own home and UDP port"):
            for number in range(PEERS):
                peers.append(start_peer(folder, number, peers[0].udp if peers else None))
        for peer in peers:
            say(f"    peer {peer.number}  {peer.udp}  node {peer.node[:12]}")
        original = make_file(folder / "holiday.bin", size_bytes)
        digest = sha256(original)
        say(f"    the file: {original.name}, {size_bytes >> 20} MiB, SHA-256 {digest[:16]}...")

        with step("upload it on peer 0", size_bytes):
            p2pkv(peers[0], "--quiet", "upload", str(original))
        show_replicas(peers[0], original.name)

        victims = peers[1 : 1 + KILLED]
        with step(f"kill peers {' and '.join(str(peer.number) for peer in victims)} with SIGKILL"):
            for peer in victims:
                peer.kill()
        reader = peers[-1]
        copy = folder / "copy.bin"
        with step(f"download it on peer {reader.number}", size_bytes):
            p2pkv(reader, "--quiet", "download", original.name, "--to", str(copy))
        equal = sha256(copy) == digest
        say(f"    SHA-256 {sha256(copy)[:16]}...  {'equal' if equal else 'NOT EQUAL'}")
        say("the file survived the death of two peers" if equal else "the file did NOT survive")
        if keep and equal:
            wait_for_ctrl_c(peers[0])
        return 0 if equal else 1
    finally:
        for peer in reversed(peers):
            peer.stop()


def start_peer(folder: Path, number: int, bootstrap: str | None) -> PeerProcess:
    home = folder / f"peer{number}"
    http = "127.0.0.1:0" if number == 0 else "off"
    command = [*CLI, "--home", str(home), "--json", "start", "--listen", "127.0.0.1:0", "--http", http]
    if bootstrap:
        command += ["--bootstrap", bootstrap]
    log = (folder / f"peer{number}.log").open("w")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=clean_environment())
    log.close()
    assert process.stdout
    line = process.stdout.readline()
    if not line:
        process.wait()
        raise SystemExit(f"peer {number} did not start:\n{(folder / f'peer{number}.log').read_text()}")
    ready = json.loads(line)
    return PeerProcess(number, home, process, ready["udp"], ready["http"], ready["node"])


def clean_environment() -> dict[str, str]:
    """The demo's peers take nothing from the settings of whoever runs it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("P2PKV_")}


def p2pkv(peer: PeerProcess, *arguments: str) -> str:
    done = subprocess.run(
        [*CLI, "--home", str(peer.home), *arguments],
        capture_output=True,
        text=True,
        env=clean_environment(),
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"p2pkv {' '.join(arguments)} failed with {done.returncode}:\n{done.stderr}")
    return done.stdout


def show_replicas(peer: PeerProcess, name: str) -> None:
    stat = json.loads(p2pkv(peer, "--json", "stat-file", name))
    counts = [sum(replica["holds"] for replica in chunk["replicas"]) for chunk in stat["chunks"]]
    fewest = "" if min(counts) == max(counts) else f"{min(counts)} to "
    say(f"    {len(counts)} chunks, each on {fewest}{max(counts)} of {PEERS} peers")


def make_file(path: Path, size_bytes: int) -> Path:
    """Bytes that do not compress, so that every one of them has to travel."""
    block = 1 << 20
    with path.open("wb") as file:
        for offset in range(0, size_bytes, block):
            file.write(os.urandom(min(block, size_bytes - offset)))
    return path


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def step(what: str, size_bytes: int = 0) -> Iterator[None]:
    """Say what is done, and how long it took."""
    print(f"--> {what} ... ", end="", flush=True)
    began = time.perf_counter()
    yield
    seconds = time.perf_counter() - began
    rate = f", {size_bytes / seconds / 1e6:.0f} MB/s" if size_bytes else ""
    print(f"{seconds:.2f} s{rate}", flush=True)


def say(text: str) -> None:
    print(text, flush=True)


def wait_for_ctrl_c(peer: PeerProcess) -> None:
    token = (peer.home / "http.token").read_text().strip()
    say(f"\nthe swarm stays until Ctrl-C; its dashboard: {peer.http}/?token={token}")
    say(f"talk to it: p2pkv --home {peer.home} status")
    try:
        signal.pause()
    except KeyboardInterrupt:
        say("\nstopping the peers")


if __name__ == "__main__":
    sys.exit(main())
