"""docs/bulk.md spells every packet; its examples are what the code makes of the same fields."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from p2pkv.core.bulk import packets

DOCUMENT = (Path(__file__).parents[3] / "docs" / "bulk.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^\| (\w+) \| `([0-9a-f]+)` \|$", DOCUMENT, re.MULTILINE))
TYPES = dict(re.findall(r"^\| (\w+) \| (0x[0-9a-f]+) \|", DOCUMENT, re.MULTILINE))

ONE, OTHER = 0x1122334455667788, 0x99AABBCCDDEEFF00
COOKIE = packets.Cookie(ONE, OTHER, 7, bytes(range(16)))
PACKETS = {
    "HELLO": packets.hello(ONE),
    "COOKIE": packets.cookie(packets.COOKIE, COOKIE),
    "OPEN": packets.cookie(packets.OPEN, COOKIE),
    "DATA": packets.data_head(3, OTHER, 5, 2, 0, 12) + b"\x02\x00\x20",
    "ACK": packets.ack(OTHER, packets.Ack(9, 0.0015, 1 << 25, 1 << 23, [(0, 4), (6, 7)])),
    "PING": packets.ping(1, OTHER, 8, 24),
    "RESET": packets.reset(OTHER, packets.Reset(2, 9, 4, 5000, "quota", "full")),
    "CLOSE": packets.close(OTHER, 0, "failed"),
    "LOST": packets.lost(OTHER),
}


def test_every_packet_is_told() -> None:
    assert set(EXAMPLES) == set(TYPES) == set(PACKETS)
    assert {name: int(value, 16) for name, value in TYPES.items()} == {n: getattr(packets, n) for n in PACKETS}


@pytest.mark.parametrize("name", sorted(PACKETS))
def test_an_example_is_what_the_code_makes(name: str) -> None:
    assert PACKETS[name].hex() == EXAMPLES[name]
