"""Starting this very program again, as another process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import p2pkv

Stream = int | IO[bytes]


def start_self(
    args: Sequence[str],
    *,
    stdin: Stream,
    stdout: Stream,
    stderr: Stream,
    start_new_session: bool,
    settings: bool = True,
) -> subprocess.Popen[bytes]:
    """Run `p2pkv ARGS` with this interpreter and this code, also from a checkout. It never detaches itself again.

    Without `settings` it takes none from our environment.
    """
    kept = {name: value for name, value in os.environ.items() if settings or not name.startswith("P2PKV_")}
    checkout = str(Path(p2pkv.__file__).parent.parent)
    paths = [checkout, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(  # noqa: S603 - our own program, with arguments of our own
        [sys.executable, "-P", "-m", "p2pkv", *args],  # -P: whatever lies in the current folder is not imported
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=start_new_session,
        env={**kept, "PYTHONPATH": os.pathsep.join(paths), "P2PKV_DETACH": "0"},
    )
