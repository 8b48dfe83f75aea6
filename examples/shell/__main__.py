"""Entry for `python examples/shell` and `python -m examples.shell`."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a folder: only the folder itself is on the path, not the one that holds `examples`
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.shell.app import main

sys.exit(main())
