"""Atomic batches by real processes: the command line, HTTP, and a peer that is killed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

READY = re.compile(r"ready node=[0-9a-f]{40} udp=(\S+) http=(\S+) home=(\S+)\n")
BATCH = b"""{"key": "account/anna", "name": "balance", "value": "70"}
{"key": "account/bert", "name": "balance", "value": "130"}
"""


class Peer:
    """One `p2pkv start`."""

    def __init__(self, home: Path, *args: str) -> None:
        self.home = home
        command = [sys.executable, "-m", "p2pkv", "--home", str(home), "start", "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            [*command, "--http", "127.0.0.1:0", *args], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        ready = READY.fullmatch(self.process.stdout.readline())
        assert ready is not None
        self.udp, self.http = ready[1], ready[2]

    def run(self, *args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "p2pkv", "--home", str(self.home), *args]
        return subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False)

    def post(self, target: str, body: bytes) -> tuple[int, dict[str, object]]:
        headers = {
            "Authorization": f"Bearer {(self.home / 'http.token').read_text().strip()}",
            "Content-Type": "application/x-ndjson",
        }
        request = urllib.request.Request(f"{self.http.rstrip('/')}{target}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[list[Peer]]:
    first = Peer(tmp_path / "0")
    peers = [first, *(Peer(tmp_path / str(number), "--bootstrap", first.udp) for number in (1, 2))]
    yield peers
    for peer in peers:
        if peer.process.poll() is None:
            peer.kill()


def test_a_batch_by_the_command_line_and_by_http(peers: list[Peer], tmp_path: Path) -> None:
    done = peers[0].run("--json", "batch", stdin=BATCH)
    assert done.returncode == 0, done.stderr
    assert [record["reached"] for record in json.loads(done.stdout)["records"]] == [True, True]
    assert peers[2].run("get", "account/bert").stdout == b"130\n"

    assert peers[1].run("put", "orders", "first", "--name", "o-1", "--once").returncode == 0
    (tmp_path / "changes").write_bytes(
        BATCH.replace(b"130", b"0") + b'{"key": "orders", "name": "o-1", "value": "2"}\n'
    )
    refused = peers[0].run("batch", str(tmp_path / "changes"))
    assert refused.returncode == 4
    assert b"nothing of the batch was stored" in refused.stderr and b"orders/o-1" in refused.stderr
    assert peers[2].run("get", "account/bert").stdout == b"130\n"

    status, outcome = peers[1].post("/v1/batch", b'{"key": "account/anna", "name": "balance", "delete": true}\n' * 1)
    assert (status, outcome["committed"]) == (201, True)
    status, problem = peers[1].post("/v1/batch", (tmp_path / "changes").read_bytes())
    assert (status, problem["type"]) == (409, "refused")
    assert peers[0].run("get", "account/anna").returncode == 3

    peers[1].kill()
    assert peers[0].run("batch", stdin=BATCH).returncode == 0
    assert peers[2].run("get", "account/anna").stdout == b"70\n"
