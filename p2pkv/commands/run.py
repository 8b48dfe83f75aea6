"""Runs one command line and turns whatever it raises into an exit code and one line on standard error."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

import click
from click.core import ParameterSource

from p2pkv.commands.exits import BROKEN_PIPE, FAILED, INTERRUPTED, USAGE
from p2pkv.commands.root import root
from p2pkv.commands.session import Session
from p2pkv.config import SETTINGS
from p2pkv.errors import P2pkvError

PROGRAM = "p2pkv"


def run(args: Sequence[str]) -> int:
    """The exit code of a command line. Prints errors; raises nothing."""
    if "_P2PKV_COMPLETE" in os.environ:
        root.main(list(args), prog_name=PROGRAM, complete_var="_P2PKV_COMPLETE")
    session = Session(args)
    try:
        code = _invoke(args, session)
        sys.stdout.flush()
        return code
    except BaseException as error:
        return _report(error, session)


def _invoke(args: Sequence[str], session: Session) -> int:
    try:
        with root.make_context(PROGRAM, list(args), obj=session) as context:
            root.invoke(context)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    return 0


def _report(error: BaseException, session: Session) -> int:
    """Say what happened in one line, behind all data that came before; the exit code."""
    try:
        sys.stdout.flush()
    except OSError as lost:
        _let_go_of_output()
        if isinstance(lost, BrokenPipeError):
            return BROKEN_PIPE
    if isinstance(error, click.ClickException) and type(error).__name__ == "NoArgsIsHelpError":  # since click 8.2
        click.echo(error.format_message(), err=True)
        return USAGE
    if isinstance(error, BrokenPipeError) or getattr(error, "errno", None) == errno.EPIPE:
        _let_go_of_output()
        return BROKEN_PIPE
    if isinstance(error, KeyboardInterrupt | click.Abort | EOFError):
        session.complain("interrupted", "interrupted", "", INTERRUPTED)
        return INTERRUPTED
    if isinstance(error, click.ClickException):
        session.complain("usage", *_usage(error), USAGE)
        return USAGE
    if session.verbose > 1:
        _print_traceback(error)
    return _report_failure(error, session)


def _report_failure(error: BaseException, session: Session) -> int:
    if isinstance(error, P2pkvError):
        session.complain(error.kind, str(error), error.mend, error.exit_code)
        return error.exit_code
    if isinstance(error, OSError) and error.strerror:
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        session.complain("failed", where + error.strerror, _MENDS.get(error.errno or 0, ""), FAILED)
        return FAILED
    text = f"unexpected {type(error).__name__}: {error}".rstrip(": ")
    session.complain("failed", text, "run again with -vv for the traceback", FAILED)
    return FAILED


_MENDS = {
    errno.ENOSPC: "free some space, or write elsewhere",
    errno.EDQUOT: "free some space, or write elsewhere",
    errno.EACCES: "correct its permissions, or choose another place",
    errno.ENOENT: "check the name",
}


def _usage(error: click.ClickException) -> tuple[str, str]:
    """A usage error's message and mend."""
    message = error.format_message().rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return message, ""
    mend = f"see `{context.command_path} --help`"
    if isinstance(error, click.BadParameter) and error.param is not None:
        message = message.replace("': ", f"'{_origin(context, error.param)}: ", 1)
    if isinstance(error, click.NoSuchOption) and context.parent is None and error.option_name[2:] in SETTINGS:
        return message[:1].lower() + message[1:], f"it goes behind the command, as in p2pkv get KEY {error.option_name}"
    if isinstance(error, click.NoSuchOption) and any(
        isinstance(param, click.Argument) for param in context.command.params
    ):
        mend += "; what is no option and begins with - goes behind --"
    return message[:1].lower() + message[1:], mend


def _origin(context: click.Context, param: click.Parameter) -> str:
    """Where a bad value came from, unless it stands on the command line."""
    source = context.get_parameter_source(param.name or "")
    return f" (environment variable {param.envvar})" if source is ParameterSource.ENVIRONMENT else ""


def _let_go_of_output() -> None:
    """Standard output takes nothing any more; the interpreter, which flushes at exit, must not fail at it again."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _print_traceback(error: BaseException) -> None:
    import traceback

    traceback.print_exception(error)
