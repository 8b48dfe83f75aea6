"""`p2pkv start`: run the peer of this home, in the foreground or detached from the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from p2pkv.commands.options import command, option, setting
from p2pkv.commands.session import Session

if TYPE_CHECKING:
    from p2pkv.commands.runner import PeerOptions

_EXAMPLE = """p2pkv start --listen 0.0.0.0:8468
p2pkv --home second start --listen [::]:0 --http off --bootstrap host:8468"""


@command("start", exits=(0, 1, 2), example=_EXAMPLE)
@setting("listen")
@setting("bootstrap")
@setting("advertise")
@setting("k")
@setting("alpha")
@setting("http")
@setting("swarm-key")
@setting("quota")
@setting("log-json")
@option("--detach", is_flag=True, help="run in the background; returns when the peer serves")
@click.option("--detached", is_flag=True, hidden=True)
@click.option("--with-parent", is_flag=True, hidden=True, help="stop at the end of standard input")
def start(session: Session, detach: bool, detached: bool, with_parent: bool, log_json: bool, **options: object) -> None:
    """Run a peer until SIGINT or SIGTERM, then leave the swarm gracefully. A second signal quits at once.

    When it serves, it prints one line: ready node=... udp=HOST:PORT http=URL home=DIR. Where no bootstrap
    peer answers, it goes on serving and trying. --listen and --bootstrap may be given several times.
    """
    session.home.prepare()
    if detach:
        from p2pkv.commands.detach import start_detached

        click.echo(start_detached(session.args))
        return
    from p2pkv.commands import logs, serve
    from p2pkv.commands.runner import run_in_loop

    logs.set_up(session.home.log, verbose=session.verbose, quiet=session.quiet, as_json=log_json)
    when_ready = serve.forget_terminal if detached else _nothing
    peer_options = _peer_options(options)
    run_in_loop(
        lambda: serve.serve(
            session.home, peer_options, as_json=session.json, with_parent=with_parent, when_ready=when_ready
        )
    )


def _peer_options(options: dict[str, object]) -> PeerOptions:
    from p2pkv.commands.runner import PeerOptions

    lists = {name: list(value) for name, value in options.items() if isinstance(value, tuple)}
    return PeerOptions(**{**options, **lists})  # type: ignore[arg-type]  # the settings' own types


def _nothing() -> None:
    return None
