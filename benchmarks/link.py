"""Transfers over a link that is not a loopback: rate, delay, loss and a queue, between two network namespaces.

    python -m benchmarks.link                     files over 1 Gbit/s, 20 ms round trip, at 0, 1 and 5 % loss
    python -m benchmarks.link --sharing           chunks beside one kernel TCP flow, 100 Mbit/s, 20 ms, three queues

Needs root, `ip`, a C compiler and /dev/net/tun; both peers, the emulator and the kernel share this machine's cores, so
the first figures are bounded by it. Files are published and fetched whole, durable and checked; beside TCP chunks are
pushed for some seconds and kept by nobody, so that only the line is shared. Prints a table and a JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.files import ROOT, hash_of
from benchmarks.network import fault

HOSTS = ("10.213.0.1", "10.213.0.2")
PORT = 5000
WARM_S = 3.0  # of a shared run, before it counts


class LinkKind(NamedTuple):
    """One link, the same both ways."""

    mbit: float
    delay_ms: float  # one way
    loss_percent: float
    queue_bytes: int

    @property
    def mb_per_s(self) -> float:
        return self.mbit / 8


@contextmanager
def link(kind: LinkKind) -> Iterator[list[list[str]]]:
    """Two namespaces with a link between them; what to put before a command so that it runs in each."""
    names = [f"p2pkv-link-{os.getpid()}-{side}" for side in range(2)]
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        emulator = f"{folder}/link"
        _run("cc", "-O2", "-o", emulator, str(Path(__file__).with_name("link_emulator.c")))
        for name in names:
            _run("ip", "netns", "add", name)
            stack.callback(_run, "ip", "netns", "del", name)
        devices = [f"p2pkv{side}" for side in range(2)]
        options = [str(int(kind.delay_ms * 1000)), str(kind.loss_percent), str(kind.mbit), str(kind.queue_bytes)]
        for device in devices:
            _run("ip", "tuntap", "add", device, "mode", "tun")
        running = subprocess.Popen([emulator, *devices, *options], stdout=subprocess.PIPE, text=True)
        stack.callback(_end, running)
        assert running.stdout is not None
        running.stdout.readline()
        inside = [["ip", "netns", "exec", name] for name in names]
        for device, name, before, host in zip(devices, names, inside, HOSTS, strict=True):
            _run("ip", "link", "set", device, "netns", name)
            _run(*before, "ip", "link", "set", "lo", "up")
            _run(*before, "ip", "address", "add", f"{host}/24", "dev", device)
            _run(*before, "ip", "link", "set", device, "up", "mtu", "1500", "txqueuelen", "10000")
        yield inside


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.wait()


# --- whole files ---


def files(kind: LinkKind, size: int) -> dict[str, float]:
    """MB/s of publishing a file over the link and of fetching it."""
    with tempfile.TemporaryDirectory(prefix="p2pkv-link-") as name, link(kind) as inside:
        folder, source = Path(name), Path(name) / "source.bin"
        source.write_bytes(os.urandom(size))
        module = [sys.executable, "-m", "benchmarks.files", "--system", "p2pkv"]
        common = ["--folder", name, "--source", str(source)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
        holder = subprocess.Popen([*inside[1], *module, "--role", "hold", *common, "--host", HOSTS[1]], **pipes)
        try:
            assert holder.stdout is not None
            address = json.loads(holder.stdout.readline())["address"]
            command = [*inside[0], *module, "--role", "move", *common, "--address", address, "--host", HOSTS[0]]
            moved = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, timeout=300)
            result: dict[str, float] = json.loads(moved.stdout)
            held = json.loads(holder.communicate("\n", timeout=60)[0])
        finally:
            holder.kill()
            holder.wait()
        if hash_of(folder / "copy") != hash_of(source):
            raise AssertionError("the copy differs")
    return {
        "publish": size / result["publish_s"] / 1e6,
        "fetch": size / result["fetch_s"] / 1e6,
        "cpu_s": result["cpu_s"],
        "holder_cpu_s": held["cpu_s"],
    }


# --- beside TCP ---


async def push_for(seconds: float) -> float:
    """Push chunks for some seconds; MB/s that the receiver acknowledged after the first ones."""
    service = await _service(HOSTS[0], 0)
    data, end_s = os.urandom(1 << 20), time.perf_counter() + WARM_S + seconds + 2

    async def keep_pushing(lane: int) -> None:
        number = 0
        while time.perf_counter() < end_s:
            await service.push((HOSTS[1], PORT), b"%d-%d" % (lane, number), data, deadline_s=60)
            number += 1

    lanes = [asyncio.create_task(keep_pushing(lane)) for lane in range(12)]
    await asyncio.sleep(WARM_S)
    recovery = next(iter(service._link_to.values())).connection.recovery
    before, began_s = recovery.delivered_bytes, time.perf_counter()
    await asyncio.sleep(seconds)
    rate = (recovery.delivered_bytes - before) / (time.perf_counter() - began_s) / 1e6
    for lane in lanes:
        lane.cancel()
    await asyncio.gather(*lanes, return_exceptions=True)
    await service.close()
    return rate


async def _service(host: str, port: int) -> Any:
    from p2pkv.swarm.bulk import BulkService
    from p2pkv.swarm.environment import Environment
    from p2pkv.swarm.udp import Endpoint

    async def kept(address: Any, topic: bytes, data: Any) -> bytes:
        return b"kept"

    async def nothing(address: Any, topic: bytes) -> bytes:
        return b""

    def receive(data: Any, address: Any) -> None:
        service.datagram_received(data, address)

    endpoint = Endpoint(receive)
    await endpoint.open(Environment(), [(host, port)])
    service = BulkService(endpoint, Environment(), on_offer=_accept, on_received=kept, on_request=nothing)
    return service


def _accept(*_: object) -> Any:
    from p2pkv.core.bulk.events import Accept

    return Accept()


async def take_for_ever() -> None:
    await _service(HOSTS[1], PORT)
    print("ready", flush=True)
    await asyncio.sleep(3600)


def tcp_receive(seconds: float) -> float:
    """MB/s that come by TCP in some seconds after the first ones."""
    with socket.create_server((HOSTS[1], PORT)) as server:
        print("ready", flush=True)
        connection, _ = server.accept()
    began_s, size, before, counted_s = time.perf_counter(), 0, 0, 0.0
    while time.perf_counter() < began_s + WARM_S + seconds:
        size += len(connection.recv(1 << 18))
        if not counted_s and time.perf_counter() > began_s + WARM_S:
            before, counted_s = size, time.perf_counter()
    return (size - before) / (time.perf_counter() - counted_s) / 1e6


def tcp_send(algorithm: str) -> None:
    connection = socket.socket()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, algorithm.encode())
    connection.connect((HOSTS[1], PORT))
    try:
        while True:
            connection.sendall(bytes(1 << 16))
    except OSError:
        return


def share(kind: LinkKind, rival: str, seconds: float) -> dict[str, float]:
    """MB/s of us and of one TCP flow that begin within a second, over the same link."""
    with link(kind) as inside, ExitStack() as stack:

        def start(side: int, *words: str) -> subprocess.Popen[str]:
            command = [*inside[side], sys.executable, "-m", "benchmarks.link", "--role", *words]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        receivers = [start(1, "take"), start(1, "tcp-receive", "--seconds", str(seconds))]
        for receiver in receivers:
            assert receiver.stdout is not None
            receiver.stdout.readline()
        start(0, "tcp-send", "--rival", rival)
        pusher = start(0, "push", "--seconds", str(seconds))
        results = [process.communicate(timeout=seconds + 60)[0] for process in (pusher, receivers[1])]
    return {"ours": float(results[0].split()[-1]), "theirs": float(results[1].split()[-1])}


ROLES = ("take", "push", "tcp-receive", "tcp-send")


def play(role: str, rival: str, seconds: float) -> None:
    if role == "take":
        asyncio.run(take_for_ever())
    elif role == "push":
        print(asyncio.run(push_for(seconds)))
    elif role == "tcp-receive":
        print(tcp_receive(seconds))
    else:
        tcp_send(rival)


def report_files(size: int, losses: list[float]) -> dict[str, Any]:
    results = {}
    for loss in losses:
        kind = LinkKind(1000, 10, loss, 2_500_000)
        results[f"{loss:g}"] = row = files(kind, size)
        parts = ", ".join(
            f"{verb} {row[verb]:.0f} MB/s ({row[verb] / kind.mb_per_s:.0%})" for verb in ("publish", "fetch")
        )
        print(f"1 Gbit/s, 20 ms, {loss:g} % loss: {parts}; CPU {row['cpu_s']:.1f} + {row['holder_cpu_s']:.1f} s")
    return results


def report_sharing(seconds: float, rivals: list[str], queues: list[int]) -> dict[str, Any]:
    results = {}
    for rival in rivals:
        for queue in queues:
            kind = LinkKind(100, 10, 0, queue * 1000)
            results[f"{rival} {queue}"] = row = share(kind, rival, seconds)
            ours, theirs = (row[who] / kind.mb_per_s for who in ("ours", "theirs"))
            print(
                f"100 Mbit/s, 20 ms, queue {queue} KB, beside {rival}: ours {ours:.0%}, theirs {theirs:.0%}", flush=True
            )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sharing", action="store_true", help="beside one kernel TCP flow")
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--loss", type=float, action="append", help="percent (may be given again)")
    parser.add_argument("--queue", type=int, action="append", help="KB (may be given again)")
    parser.add_argument("--rival", action="append", choices=["cubic", "bbr"])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--role", choices=ROLES)
    options = parser.parse_args()
    if options.role:
        play(options.role, (options.rival or [""])[0], options.seconds)
        return
    missing = fault() or ("" if shutil.which("cc") else "not installed: cc")
    if missing:
        sys.exit(f"no link can be made: {missing}")
    if options.sharing:
        result = report_sharing(options.seconds, options.rival or ["cubic", "bbr"], options.queue or [60, 250, 1000])
    else:
        result = report_files(options.mib << 20, options.loss or [0.0, 1.0, 5.0])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
