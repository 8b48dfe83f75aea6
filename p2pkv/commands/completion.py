"""`p2pkv completion`: click's own completion scripts."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from p2pkv.commands.options import command
from p2pkv.commands.session import Session

_EXAMPLE = """eval "$(p2pkv completion bash)"          # in ~/.bashrc
p2pkv completion fish > ~/.config/fish/completions/p2pkv.fish"""
_SHELLS = ("bash", "zsh", "fish")


@command(
    "completion",
    exits=(0, 2),
    example=_EXAMPLE,
)
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(session: Session, shell: str) -> None:
    """Print the completion script for SHELL: bash, zsh or fish."""
    from p2pkv.commands.root import root

    found = get_completion_class(shell)
    assert found is not None, shell  # the choice allows only shells that click knows
    maker = found(root, {}, "p2pkv", "_P2PKV_COMPLETE")
    # Not `maker.source()`: that runs the shell to ask for its version.
    click.echo(maker.source_template % maker.source_vars())
