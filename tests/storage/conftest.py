"""An open disk store in a folder of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from p2pkv.storage.disk import DiskStore
from tests.storage.disks import make


@pytest.fixture
async def disk_store(tmp_path: Path) -> AsyncIterator[DiskStore]:
    store = make(tmp_path)
    await store.open()
    yield store
    await store.close()
