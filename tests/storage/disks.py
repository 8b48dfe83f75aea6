"""Disk stores for tests."""

from __future__ import annotations

from pathlib import Path

from p2pkv.ids import ChunkID, chunk_id_of
from p2pkv.storage.disk import DiskStore
from p2pkv.storage.interface import Store
from tests.storage.samples import NOW_S


def make(folder: Path, **options: object) -> DiskStore:
    return DiskStore(folder, lambda: NOW_S, **options)  # type: ignore[arg-type]


async def put_chunk(store: Store, data: bytes) -> ChunkID:
    chunk_id = chunk_id_of(data)
    assert await store.put_chunk(chunk_id, data)
    return chunk_id


def packs(folder: Path) -> list[Path]:
    return sorted((folder / "packs").iterdir())
