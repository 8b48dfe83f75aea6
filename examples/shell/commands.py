"""The table of commands. A function's docstring is the end of its manual page."""

from __future__ import annotations

from argparse import Namespace

from examples.shell import local, remote
from examples.shell.command import Argument, Command, Run, argument
from examples.shell.expansion import Takes
from examples.shell.session import Session

COMMANDS: dict[str, Command] = {}


def _add(name: str, run: Run, summary: str, *arguments: Argument, takes: Takes = "text") -> None:
    COMMANDS[name] = Command(name, summary, takes, arguments, run)


async def _help(session: Session, options: Namespace) -> int:
    """`man COMMAND` says more about each."""
    width = max(map(len, COMMANDS))
    for name, command in COMMANDS.items():
        session.say(f"{name:{width}}  {command.summary}")
    return 0


async def _man(session: Session, options: Namespace) -> int:
    if options.command not in COMMANDS:
        session.complain(f"man: no manual entry for {options.command}")
        return 1
    session.say(COMMANDS[options.command].manual)
    return 0


async def _exit(session: Session, options: Namespace) -> int:
    """Ctrl-D does the same."""
    session.leaving = True
    return session.status if options.status is None else int(options.status)


_LONG = argument("-l", "--long", action="store_true", help="sizes and times too")
_NAME = argument("--name", help="the record's name within the key")

_add("cd", local.cd, "change the current folder", argument("folder", nargs="?"), takes="local")
_add("ls", local.ls, "list local files", _LONG, argument("path", nargs="*"), takes="local")
_add("pwd", local.pwd, "print the current folder")
_add(
    "upload",
    remote.upload,
    "store local files or folders in the swarm",
    argument("file", nargs="+", help="local files or folders; patterns like *.jpg are expanded"),
    argument("--as", dest="as_", metavar="NAME", help="the name in the swarm, of one file"),
    argument("--to", metavar="FOLDER", default="", help="the folder in the swarm"),
    takes="local",
)
_add(
    "download",
    remote.download,
    "fetch files or folders from the swarm",
    argument("name", nargs="+", help="names or links; patterns are matched against the names in the swarm"),
    argument("--to", metavar="PATH", help="a local folder, or, of one file, the local name"),
    takes="remote",
)
_add(
    "list-files",
    remote.list_files,
    "list the files in the swarm",
    _LONG,
    argument("prefix", nargs="*", help="only names that begin so"),
    takes="remote",
)
_add(
    "delete-file",
    remote.delete_file,
    "remove files from the swarm",
    argument("name", nargs="+", help="names; patterns are matched against the names in the swarm"),
    argument("-r", "--recursive", action="store_true", help="folders too, with all in them"),
    takes="remote",
)
_add("put", remote.put, "add records under a key", argument("key"), argument("value", nargs="+"), _NAME)
_add("get", remote.get, "print the values of a key, oldest first", argument("key"), _NAME)
_add("count", remote.count, "print the number of records of a key", argument("key"))
_add("delete", remote.delete, "delete the records of a key, or one of them", argument("key"), _NAME)
_add("man", _man, "print the manual of a command", argument("command"), takes="command")
_add("help", _help, "list the commands")
_add("clear", local.clear, "clear the screen")
_add("exit", _exit, "leave the shell", argument("status", nargs="?", type=int))
