"""One file between two processes on this machine, p2pkv beside libtorrent, and the machine's own limits beside both.

    python -m benchmarks.files [--mib 256] [--runs 3] [--systems p2pkv,libtorrent]

Each run starts a holder in a process of its own and transfers to another one; content is random, on disk at both ends,
and compared by BLAKE3 at the end (not timed). `publish` is from the plain file to durable at the holder (libtorrent:
hashing the torrent), `fetch` from the request to the finished, synced file. Prints a table and a JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from blake3 import blake3

from benchmarks.measures import median

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 120.0
PIECE_BYTES = 1 << 20
MACHINE_BYTES_MAX = 256 << 20
UDP_SEGMENT, UDP_GRO = 103, 104  # of Linux; the socket module names them only later


def hash_of(path: Path) -> str:
    return blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()


def own_cost() -> dict[str, float]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    lines = Path("/proc/self/status").read_text().splitlines()  # getrusage's peak is that of the parent at the fork
    peak_kb = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return {"cpu_s": usage.ru_utime + usage.ru_stime, "peak_mb": peak_kb / 1024}


# --- p2pkv ---


async def p2pkv_hold(folder: Path, host: str) -> None:
    """A peer that keeps what it is sent, on disk."""
    from p2pkv.peer import Peer

    async with Peer(folder / "home", listen=[f"{host}:0"]) as peer:
        print(json.dumps({"address": peer.address}), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
    print(json.dumps(own_cost()), flush=True)


async def p2pkv_move(folder: Path, source: Path, address: str, host: str) -> dict[str, float]:
    """Publish from one peer without a store, fetch by another one."""
    from p2pkv.peer import Peer

    def guest() -> Peer:
        return Peer(listen=[f"{host}:0"], bootstrap=[address], ephemeral=True)

    async with guest() as up:
        await up.wait_connected()
        began_s = time.perf_counter()
        await up.upload(source, name="file")
        publish_s = time.perf_counter() - began_s
    async with guest() as down:
        await down.wait_connected()
        began_s = time.perf_counter()
        await down.download("file", folder / "copy")
        fetch_s = time.perf_counter() - began_s
    return {"publish_s": publish_s, "fetch_s": fetch_s, **own_cost()}


def run_p2pkv(role: str, folder: Path, source: Path, address: str, host: str) -> None:
    import uvloop

    if role == "hold":
        uvloop.run(p2pkv_hold(folder, host))
    else:
        print(json.dumps(uvloop.run(p2pkv_move(folder, source, address, host))), flush=True)


# --- libtorrent ---

_TORRENT = {
    "listen_interfaces": "127.0.0.1:0",
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "allow_multiple_connections_per_ip": True,
    "in_enc_policy": 2,
    "out_enc_policy": 2,
}


def torrent_hold(folder: Path, source: Path) -> None:
    import libtorrent as lt

    began_s = time.perf_counter()
    storage = lt.file_storage()
    lt.add_files(storage, str(source))
    torrent = lt.create_torrent(storage, 1 << 20)
    lt.set_piece_hashes(torrent, str(source.parent))
    raw = lt.bencode(torrent.generate())
    session = lt.session(_TORRENT)
    handle = session.add_torrent(
        {"ti": lt.torrent_info(lt.bdecode(raw)), "save_path": str(source.parent), "flags": lt.torrent_flags.seed_mode}
    )
    while not handle.status().is_seeding or not session.listen_port():
        time.sleep(0.001)
    publish_s = time.perf_counter() - began_s
    (folder / "torrent").write_bytes(raw)
    print(json.dumps({"address": f"127.0.0.1:{session.listen_port()}", "publish_s": publish_s}), flush=True)
    sys.stdin.readline()
    print(json.dumps(own_cost()), flush=True)


def torrent_move(folder: Path, address: str) -> None:
    import libtorrent as lt

    session = lt.session(_TORRENT)
    info = lt.torrent_info(lt.bdecode((folder / "torrent").read_bytes()))
    began_s = time.perf_counter()
    handle = session.add_torrent({"ti": info, "save_path": str(folder / "in")})
    host, port = address.rsplit(":", 1)
    handle.connect_peer((host, int(port)))
    while not handle.status().is_seeding:
        if time.perf_counter() - began_s > PATIENCE_S:
            raise TimeoutError("libtorrent did not finish")
        time.sleep(0.001)
    handle.flush_cache()
    copy = folder / "in" / info.name()
    fd = os.open(copy, os.O_RDWR)
    os.fsync(fd)
    fetch_s = time.perf_counter() - began_s
    copy.rename(folder / "copy")
    print(json.dumps({"fetch_s": fetch_s, **own_cost()}), flush=True)


def run_libtorrent(role: str, folder: Path, source: Path, address: str, host: str) -> None:
    if role == "hold":
        torrent_hold(folder, source)
    else:
        torrent_move(folder, address)


SYSTEMS = {"p2pkv": run_p2pkv, "libtorrent": run_libtorrent}


# --- the machine ---


def machine(folder: Path, size: int) -> dict[str, float]:
    """MB/s of what every transfer needs, alone."""
    data = os.urandom(1 << 20) * (size >> 20)
    began_s = time.perf_counter()
    blake3(data).digest()
    hashing_s = time.perf_counter() - began_s
    began_s = time.perf_counter()
    with (folder / "raw").open("wb") as file:
        for at in range(0, size, 1 << 20):
            file.write(memoryview(data)[at : at + (1 << 20)])
        file.flush()
        os.fsync(file.fileno())
    disk_s = time.perf_counter() - began_s
    (folder / "raw").unlink()
    return {
        "blake3": size / hashing_s / 1e6,
        "disk_fsync": size / disk_s / 1e6,
        "udp": raw_udp(1200),
        "udp_mtu": raw_udp(9000),
    }


def raw_udp(packet_bytes: int, seconds: float = 1.0) -> float:
    """MB/s that arrive over loopback in packets of this size, from a process that does nothing but send to one that
    does nothing but take them in; many to a call where the system can."""
    udp = (socket.AF_INET, socket.SOCK_DGRAM)
    with socket.socket(*udp) as taker, socket.socket(*udp) as sender:
        taker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        taker.bind(("127.0.0.1", 0))
        taker.settimeout(1.0)
        burst = (60_000 // packet_bytes) * packet_bytes
        try:
            sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, packet_bytes)
            taker.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        except OSError:
            burst = packet_bytes
        sender.connect(taker.getsockname())
        child = multiprocessing.get_context("fork").Process(target=_flood, args=(sender, bytes(burst)), daemon=True)
        child.start()
        try:
            return _drain(taker, seconds)
        finally:
            child.kill()
            child.join()


def _flood(sender: socket.socket, burst: bytes) -> None:
    while True:
        sender.send(burst)


def _drain(taker: socket.socket, seconds: float) -> float:
    buffer = bytearray(1 << 16)
    taken = taker.recv_into(buffer) * 0  # from the first packet on
    began_s = time.perf_counter()
    while (elapsed_s := time.perf_counter() - began_s) < seconds:
        taken += taker.recv_into(buffer)
    return taken / elapsed_s / 1e6


# --- the runs ---


def measure(system: str, source: Path) -> dict[str, float]:
    """One holder, one transfer; seconds and costs. Raises where the copy is not equal."""
    with tempfile.TemporaryDirectory(prefix="p2pkv-bench-", dir=source.parent) as name:
        folder = Path(name)
        (folder / "in").mkdir()
        command = [sys.executable, "-m", "benchmarks.files", "--role"]
        common = ["--system", system, "--folder", name, "--source", str(source)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
        holder = subprocess.Popen([*command, "hold", *common], **pipes)
        try:
            assert holder.stdout is not None
            hello = json.loads(holder.stdout.readline())
            moved = subprocess.run(
                [*command, "move", *common, "--address", hello["address"]],
                capture_output=True,
                text=True,
                cwd=ROOT,
                check=True,
                timeout=2 * PATIENCE_S + source.stat().st_size / 20e6,
            )
            result: dict[str, float] = {**hello, **json.loads(moved.stdout)}
            end, _ = holder.communicate("\n", timeout=60)
            held = json.loads(end)
        finally:
            holder.kill()
            holder.wait()
        if hash_of(folder / "copy") != hash_of(source):
            raise AssertionError(f"{system}: the copy differs")
        return {**result, "holder_cpu_s": held["cpu_s"], "holder_peak_mb": held["peak_mb"]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--role", choices=["hold", "move"])
    parser.add_argument("--system")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--source", type=Path)
    parser.add_argument("--address", default="")
    parser.add_argument("--host", default="127.0.0.1")
    options = parser.parse_args()
    if options.role:
        SYSTEMS[options.system](options.role, options.folder, options.source, options.address, options.host)
        return
    report(options.systems.split(","), options.mib << 20, options.runs, options.folder)


def report(systems: list[str], size: int, runs: int, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="p2pkv-bench-", dir=folder) as name:
        source = Path(name) / "source.bin"
        with source.open("wb") as file:
            for at in range(0, size, PIECE_BYTES):
                file.write(os.urandom(min(PIECE_BYTES, size - at)))
        limits = machine(Path(name), min(size, MACHINE_BYTES_MAX))
        results: dict[str, list[dict[str, float]]] = {system: [] for system in systems}
        for _ in range(runs):
            for system in systems:
                results[system].append(measure(system, source))
    print(
        f"machine: BLAKE3 {limits['blake3']:.0f} MB/s, disk with fsync {limits['disk_fsync']:.0f} MB/s, "
        f"raw UDP {limits['udp']:.0f} MB/s in packets of 1,200 bytes, {limits['udp_mtu']:.0f} of 9,000"
    )
    for system, rows in results.items():
        fetch = [size / row["fetch_s"] / 1e6 for row in rows]
        both = [size / (row["publish_s"] + row["fetch_s"]) / 1e6 for row in rows]
        publish = [size / row["publish_s"] / 1e6 for row in rows]
        print(
            f"{system}: fetch {median(fetch):.0f} MB/s ({min(fetch):.0f}..{max(fetch):.0f}), publish "
            f"{median(publish):.0f}, publish to retrieved {median(both):.0f}; CPU {rows[-1]['cpu_s']:.2f} + "
            f"{rows[-1]['holder_cpu_s']:.2f} s, peak {rows[-1]['peak_mb']:.0f} + {rows[-1]['holder_peak_mb']:.0f} MB"
        )
    print(json.dumps({"size": size, "machine": limits, "runs": results}))


if __name__ == "__main__":
    main()
