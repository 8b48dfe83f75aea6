"""The exit codes and what each means: a contract with scripts."""

from __future__ import annotations

DONE = 0
FAILED = 1
USAGE = 2
NOT_FOUND = 3
REFUSED = 4
INCOMPLETE = 5
UNREACHABLE = 6
INTERRUPTED = 130
BROKEN_PIPE = 141  # 128 + SIGPIPE: what a shell reports of any program whose reader left

MEANINGS = {
    DONE: "done",
    FAILED: "failed; the message says what and the mend",
    USAGE: "wrong usage",
    NOT_FOUND: "not found",
    REFUSED: "refused: write-once, quota or permission",
    INCOMPLETE: "incomplete, or stored on too few replicas",
    UNREACHABLE: "no peer or no swarm reachable",
    INTERRUPTED: "interrupted",
}
