"""The part file of a download: what is written past the page cache is what was given, however the pieces lie."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

import pytest
from blake3 import blake3

from p2pkv.files.concurrency import at_once
from p2pkv.files.keeping import Keeping
from p2pkv.files.partfile import FetchedPiece, PartFile
from p2pkv.limits import DIRECT_FILE_BYTES_MIN, MIB, PIECES_HELD_MAX

SIZE = DIRECT_FILE_BYTES_MIN + 3 * MIB + 4321


def pieces_of(data: bytes, first_bytes: int = MIB) -> list[FetchedPiece]:
    cuts = [0, *range(first_bytes, len(data), MIB), len(data)]
    return [FetchedPiece(low, memoryview(data)[low:high]) for low, high in itertools.pairwise(cuts)]


@pytest.mark.parametrize("first_bytes", [MIB, 4096, 1000])
@pytest.mark.parametrize("direct", [True, False])
async def test_a_large_file_is_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direct: bool, first_bytes: int
) -> None:
    """In any order, several at once, aligned or not, where the file system has a way past its cache or has none."""
    if not direct:
        monkeypatch.setattr("p2pkv.files.direct._DIRECT", 0)
    rng = random.Random(first_bytes)
    data = rng.randbytes(SIZE)
    pieces = pieces_of(data, first_bytes)
    rng.shuffle(pieces)
    part = PartFile(tmp_path / "file", b"i" * 32, SIZE)
    part.open()
    while pieces:
        count = rng.randrange(1, 9)
        part.write(pieces[:count])
        del pieces[:count]
    part.finish(0o600, 0)
    part.close()
    assert (tmp_path / "file").read_bytes() == data


async def test_a_device_that_wants_another_alignment_is_written_plainly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = random.Random(1).randbytes(SIZE)
    part = PartFile(tmp_path / "file", b"i" * 32, SIZE)
    part.open()
    refused = part._direct._fd if part._direct else -1

    def picky(fd: int, view: memoryview, offset: int, real=os.pwrite) -> int:
        if fd == refused:
            raise OSError(22, "Invalid argument")
        return real(fd, view, offset)

    monkeypatch.setattr(os, "pwrite", picky)
    part.write(pieces_of(data))
    monkeypatch.undo()
    part.finish(0o600, 0)
    part.close()
    assert (tmp_path / "file").read_bytes() == data


async def test_the_journal_knows_pieces_by_the_id_of_their_chunk(tmp_path: Path) -> None:
    """The check that a caller brings is the one that resuming computes."""
    data = random.Random(2).randbytes(2 * MIB)
    first, second = pieces_of(data)
    part = PartFile(tmp_path / "file", b"i" * 32, len(data))
    part.open()
    part.write(
        [first._replace(check=blake3(b"\0" + bytes(first.data)).digest()[:16]), second._replace(check=b"?" * 16)]
    )
    part.close()
    again = PartFile(tmp_path / "file", b"i" * 32, len(data))
    again.open()
    assert again.knows(0, MIB)
    assert again.verify(0, MIB)
    assert not again.verify(MIB, MIB)
    again.close()


@pytest.mark.parametrize("seed", range(3))
async def test_pieces_are_hashed_in_order_and_few_are_held(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    data = rng.randbytes(40 * 1000)
    pieces = [FetchedPiece(at, data[at : at + 1000]) for at in range(0, len(data), 1000)]
    last = pieces.pop(0)
    rng.shuffle(pieces)
    part = PartFile(tmp_path / "file", b"i" * 32, len(data))
    part.open()
    keeping = Keeping(part, blake3(), at_once)
    for piece in [*pieces, last]:
        assert keeping._held <= PIECES_HELD_MAX
        await keeping.write(piece)
    assert keeping.digest() == blake3(data).digest()
    part.close()
