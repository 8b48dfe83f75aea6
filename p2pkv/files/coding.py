"""Erasure-coded chunks over the `Chunks` port: shards to as many peers as there are, and chunks from any K of them.

Theory of operation. A shard lies with the peer nearest to its id. Its salt is chosen so that this is another peer for
every shard of a stripe, by what this peer knows of the swarm; where the swarm turns out otherwise, two may meet at
one peer. A reader takes the first K shards, which need no arithmetic, and others in the place of those that fail or
take much longer than usual.

Owns the choice of salts and shards. The code itself is core/erasure.py.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from p2pkv.core.erasure import Code, Shards, Stripe, assemble, code_chunk, decode_stripe
from p2pkv.errors import DamagedError, IncompleteError, InvalidError, NotFoundError
from p2pkv.files.concurrency import Offload
from p2pkv.files.ports import ChunkPut, Chunks
from p2pkv.ids import Bytes, ChunkID, NodeID, chunk_id_of, distance, is_stripe, place_of_chunk
from p2pkv.limits import CHUNK_PUT_ATTEMPTS_MAX, SHARD_PATIENCE, SHARD_PATIENCE_MIN_S, SHARD_SALTS
from p2pkv.outcomes import Acks, ReplicaFailure, ReplicaInfo


class CodedChunk(NamedTuple):
    """A chunk cut into shards, and where each of them is to lie."""

    shards: Shards
    salts: list[int]
    stripe: bytes
    stripe_id: ChunkID


def lay_out(stored: bytes, code: Code, peers: Sequence[NodeID]) -> CodedChunk:
    """Code a chunk for a swarm of these peers. Takes a millisecond."""
    shards = code_chunk(stored, code)
    taken: Counter[NodeID] = Counter()
    salts: list[int] = []
    for index in range(code.total):
        salt, peer = _spread(shards, index, peers, taken)
        salts.append(salt)
        taken[peer] += 1
    stripe = shards.stripe(salts).encode()
    return CodedChunk(shards, salts, stripe, chunk_id_of(stripe))


def _spread(shards: Shards, index: int, peers: Sequence[NodeID], taken: Counter[NodeID]) -> tuple[int, NodeID]:
    """A salt that brings a shard to a peer which has as few of the others as possible."""
    best: tuple[int, int, NodeID] | None = None
    for salt in range(SHARD_SALTS):
        place = place_of_chunk(shards.shard_id(index, salt))
        peer = min(peers, key=lambda peer: distance(peer, place))
        if best is None or taken[peer] < best[0]:
            best = taken[peer], salt, peer
        if not best[0]:
            break
    assert best is not None
    return best[1], best[2]


def check_peers(chunks: Chunks, code: Code) -> None:
    """Raises InvalidError where the swarm is too small for a code."""
    known = len(chunks.peers())
    if known < code.total:
        raise InvalidError(
            f"erasure code {code} needs {code.total} peers, and this peer knows {known}",
            "start more peers, choose a smaller code, or store whole copies (no --erasure)",
        )


async def put_shards(chunks: Chunks, coded: CodedChunk, acks: Acks) -> ChunkPut:
    """Bring every shard to its peer; the outcome counts shards."""
    code = coded.shards.code
    needed = {"all": code.total, "1": code.needed}.get(acks, code.needed + (code.total - code.needed + 1) // 2)
    puts = await asyncio.gather(*(_put_shard(chunks, coded, index) for index in range(code.total)))
    failures: list[ReplicaFailure] = [failure for put in puts if not put.stored for failure in put.failures[:1]]
    return ChunkPut(
        asked=code.total,
        stored=sum(put.stored > 0 for put in puts),
        needed=needed,
        sent=any(put.sent for put in puts),
        failures=failures,
    )


async def _put_shard(chunks: Chunks, coded: CodedChunk, index: int) -> ChunkPut:
    salt = coded.salts[index]
    shard_id, stored = coded.shards.shard_id(index, salt), coded.shards.stored(index, salt)
    for _ in range(CHUNK_PUT_ATTEMPTS_MAX):
        put = await chunks.put(shard_id, stored, replicas=1, acks="1")
        if put.stored:
            break
    return put


class CodedChunks:
    """The `Chunks` port, whose `get` of a stripe gives the chunk that it stands for."""

    def __init__(self, chunks: Chunks, offload: Offload) -> None:
        self._chunks = chunks
        self._offload = offload
        self._usual_s = 0.0  # what a shard takes, about

    async def put(
        self, chunk_id: ChunkID, stored: bytes, *, replicas: int | None = None, acks: Acks = "quorum"
    ) -> ChunkPut:
        return await self._chunks.put(chunk_id, stored, replicas=replicas, acks=acks)

    async def get(self, chunk_id: ChunkID, *, attempt: int = 0) -> Bytes:
        stored = await self._chunks.get(chunk_id, attempt=attempt)
        if not is_stripe(chunk_id):
            return stored
        stripe = decode_stripe(stored)
        shards = await self._some(stripe, attempt)
        if len(shards) < stripe.needed:
            total = len(stripe.shards)
            raise IncompleteError(f"{len(shards)} of its {total} shards answer, {stripe.needed} are needed")
        return await self._offload(assemble, stripe, shards)

    async def _some(self, stripe: Stripe, attempt: int) -> dict[int, Bytes]:
        """As many shards as are needed, or all that there are: another one for each that fails or takes too long."""
        waiting = list(reversed(range(len(stripe.shards))))
        running: dict[asyncio.Task[Bytes | None], int] = {}
        shards: dict[int, Bytes] = {}
        more = stripe.needed
        try:
            while len(shards) < stripe.needed and (waiting or running):
                for _ in range(min(more, len(waiting))):
                    index = waiting.pop()
                    running[asyncio.create_task(self._shard(stripe.shards[index], attempt))] = index
                patience_s = max(SHARD_PATIENCE_MIN_S, SHARD_PATIENCE * self._usual_s) if waiting else None
                done, _ = await asyncio.wait(running, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                found = {running.pop(task): task.result() for task in done}
                shards |= {index: shard for index, shard in found.items() if shard is not None}
                more = stripe.needed - len(shards) - len(running) if done else len(running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        return shards

    async def _shard(self, shard_id: ChunkID, attempt: int) -> Bytes | None:
        began_s = asyncio.get_running_loop().time()
        try:
            shard = await self._chunks.get(shard_id, attempt=attempt)
        except (IncompleteError, NotFoundError, DamagedError):
            return None
        self._usual_s += (asyncio.get_running_loop().time() - began_s - self._usual_s) / 16
        return shard

    async def shards(self, chunk_id: ChunkID) -> list[ChunkID]:
        """The shards of a stripe; of another chunk, none."""
        if not is_stripe(chunk_id):
            return []
        return decode_stripe(await self._chunks.get(chunk_id)).shards

    async def holders(self, chunk_id: ChunkID) -> list[ReplicaInfo]:
        return await self._chunks.holders(chunk_id)

    def peers(self) -> Sequence[NodeID]:
        return self._chunks.peers()
