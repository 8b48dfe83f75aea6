"""Chunks in pieces that fit an RPC: the plain way, which works on every socket and in the simulator.

Theory of operation. The sender keeps some pieces in flight at once, each an RPC with its resends. The receiver puts
them together; the answer to the piece that makes the chunk whole comes after it is checked and durable. A receiver
that had to forget a half chunk says so by never calling it stored, and the sender begins anew.

Owns the half chunks that strangers make it hold, under PIECE_CHUNKS_MAX.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from weakref import WeakKeyDictionary

from p2pkv import messages
from p2pkv.errors import RemoteError
from p2pkv.ids import CHUNK_ID_BYTES, Bytes, ChunkID
from p2pkv.limits import (
    PIECE_BYTES,
    PIECE_CHUNKS_CACHED_MAX,
    PIECE_CHUNKS_MAX,
    PIECE_CHUNKS_PER_CONTACT_MAX,
    PIECES_IN_FLIGHT_MAX,
    STORED_CHUNK_BYTES_MAX,
)
from p2pkv.swarm.chunks import ChunkKeeper
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.protocol import PeerProtocol, Sender


class HalfChunk:
    """A chunk of which pieces have come."""

    def __init__(self, size_bytes: int) -> None:
        self.data = bytearray(size_bytes)
        self.missing = set(range(0, size_bytes, PIECE_BYTES))

    def add(self, offset: int, piece: bytes) -> bool:
        """Put a piece in its place; True where the chunk is whole. Raises RemoteError."""
        expected = min(PIECE_BYTES, len(self.data) - offset)
        if offset % PIECE_BYTES or offset >= len(self.data) or len(piece) != expected:
            raise RemoteError("malformed", "a piece that does not fit its chunk")
        self.data[offset : offset + len(piece)] = piece
        self.missing.discard(offset)
        return not self.missing


class PieceReceiver:
    """What this peer answers about pieces."""

    def __init__(self, keeper: ChunkKeeper) -> None:
        self._keeper = keeper
        self._halves: OrderedDict[tuple[bytes, bytes], HalfChunk] = OrderedDict()
        self._cached: OrderedDict[ChunkID, bytes] = OrderedDict()

    async def on_put(self, sender: Sender, request: messages.PutPiece) -> messages.PutPieceReply:
        size_bytes = request.size_bytes
        if len(request.chunk_id) != CHUNK_ID_BYTES or not 0 < size_bytes <= STORED_CHUNK_BYTES_MAX:
            raise RemoteError("malformed", "not a piece of a chunk")
        where = (sender.node_id, request.chunk_id)
        half = self._halves.get(where)
        if half is None or len(half.data) != size_bytes:
            half = self._halves[where] = HalfChunk(size_bytes)
        self._halves.move_to_end(where)
        if len(self._halves) > PIECE_CHUNKS_MAX:
            self._halves.popitem(last=False)
        if not half.add(request.offset, request.data):
            return messages.PutPieceReply(stored=False)
        self._halves.pop(where, None)
        await self._keeper.receive(ChunkID(request.chunk_id), bytes(half.data))
        return messages.PutPieceReply(stored=True)

    async def on_get(self, sender: Sender, request: messages.GetPiece) -> messages.GetPieceReply:
        data = await self._chunk(ChunkID(request.chunk_id))
        if not 0 <= request.offset < len(data):
            raise RemoteError("malformed", "a piece beyond its chunk")
        return messages.GetPieceReply(len(data), data[request.offset : request.offset + PIECE_BYTES])

    async def _chunk(self, chunk_id: ChunkID) -> bytes:
        data = self._cached.get(chunk_id)
        if data is None:
            data = self._cached[chunk_id] = await self._keeper.fetch(chunk_id)
            while len(self._cached) > PIECE_CHUNKS_CACHED_MAX:
                self._cached.popitem(last=False)
        return data


class PieceTransport:
    """Brings and fetches chunks by pieces."""

    def __init__(self, protocol: PeerProtocol) -> None:
        self._protocol = protocol
        self._turns: WeakKeyDictionary[Contact, asyncio.Semaphore] = WeakKeyDictionary()

    def _turn(self, contact: Contact) -> asyncio.Semaphore:
        """Few chunks at once go to or come from one contact, so that their pieces do not wait in queues."""
        return self._turns.setdefault(contact, asyncio.Semaphore(PIECE_CHUNKS_PER_CONTACT_MAX))

    async def push(self, contact: Contact, chunk_id: ChunkID, stored: Bytes, onward: Sequence[bytes] = ()) -> None:
        """Bring a chunk to a contact; it is durable there when this returns, and not passed on. Raises RemoteError."""
        whole = False

        async def put(offset: int) -> None:
            nonlocal whole
            piece = bytes(stored[offset : offset + PIECE_BYTES])
            request = messages.PutPiece(chunk_id, len(stored), offset, piece)
            whole |= (await self._protocol.call(contact, messages.PUT_PIECE, request)).stored

        async with self._turn(contact):
            await _each_piece(range(0, len(stored), PIECE_BYTES), put)
        if not whole:
            raise RemoteError("busy", "the receiver had no room for the whole chunk")

    async def pull(self, contact: Contact, chunk_id: ChunkID) -> bytes:
        """A chunk from a contact, not checked yet. Raises RemoteError."""
        async with self._turn(contact):
            return await self._pull(contact, chunk_id)

    async def _pull(self, contact: Contact, chunk_id: ChunkID) -> bytes:
        first = await self._get(contact, chunk_id, 0)
        if not 0 < first.size_bytes <= STORED_CHUNK_BYTES_MAX or len(first.data) != min(PIECE_BYTES, first.size_bytes):
            raise RemoteError("misbehaved", "not a piece of a chunk")
        data = bytearray(first.size_bytes)
        data[: len(first.data)] = first.data

        async def get(offset: int) -> None:
            piece = (await self._get(contact, chunk_id, offset)).data
            if len(piece) != min(PIECE_BYTES, len(data) - offset):
                raise RemoteError("misbehaved", "a piece of a wrong length")
            data[offset : offset + len(piece)] = piece

        await _each_piece(range(PIECE_BYTES, len(data), PIECE_BYTES), get)
        return bytes(data)

    async def _get(self, contact: Contact, chunk_id: ChunkID, offset: int) -> messages.GetPieceReply:
        return await self._protocol.call(contact, messages.GET_PIECE, messages.GetPiece(chunk_id, offset))


async def _each_piece(offsets: Iterable[int], work: Callable[[int], Awaitable[None]]) -> None:
    """Work through offsets, PIECES_IN_FLIGHT_MAX at once. Raises the first RemoteError, when all have ended."""
    waiting = iter(offsets)

    async def worker() -> None:
        for offset in waiting:
            await work(offset)

    results = await asyncio.gather(*(worker() for _ in range(PIECES_IN_FLIGHT_MAX)), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
