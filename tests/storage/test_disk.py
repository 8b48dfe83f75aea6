"""The disk engine: conformance."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pkv.storage.disk import DiskStore
from p2pkv.storage.interface import Store
from tests.storage.conformance import Clock, StoreConformance


class TestDiskStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def folder(self) -> Iterator[None]:
        with tempfile.TemporaryDirectory() as folder:
            self.root, self.made = Path(folder), 0
            yield

    def make_store(self, clock: Clock, quota_bytes: int | None = None) -> Store:
        self.made += 1
        return DiskStore(self.root / str(self.made), clock, quota_bytes)
