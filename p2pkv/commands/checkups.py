"""The checks of `p2pkv doctor`. Each gives findings and changes nothing that lasts."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from p2pkv.commands.session import Session
from p2pkv.errors import P2pkvError
from p2pkv.home import Home
from p2pkv.limits import SOCKET_BUFFER_BYTES, SOCKET_BUFFER_BYTES_SMALL
from p2pkv.outcomes import Sighting, Status
from p2pkv.units import format_size, parse_address

FREE_BYTES_LOW = 1 << 30  # below this a store of files will soon be full
FREE_BYTES_MIN = 64 << 20
RELEASED_S = 1_767_225_600.0  # 2026-01-01: a clock before this program was written is wrong


class Finding(msgspec.Struct, frozen=True):
    """What a check found, and what to do about it unless all is well."""

    level: Literal["ok", "warn", "fail"]
    name: str
    message: str
    mend: str = ""


def home(home: Home, quota: int | None) -> Iterator[Finding]:
    """The home folder can be written, and its disk has room."""
    place = home.folder
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        home.check_format()
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
    except P2pkvError as error:
        yield Finding("fail", "home", str(error), error.mend)
        return
    except OSError as error:
        yield Finding("fail", "home", f"cannot write {place}: {error.strerror}", "choose another with --home")
        return
    yield Finding("ok", "home", f"{home.folder} can be written")
    yield _free_space(place, quota)


def _free_space(place: Path, quota: int | None) -> Finding:
    free = shutil.disk_usage(place).free
    message = f"{format_size(free)} free"
    if free < FREE_BYTES_MIN:
        return Finding("fail", "disk", message, "free some space, or choose another home")
    if free < FREE_BYTES_LOW:
        return Finding("warn", "disk", message, "free some space, or bound the store with --quota")
    if quota is not None and quota > free:
        return Finding("warn", "disk", f"{message}, less than the quota", f"lower the quota of {format_size(quota)}")
    return Finding("ok", "disk", message)


def clock() -> Finding:
    """Records are ordered by their writers' clocks. A clock far off cannot write."""
    now = time.time()
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < RELEASED_S:
        return Finding("fail", "clock", f"it is {shown} here, which cannot be", "set the clock, best by NTP")
    return Finding("ok", "clock", shown)


def socket_buffers() -> Finding:
    """A small receive buffer drops datagrams in bursts."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
        got = probe.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    if Path("/proc/sys/net/core/rmem_max").exists():
        got //= 2  # Linux tells twice what it gives, for its own bookkeeping
    message = f"the system gives a receive buffer of {format_size(got)}"
    if got >= SOCKET_BUFFER_BYTES_SMALL:
        return Finding("ok", "buffers", message)
    names = ("net.core.rmem_max", "net.core.wmem_max")
    mend = "sudo sysctl -w " + " ".join(f"{name}={SOCKET_BUFFER_BYTES}" for name in names)
    return Finding("warn", "buffers", message + ", which drops datagrams under load", mend)


def ports(listen: Iterable[str], http: str) -> Iterator[Finding]:
    """Each address can be bound now. For a home where no peer runs."""
    for address in listen:
        yield _bindable("udp", address, socket.SOCK_DGRAM, "--listen")
    if http != "off":
        yield _bindable("http", http, socket.SOCK_STREAM, "--http")


def _bindable(name: str, address: str, kind: socket.SocketKind, flag: str) -> Finding:
    host, port = parse_address(address)
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=kind)[0]
        with socket.socket(family, kind) as probe:
            if kind is socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the peer does
            probe.bind(where)
    except OSError as error:
        return Finding("fail", name, f"{address}: {error.strerror or error}", f"choose another address with {flag}")
    return Finding("ok", name, f"{address} is free")


def running_peer(status: Status) -> Iterator[Finding]:
    """What the running peer says of itself."""
    yield Finding("ok", "peer", f"{status.node} runs, on {', '.join(status.udp)}")
    if status.contacts or not status.bootstrap:
        yield Finding("ok", "swarm", f"{status.contacts} contacts")
    else:
        mend = "check that the bootstrap peers run and that UDP reaches them"
        yield Finding("fail", "swarm", f"no contact; bootstrap is {', '.join(status.bootstrap)}", mend)
    for warning in status.warnings:
        yield Finding("warn", "peer", warning)


def seen_from_outside(status: Status, sightings: Iterable[Sighting]) -> Iterator[Finding]:
    """What routers in between make of this peer's address: told by contacts that are not on this machine."""
    outside = [one for one in sightings if not _on_this_machine(parse_address(one.address)[0])]
    if not outside:
        yield Finding("ok", "outside", "no contact beyond this machine has told how it sees this peer")
        return
    seen = sorted({one.seen for one in outside})
    ports = {parse_address(address)[1] for address in status.udp}
    message = f"{len(outside)} contacts see this peer at {', '.join(seen)}"
    if status.counters.get("advertised_unreachable"):
        mend = "forward that UDP port to this machine, or correct --advertise"
        yield Finding("warn", "outside", f"{message}, but cannot reach it at {status.advertised}", mend)
    elif status.advertised or {parse_address(address)[1] for address in seen} <= ports:
        yield Finding("ok", "outside", message)
    else:
        mend = f"forward UDP port {min(ports)} to this machine and name it: --advertise HOST:PORT"
        yield Finding("warn", "outside", f"{message}: a router changes the port, so newcomers may not reach it", mend)


def _on_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bootstrap(session: Session, address: str, k: int, swarm_key: str | None) -> Finding:
    """A peer answers there: asked by a short-lived peer, in the swarm's own protocol."""
    from p2pkv.commands.ephemeral import ephemeral_peer

    begun = time.monotonic()
    try:
        with ephemeral_peer({"bootstrap": [address], "k": k, "swarm_key": swarm_key}, session.verbose):
            took_ms = (time.monotonic() - begun) * 1000
    except P2pkvError as error:
        return Finding("fail", "bootstrap", str(error), error.mend)
    return Finding("ok", "bootstrap", f"{address} answers ({took_ms:.0f} ms with our own start)")
