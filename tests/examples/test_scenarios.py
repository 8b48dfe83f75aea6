"""The example of the four scenarios, as a user runs it, in small."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from p2pkv.testing import Swarm

SCRIPT = Path(__file__).parent.parent.parent / "examples" / "scenarios.py"


async def test_the_four_scenarios_play_on_a_given_swarm() -> None:
    async with Swarm(9, store="memory") as swarm:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(SCRIPT),
            "--bootstrap",
            swarm.peers[0].address,
            "--scale",
            "0.05",
            stdout=subprocess.PIPE,
        )
        output, _ = await process.communicate()
        text = output.decode()
        assert process.returncode == 0, text
        assert [line for line in text.splitlines() if line and not line.startswith(" ")] == [
            "one: 1 record of 32 bytes under one key",
            "some: 1 record of 32 bytes under one key",
            "many: 100 records of 32 bytes under one key",
            "a great quantity: 1000 records of 32 bytes under one key",
        ]
        assert text.count("all there, each once, oldest first") == 4


def test_a_swarm_that_is_not_there_is_told_with_its_mend() -> None:
    command = [sys.executable, str(SCRIPT), "--bootstrap", "127.0.0.1:9"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 6
    assert "127.0.0.1:9" in done.stdout
    assert "Traceback" not in done.stderr
