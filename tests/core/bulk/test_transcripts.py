"""Whole scenarios as they are written in transcripts/: every packet, when it left, and what became of it.

A change to one of them is a change of behaviour: commit it only when you can say what caused it. Written anew with
`P2PKV_TESTS_REWRITE=1`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2pkv.core.bulk import packets
from tests.core.bulk.link import End, World

FOLDER = Path(__file__).parent / "transcripts"


class Recorded(World):
    """A world that notes every packet, and drops those that its test names."""

    def __init__(self, **path: Any) -> None:
        super().__init__(seed=7, **path)
        self.lines: list[str] = []
        self.drops: Callable[[End, object], bool] = lambda end, packet: False

    def _carry(self, end: End, packet: bytes) -> None:
        parsed = packets.parse(packet) if packet[0] in packets.OF_CONNECTION else None
        dropped = self.drops(end, parsed)
        arrow = "-->" if end is self.ends[0] else "<--"
        fate = " dropped" if dropped else " to nobody" if end.peer.gone else ""
        if not end.gone:
            self.lines.append(f"{self.now * 1000:9.1f} ms {arrow} {told(parsed)}{fate}")
        if not dropped:
            super()._carry(end, packet)

    def event(self, text: str) -> None:
        self.lines.append(f"{self.now * 1000:9.1f} ms  *  {text}")


def told(packet: object) -> str:
    if isinstance(packet, packets.Data):
        end = packet.offset + len(packet.payload)
        return f"DATA {packet.number}: stream {packet.stream}, {packet.offset}-{end} of {packet.size}"
    if isinstance(packet, packets.Ack):
        return f"ACK {packet.number}: {', '.join(f'{low}-{high}' for low, high in packet.ranges) or 'nothing'}"
    if isinstance(packet, packets.Ping):
        return f"PING {packet.number}, {packet.size} bytes"
    if isinstance(packet, packets.Reset):
        return f"RESET {packet.number}: stream {packet.stream}, {packet.code}"
    return f"CLOSE {packet.code}" if isinstance(packet, packets.Close) else "OPEN"


def push(world: Recorded) -> None:
    """A short push and its answer, then silence until the connection idles."""
    one, _ = world.connect()
    world.push(one, bytes(5000))
    world.run(lambda: bool(one.replies), 5)
    world.event("the reply is there")
    world.run(lambda: one.closed is not None, 60)
    world.event("idle: closed")


def one_packet_lost(world: Recorded) -> None:
    """The third packet vanishes once: told by the ack, sent again at once, everything else once."""
    one, _ = world.connect()
    missing = [2]
    world.drops = lambda end, packet: isinstance(packet, packets.Data) and packet.number in missing and end is one
    world.push(one, bytes(12_000))
    world.run(lambda: bool(one.replies), 5)
    world.event("the reply is there")


def last_packet_lost(world: Recorded) -> None:
    """Nothing comes after the lost packet: a probe brings it to light."""
    one, _ = world.connect()
    world.drops = lambda end, packet: isinstance(packet, packets.Data) and packet.number == 4 and end is one
    world.push(one, bytes(5000))
    world.run(lambda: bool(one.replies), 5)
    world.event("the reply is there")


def cancelled(world: Recorded) -> None:
    """The asker loses interest: the other hears it, and no further bytes leave."""
    one, other = world.connect()
    other.answer = lambda event: None
    number = world.push(one, bytes(100_000))
    world.run_for(0.03)
    one.connection.streams.cancel(number)
    world.event("cancelled")
    world.turn(one)
    world.run_for(0.3)


def vanished(world: Recorded) -> None:
    """The peer is gone in the middle: fewer and fewer probes, then the end."""
    one, other = world.connect()
    world.push(one, bytes(20_000))
    world.run_for(0.025)
    other.gone = True
    world.event("the other vanishes")
    world.run(lambda: one.closed is not None, 60)
    world.event(f"closed: {one.closed}")


@pytest.mark.parametrize("scenario", [push, one_packet_lost, last_packet_lost, cancelled, vanished])
def test_a_scenario_runs_as_it_is_written(scenario: Callable[[Recorded], None]) -> None:
    world = Recorded()
    scenario(world)
    text = f"{scenario.__doc__}\n\n" + "\n".join(world.lines) + "\n"
    path = FOLDER / f"{scenario.__name__}.txt"
    if os.environ.get("P2PKV_TESTS_REWRITE"):
        path.write_text(text)
    assert path.read_text() == text
