"""Runs a peer and its gateway for `start` and for short-lived peers: makes them, starts them, stops them in order.

The one module of `commands/` that imports the peer. Owns no signals, no threads and no output.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from p2pkv.errors import P2pkvError, UnreachableError
from p2pkv.gateway.http import Gateway
from p2pkv.home import Home
from p2pkv.limits import ALPHA_DEFAULT, K_DEFAULT
from p2pkv.peer import Peer
from p2pkv.units import parse_address


@dataclass(frozen=True)
class PeerOptions:
    """What a peer is started with, as the settings give it."""

    listen: list[str] = field(default_factory=lambda: ["0.0.0.0:0"])
    bootstrap: list[str] = field(default_factory=list)
    advertise: str | None = None
    k: int = K_DEFAULT
    alpha: int = ALPHA_DEFAULT
    http: str = "off"
    swarm_key: str | None = None
    quota: int | None = None
    ephemeral: bool = False


@dataclass(frozen=True)
class Running:
    """A peer that serves. `stop_asked` is set when a client asks it to stop."""

    peer: Peer
    node: str
    udp: list[str]
    http: str
    stop_asked: asyncio.Event


@asynccontextmanager
async def running(home: Home, options: PeerOptions) -> AsyncIterator[Running]:
    """A peer with its gateway, both serving inside the block. Raises P2pkvError with the mend."""
    peer = _make_peer(home, options)
    stop_asked = asyncio.Event()
    with _explained("--listen", options.listen):
        await peer.start()
    try:
        gateway = Gateway(peer, home, options.http, config=asdict(options), request_stop=stop_asked.set)
        with _explained("--http", [options.http]):
            await gateway.start()
        peer.http_url = gateway.url or ""
        try:
            status = await peer.status()
            yield Running(peer, status.node, list(status.udp), gateway.url or "off", stop_asked)
        finally:
            await gateway.stop()
    finally:
        await peer.stop()


def _make_peer(home: Home, options: PeerOptions) -> Peer:
    if options.swarm_key is not None:
        # Never ignored: whoever closes a swarm must not find it open.
        raise P2pkvError("this version has no closed swarms yet", "leave out --swarm-key")
    folder = None if options.ephemeral else home.folder
    return Peer(
        folder,
        listen=options.listen,
        bootstrap=options.bootstrap,
        advertise=options.advertise,
        k=options.k,
        alpha=options.alpha,
        quota=options.quota,
        ephemeral=options.ephemeral,
    )


@contextmanager
def _explained(flag: str, addresses: list[str]) -> Iterator[None]:
    """Turns the system's refusal of an address into an error that names the option."""
    try:
        yield
    except (OSError, P2pkvError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise
        code = cause.errno or getattr(cause.__cause__, "errno", None)  # uvloop keeps it in the cause
        where = ", ".join(addresses)
        if code == errno.EADDRINUSE:
            mend = f"choose another with {flag} HOST:PORT (port 0 picks one), or `p2pkv stop` what runs there"
            raise P2pkvError(f"{where} is in use already", mend) from error
        if code in {errno.EADDRNOTAVAIL, errno.EACCES} or isinstance(cause, socket.gaierror):
            reason = os.strerror(code) if code and code > 0 else str(cause)
            mend = f"choose an address of this machine and a port over 1023 with {flag}"
            raise P2pkvError(f"cannot listen on {where}: {reason}", mend) from error
        raise


async def wait_connected(peer: Peer, options: PeerOptions, timeout_s: float) -> None:
    """Raise UnreachableError where no bootstrap peer answers in time."""
    try:
        await peer.wait_connected(timeout_s)
    except (UnreachableError, TimeoutError) as error:
        addresses = ", ".join(options.bootstrap)
        if unknown := [host for host in map(_host, options.bootstrap) if not await _resolves(host)]:
            message = f"no bootstrap peer answers: {addresses} (no such host: {', '.join(unknown)})"
            raise UnreachableError(message, "check the name, and that this machine can resolve it") from error
        raise UnreachableError(f"no bootstrap peer answers: {addresses}", _MEND_BOOTSTRAP) from error


def _host(address: str) -> str:
    return parse_address(address)[0]


async def _resolves(host: str) -> bool:
    try:
        return bool(await asyncio.get_running_loop().getaddrinfo(host, None))
    except OSError:
        return False


_MEND_BOOTSTRAP = "check the address, that the peer runs, and that UDP reaches it"


def run_in_loop(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine in a fresh loop: uvloop's where it is installed."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main())


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
