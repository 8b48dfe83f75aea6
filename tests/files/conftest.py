from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from p2pkv.files.service import Files
from tests.files.fakes import FakeChunks, FakeRecords


@dataclass
class World:
    """A swarm in memory and the files in it."""

    chunks: FakeChunks = field(default_factory=FakeChunks)
    records: FakeRecords = field(default_factory=FakeRecords)
    random: random.Random = field(default_factory=lambda: random.Random(7))

    def files(self) -> Files:
        return Files(self.records, self.chunks, now_s=lambda: 1_700_000_000.0, random_bytes=self.random.randbytes)

    def noise(self, size_bytes: int) -> bytes:
        """Bytes that do not compress."""
        return self.random.randbytes(size_bytes)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def files(world: World) -> Files:
    return world.files()
