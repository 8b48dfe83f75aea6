"""Runs a peer and its gateway for `start` and for short-lived peers: makes them, starts them, stops them in order.

The one module of `commands/` that imports the peer. Owns no signals, no threads and no output.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from p2pkv.errors import P2pkvError, UnreachableError
from p2pkv.gateway.http import Gateway
from p2pkv.home import Home
from p2pkv.limits import ALPHA_DEFAULT, K_DEFAULT
from p2pkv.peer import Peer

log = logging.getLogger("p2pkv")


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
    """A peer that serves."""

    peer: Peer
    node: str
    udp: list[str]
    http: str


@asynccontextmanager
async def running(home: Home, options: PeerOptions) -> AsyncIterator[Running]:
    """A peer with its gateway, both serving inside the block. Raises P2pkvError with the mend."""
    peer = _make_peer(home, options)
    with _explained(options):
        await peer.start()
    try:
        gateway = Gateway(peer, home, options.http)
        with _explained(options):
            await gateway.start()
        try:
            status = peer.status()
            yield Running(peer, status.node, list(status.udp), status.http or "off")
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


class _explained:  # noqa: N801 - reads as a with-statement's verb
    """Turns the system's refusal of an address into an error that names the option."""

    def __init__(self, options: PeerOptions) -> None:
        self.options = options

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError):
            return
        if error.errno == errno.EADDRINUSE:
            addresses = ", ".join([*self.options.listen, self.options.http])
            raise P2pkvError(f"an address is in use already (of {addresses})", _MEND_IN_USE) from error
        if error.errno in {errno.EADDRNOTAVAIL, errno.EACCES}:
            raise P2pkvError(f"cannot listen there: {error.strerror}", _MEND_LISTEN) from error


_MEND_IN_USE = "choose others with --listen HOST:PORT and --http HOST:PORT (port 0 picks one), or --http off"
_MEND_LISTEN = "choose an address of this machine and a port over 1023 with --listen and --http"


async def wait_connected(peer: Peer, options: PeerOptions, timeout_s: float) -> None:
    """Raise UnreachableError where no bootstrap peer answers in time."""
    try:
        await peer.wait_connected(timeout_s)
    except (UnreachableError, TimeoutError) as error:
        raise UnreachableError(f"no bootstrap peer answers: {', '.join(options.bootstrap)}", _MEND_BOOTSTRAP) from error


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
