"""Bringing the pieces of a download onto the disk, and hashing the whole from its beginning meanwhile.

Theory of operation. Pieces come in any order, several at once. One caller at a time takes all that wait and handles
them in one thread: written, journaled, hashed. So the file has one writer (two would wait for each other in the
kernel), and a busy machine changes threads less often. A piece that comes ahead of its turn to be hashed is held in
memory, within a bound; behind that it is read again from the disk when its turn has come.

Owns the pieces that wait. Never decides where a piece belongs.
"""

from __future__ import annotations

import asyncio

from blake3 import blake3

from p2pkv.files.concurrency import Offload
from p2pkv.files.partfile import FetchedPiece, PartFile
from p2pkv.ids import Bytes
from p2pkv.limits import PIECES_HELD_MAX


class Keeping:
    """One file's pieces on their way to its part file."""

    def __init__(self, part: PartFile, hasher: blake3 | None, offload: Offload) -> None:
        """`hasher`: of the whole, where there is a hash to compare."""
        self._part = part
        self._hasher = hasher
        self._offload = offload
        self._lock = asyncio.Lock()
        self._waiting: list[FetchedPiece] = []
        self._there: list[tuple[int, int]] = []  # on disk since an earlier run: offset, length
        self._ready: dict[int, tuple[int, Bytes | None]] = {}  # by offset: length, and the bytes where they are held
        self._held = 0
        self._next = 0  # what was hashed

    async def write(self, piece: FetchedPiece) -> None:
        """Keep a piece; it is on disk when this returns."""
        self._waiting.append(piece)
        await self._turn()

    async def note(self, offset: int, length: int) -> None:
        """A piece that an earlier run brought onto the disk."""
        self._there.append((offset, length))
        await self._turn()

    def digest(self) -> bytes:
        """Of the whole, once all pieces are kept."""
        return self._hasher.digest() if self._hasher else b""

    async def _turn(self) -> None:
        async with self._lock:
            pieces, self._waiting = self._waiting, []
            there, self._there = self._there, []
            if pieces or there:  # else somebody else has kept ours
                await self._offload(self._keep, pieces, there)

    def _keep(self, pieces: list[FetchedPiece], there: list[tuple[int, int]]) -> None:
        if pieces:
            self._part.write(pieces)
        if self._hasher is None:
            return
        for offset, length in there:
            self._ready[offset] = length, None
        for piece in sorted(pieces, key=lambda piece: piece.offset):
            held = piece.data if self._held < PIECES_HELD_MAX else None
            self._ready[piece.offset] = len(piece.data), held
            self._held += held is not None
            self._hash(self._hasher)
        self._hash(self._hasher)

    def _hash(self, hasher: blake3) -> None:
        """All that is next."""
        while (ready := self._ready.pop(self._next, None)) is not None:
            length, held = ready
            self._held -= held is not None
            hasher.update(held if held is not None else self._part.read(self._next, length))
            self._next += length
