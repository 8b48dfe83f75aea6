"""What `docs/vectors.json` holds: fixed bytes of everything on the wire, made from fixed keys.

Owns the choice of examples and how a decoded value is shown in JSON (bytes in hex, arrays by their field names). The
section `files` is not made here: what a compressor writes may change, what peers have stored must stay readable.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from p2pkv import messages as m
from p2pkv import wire
from p2pkv.core.atomic import pending
from p2pkv.core.batches import Batch, root_text
from p2pkv.core.consensus import AcceptorState
from p2pkv.core.erasure import Code, code_chunk
from p2pkv.core.manifest import ChunkList, ChunkRef, FileMeta, Kind
from p2pkv.core.pages import path_of, place_of_page, place_of_register, split_marker
from p2pkv.core.records import Cursor, Flag, Version, content_hash, encode_cursor, rank, signed_bytes, version_token
from p2pkv.core.replication import digest_of
from p2pkv.errors import RemoteError
from p2pkv.ids import ChunkID, chunk_id_of, distance, place_of_chunk, place_of_key
from p2pkv.swarm.admission import Admission
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.identity import Identity
from p2pkv.swarm.neighbourhood import Neighbourhood

PATH = Path(__file__).parent.parent / "docs" / "vectors.json"
ALICE, BOB = Identity(bytes(range(32))), Identity(bytes(range(32, 64)))
MESSAGE_ID = bytes(range(100, 120))
KEY = b"sensor/7"
PLACE = place_of_key(KEY)
CHUNK = b"\x00hello"
CHUNK_ID = chunk_id_of(CHUNK)
TIME_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
CLOCK = TIME_MS << 16 | 3
SECRET = bytes(range(64, 96))
NODES = [wire.NodeTuple(ALICE.node_id, "192.0.2.7", 8468), wire.NodeTuple(BOB.node_id, "2001:db8::7", 8469)]

STOCK_TYPES: dict[str, tuple[Any, Any]] = {
    "stun": (wire.StunArgs, tuple[str, int]),
    "ping": (wire.PingArgs, wire.Id),
    "store": (wire.StoreArgs, bool),
    "find_node": (wire.FindArgs, list[wire.NodeTuple]),
    "find_value": (wire.FindArgs, list[wire.NodeTuple] | dict[str, msgspec.Raw]),
}
METHODS: dict[str, wire.Method[Any, Any]] = {v.name: v for v in vars(m).values() if isinstance(v, wire.Method)}
TYPES = STOCK_TYPES | {name: (method.request, method.reply) for name, method in METHODS.items()}


def shown(value: object) -> Any:
    """A decoded value as JSON has it."""
    if isinstance(value, msgspec.Raw):
        return {"msgpack": bytes(value).hex()}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, msgspec.Struct):
        return {name: shown(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, wire.NodeTuple):
        return {name: shown(part) for name, part in zip(value._fields, value, strict=True)}
    if isinstance(value, list | tuple):
        return [shown(part) for part in value]
    if isinstance(value, dict):
        return {name: shown(part) for name, part in value.items()}
    return value


# --- frames ---


@dataclass(frozen=True)
class Example:
    """A datagram and what it is an example of."""

    what: str
    method: str
    datagram: bytes


def show_frame(example: Example) -> dict[str, Any]:
    frame = wire.parse_frame(example.datagram)
    return {
        "what": example.what,
        "method": example.method,
        "datagram": example.datagram.hex(),
        "type": frame.kind,
        "message_id": frame.message_id.hex(),
        "body": show_body(frame, example.method),
        "extension": shown(frame.extension),
    }


def show_body(frame: wire.Frame, method: str) -> Any:
    if frame.kind == wire.ERROR:
        error = wire.parse_fault(frame.body)
        return {"code": error.code, "detail": error.detail}
    asked, answered = TYPES[method]
    if frame.kind == wire.REPLY:
        return shown(wire.decoded(wire.decoder_of(answered), frame.body))
    request = wire.parse_request(frame.body)
    return {"method": request.method, "args": shown(wire.decoded(wire.decoder_of(asked), request.args))}


def _asks(method: str, args: object, extension: wire.Extension | None = None, *, padded: bool = False) -> bytes:
    body = wire.request_body(method, args)
    trailer = b""
    if extension is not None:
        full = wire.HEAD_BYTES + len(body)
        trailer = wire.padded_trailer(extension, full) if padded else wire.trailer(extension)
    return wire.request_frame(MESSAGE_ID, body, trailer)


def _answers(reply: object, trailer: bytes = b"") -> bytes:
    return wire.reply_frame(MESSAGE_ID, wire.encode(reply), trailer)


def _stock_frames() -> list[Example]:
    ask = wire.FindArgs(ALICE.node_id, PLACE)
    store = wire.StoreArgs(ALICE.node_id, PLACE, msgspec.Raw(wire.encode("21.4")))
    mimic = wire.StoreArgs(ALICE.node_id, PLACE, msgspec.Raw(wire.encode(b"ends like one \x00\x02\xc1")))
    return [
        Example("stock stun", "stun", _asks("stun", ())),
        Example("stock stun, answered", "stun", _answers(("192.0.2.7", 8468))),
        Example("stock ping", "ping", _asks("ping", (ALICE.node_id,))),
        Example("stock ping, answered", "ping", _answers(BOB.node_id)),
        Example("stock find_node", "find_node", _asks("find_node", ask)),
        Example("stock find_node, answered", "find_node", _answers(NODES)),
        Example("stock find_value", "find_value", _asks("find_value", ask)),
        Example("stock find_value, answered with the value", "find_value", _answers({"value": "21.4"})),
        Example("stock find_value, answered with nodes", "find_value", _answers(NODES)),
        Example("stock store", "store", _asks("store", store)),
        Example("stock store, answered", "store", _answers(True)),
        Example("stock store of a value that ends as a trailer does and is none", "store", _asks("store", mimic)),
    ]


def _our_frames() -> list[Example]:
    admission = Admission(SECRET, BOB.node_id)
    pass_ = admission.pass_of(("192.0.2.7", 8468), 0.0)
    proof = BOB.sign(wire.proof_text(MESSAGE_ID, BOB.node_id, ALICE.node_id))
    greeting = wire.Extension(wire.VERSION, ALICE.node_id, wire.PROVE)
    known = wire.Extension(wire.VERSION, ALICE.node_id, cookie_yours=pass_.cookie)
    guest = wire.Extension(wire.VERSION, ALICE.node_id, wire.EPHEMERAL, cookie_yours=pass_.cookie)
    find = wire.FindArgs(ALICE.node_id, PLACE)
    has, held = m.HasChunks([CHUNK_ID]), m.HasChunksReply([True])
    method = m.HAS_CHUNKS.name
    cookie = RemoteError("cookie", "show the cookie of this answer")
    refused = RemoteError("refused", "this peer stores nothing")
    proven = admission.proof_trailer(pass_, BOB.public_key, proof)
    return [
        Example("ping that asks for proof", "ping", _asks("ping", (ALICE.node_id,), greeting)),
        Example("its answer, with proof and a cookie", "ping", _answers(BOB.node_id, proven)),
        Example("padded find_node, to a stranger", "find_node", _asks("find_node", find, greeting, padded=True)),
        Example("request without a cookie", method, _asks(method, has, greeting)),
        Example("its answer: an error with the cookie", method, wire.fault_frame(MESSAGE_ID, cookie, pass_.trailer)),
        Example("request with the cookie", method, _asks(method, has, known)),
        Example("its answer", method, _answers(held, pass_.trailer)),
        Example("request of an ephemeral peer", method, _asks(method, has, guest)),
        Example("error reply", m.PUT_PIECE.name, wire.fault_frame(MESSAGE_ID, refused, pass_.trailer)),
    ]


def _odd_frames() -> dict[str, Any]:
    """Datagrams that a peer must bear: from later versions, or broken."""
    body = wire.request_body("ping", (ALICE.node_id,))
    later = wire.encode([2, ALICE.node_id, 1 << 20, b"", b"", b"", b"", b"", "a field of a later version", {"x": 1}])
    tail = later + len(later).to_bytes(2, "big") + b"\xc1"
    head = b"\x00" + MESSAGE_ID
    dropped = {
        "empty": b"",
        "a head without a body": head,
        "an unused type": b"\x03" + MESSAGE_ID + body,
        "a sealed datagram": b"\x08" + MESSAGE_ID + body,
        "a payload one byte too long": head + bytes(8 * 1024 + 1),
    }
    broken = {
        "a trailer that does not decode": head + body + b"\x93\x01\x02\x03\x00\x04\xc1",
        "a trailer whose length is beyond the datagram": head + body + b"\xff\xff\xc1",
        "garbage behind the msgpack": head + body + b"garbage",
        "a body that is no array of two": head + b"\xc0",
    }
    return {
        "later": show_frame(Example("an extension of a later version", "ping", head + body + tail)),
        "not_a_frame": {what: datagram.hex() for what, datagram in dropped.items()},
        "body_malformed": {what: datagram.hex() for what, datagram in broken.items()},
    }


# --- records ---


def _signed(by: Identity, key: bytes = KEY, **fields: Any) -> Version:
    unsigned = Version(
        name=fields.get("name", b"now"),
        clock=fields.get("clock", CLOCK),
        author=by.public_key,
        flags=fields.get("flags", 0),
        expires_ms=fields.get("expires_ms", 0),
        size_bytes=fields.get("size_bytes", len(fields.get("body", b""))),
        body=fields.get("body", b""),
        meta=fields.get("meta", b""),
    )
    return msgspec.structs.replace(unsigned, signature=by.sign(signed_bytes(key, unsigned)))


def _two_levels() -> dict[str, tuple[ChunkList, bytes]]:
    first, second = (chunk_id_of(b"\x00" + bytes([n]) * 1000) for n in (1, 2))
    lowest = ChunkList.of(0, [ChunkRef(first, 1000), ChunkRef(second, 1000)])
    stored = b"\x00" + lowest.encode()
    root = ChunkList.of(1, [ChunkRef(chunk_id_of(stored), 2000)])
    return {"level 0": (lowest, stored), "level 1, of the list of level 0": (root, b"")}


def versions() -> dict[str, Version]:
    chunked = _two_levels()["level 0"][0].encode()
    stock = Version(b"", CLOCK, b"", Flag.STOCK, 0, 5, wire.encode("21.4"))
    meta = FileMeta(Kind.FILE, 1_767_225_600_000_000_000, 0o644, bytes(range(32)), 3, 0).encode()
    return {
        "plain": _signed(ALICE, body=b"21.4"),
        "equal clock, other author": _signed(BOB, body=b"21.5"),
        "equal clock and author, other content": _signed(ALICE, body=b"21.6"),
        "later": _signed(ALICE, clock=CLOCK + 1, body=b"21.7"),
        "expiring": _signed(ALICE, clock=CLOCK + 2, expires_ms=TIME_MS + 600_000, body=b"21.8"),
        "tombstone": _signed(ALICE, clock=CLOCK + 3, flags=Flag.TOMBSTONE),
        "write-once, of an earlier clock": _signed(BOB, clock=CLOCK - 1, flags=Flag.ONCE, body=b"first"),
        "unknown flag": _signed(ALICE, clock=CLOCK + 4, flags=1 << 20, body=b"21.9"),
        "owned": _signed(ALICE, name=b"mine", flags=Flag.OWN, body=b"1"),
        "chunked": _signed(ALICE, name=b"long", flags=Flag.CHUNKED, size_bytes=2000, body=chunked),
        "file": _signed(ALICE, name=b"cat.txt", flags=Flag.FILE, body=b"hello", meta=meta),
        "stock": stock,
        "split": split_marker(b"3a"),
        "pending": pending(_signed(ALICE, body=b"21.4"), bytes(range(16))),
        **_batch(),
    }


def _batch() -> dict[str, Version]:
    """Three versions under one signature."""
    plain = [_signed(BOB, name=b"batch %d" % number, body=b"%d" % number) for number in range(3)]
    tree = Batch([signed_bytes(KEY, version) for version in plain])
    of_root = BOB.sign(root_text(tree.root))
    return {
        f"of a batch, number {number}": msgspec.structs.replace(version, signature=tree.signature(number, of_root))
        for number, version in enumerate(plain)
    }


def show_version(what: str, version: Version) -> dict[str, Any]:
    return {
        "what": what,
        "encoded": wire.encode(version).hex(),
        "fields": shown(version),
        "key": KEY.hex(),
        "signed_bytes": signed_bytes(KEY, version).hex(),
        "content_hash": content_hash(version).hex(),
        "token": version_token(version),
        "cursor": encode_cursor(version),
    }


def _records() -> dict[str, Any]:
    some = versions()
    contenders = [what for what, version in some.items() if version.identity == (b"now", b"")]
    run = [some["plain"], some["owned"], some["chunked"]]
    cursor = Cursor(CLOCK, b"now", ALICE.public_key)
    state = AcceptorState((7, ALICE.node_id), (5, BOB.node_id), some["plain"], KEY)
    return {
        "versions": [show_version(what, version) for what, version in some.items()],
        "rank_ascending": sorted(contenders, key=lambda what: rank(some[what])),
        "digests": [
            {"versions": [wire.encode(v).hex() for v in vs], "digest": digest_of(vs).hex()} for vs in ([], run)
        ],
        "cursor": {"encoded": wire.encode(cursor).hex(), "fields": shown(cursor)},
        "register": {"encoded": state.encode().hex(), "fields": shown(state)},
    }


class _Table:
    """Stands where the neighbourhood expects the routing table."""

    def __init__(self, contacts: list[Contact]) -> None:
        self._contacts = contacts

    def nearest(self, target: bytes, k: int) -> list[Contact]:
        return self._contacts[:k]


def view_of(here: bytes, others: list[bytes], k: int) -> bytes:
    """The view hash of the peer `here` that knows these others, nearest first."""
    contacts = [Contact(node_id, "192.0.2.7", 8468) for node_id in others]
    return Neighbourhood(_Table(contacts), Identity(here).node_id, k).view(PLACE)[0]


def _ids() -> dict[str, Any]:
    pass_ = Admission(SECRET, BOB.node_id).pass_of(("192.0.2.7", 8468), 0.0)
    return {
        "peers": [
            {"seed": seed.hex(), "public_key": p.public_key.hex(), "node_id": p.node_id.hex()}
            for p, seed in ((ALICE, bytes(range(32))), (BOB, bytes(range(32, 64))))
        ],
        "key": {"key": KEY.hex(), "place": PLACE.hex()},
        "pages": [
            {"page": page.decode(), "place": place_of_page(KEY, page).hex()} for page in (b"", b"3", b"3a", b"0123456")
        ],
        "path": {"name": b"now".hex(), "path": path_of(b"now").decode()},
        "register": {"name": b"now".hex(), "place": place_of_register(KEY, b"now").hex()},
        "chunk": {"stored": CHUNK.hex(), "id": CHUNK_ID.hex(), "place": place_of_chunk(ChunkID(CHUNK_ID)).hex()},
        "distance": {"a": ALICE.node_id.hex(), "b": PLACE.hex(), "a_xor_b": f"{distance(ALICE.node_id, PLACE):040x}"},
        "proof_text": wire.proof_text(MESSAGE_ID, BOB.node_id, ALICE.node_id).hex(),
        "view": {
            "node_ids": sorted([ALICE.node_id.hex(), BOB.node_id.hex()]),
            "view": view_of(bytes(range(32)), [BOB.node_id], 8).hex(),
        },
        "cookie_example": {"secret": SECRET.hex(), "text": "192.0.2.7 8468 0", "cookie": pass_.cookie.hex()},
    }


# --- messages ---


def _messages() -> list[tuple[str, object]]:
    some = versions()
    plain, stale = some["plain"], some["later"]
    view = bytes(range(8))
    cursor = Cursor(CLOCK, b"now")
    ballot, older = (7, ALICE.node_id), (5, BOB.node_id)
    results = [m.StoreResult(m.STORED), m.StoreResult(m.STALE, "", stale), m.StoreResult(m.REFUSED, "name too long")]
    piece = b"\x00hello"
    return [
        (m.STORE_RECORDS.name, m.StoreRecords(KEY, [plain, some["owned"]], view, force=True)),
        (m.STORE_RECORDS.name, m.StoreRecordsReply(results, NODES)),
        (m.STORE_RECORDS.name, m.StoreRecordsReply([m.StoreResult(m.NOT_MINE), m.StoreResult(m.FAILED, "disk full")])),
        (m.STORE_RECORDS.name, m.StoreRecords(KEY, [plain, some["owned"], some["split"]], depths=bytes((1, 2, 0)))),
        (m.STORE_RECORDS.name, m.StoreRecordsReply([m.StoreResult(m.SPLIT, "the page is split")])),
        (m.FIND_RECORDS.name, m.FindRecords(PLACE)),
        (m.FIND_RECORDS.name, m.FindRecords(PLACE, True, True, cursor, Cursor(0, b"a"), b"n", 10, True, view)),
        (m.FIND_RECORDS.name, m.FindRecordsReply([plain], False, digest_of([plain]), 1, cursor, NODES)),
        (m.FIND_RUNS.name, m.FindRuns([m.FindRecords(PLACE, limit=1, view=view), m.FindRecords(PLACE, limit=2)])),
        (m.FIND_RUNS.name, m.FindRunsReply([m.FindRecordsReply([plain], False, digest_of([plain]), 1, cursor)])),
        (m.FIND_NAMES.name, m.FindNames(PLACE, [b"now", b"mine"], view)),
        (m.FIND_RECORDS.name, m.FindRecords(PLACE, pending=True)),
        (m.FIND_RECORDS.name, m.FindRecordsReply([], False, digest_of([]), 0, split=True)),
        (m.FIND_RECORDS.name, m.FindRecordsReply([], False, digest_of([]), 0, batches=[bytes(range(16))])),
        (m.FIND_NAMES.name, m.FindNamesReply([plain], 2, NODES)),
        (m.FIND_NAMES.name, m.FindNamesReply([], 1, split=True)),
        (m.FIND_NEWER.name, m.FindNewer([m.KnownNames(PLACE, [b"now", b"mine"], bytes(range(32)), view)])),
        (m.FIND_NEWER.name, m.FindNewerReply([m.FindNamesReply([plain], 2, NODES, split=True)])),
        (m.PREPARE.name, m.Prepare(KEY, b"now", ballot)),
        (m.PREPARE.name, m.Promise(True, ballot, (0, b""), None)),
        (m.PREPARE.name, m.Promise(False, ballot, older, plain)),
        (m.PROPOSE.name, m.Propose(KEY, ballot, plain)),
        (m.PROPOSE.name, m.Accepted(True, ballot)),
        (m.READ_REGISTER.name, m.ReadRegister(KEY, b"now")),
        (m.READ_REGISTER.name, m.ReadRegisterReply(m.HandedRegister(KEY, b"now", ballot, older, plain), True)),
        (m.READ_REGISTER.name, m.ReadRegisterReply(None, False)),
        (m.MERGE_REGISTERS.name, m.MergeRegisters([m.HandedRegister(KEY, b"now", ballot, (0, b""), None)])),
        (m.MERGE_REGISTERS.name, m.MergeRegistersReply([True])),
        (m.HAS_CHUNKS.name, m.HasChunks([CHUNK_ID])),
        (m.HAS_CHUNKS.name, m.HasChunksReply([False])),
        (m.PUT_PIECE.name, m.PutPiece(CHUNK_ID, len(piece), 0, piece)),
        (m.PUT_PIECE.name, m.PutPieceReply(True)),
        (m.GET_PIECE.name, m.GetPiece(CHUNK_ID, 0)),
        (m.GET_PIECE.name, m.GetPieceReply(len(piece), piece)),
        (m.COMPARE.name, m.Compare(m.RECORDS, [(b"", bytes(range(8))), (b"3f", b"")])),
        (m.COMPARE.name, m.CompareReply([(0, b""), (1, b"\x00\x03" + bytes(range(16))), (2, bytes(range(10)))])),
        (m.FETCH.name, m.Fetch(m.CHUNKS, bytes(range(20)))),
        (m.FETCH.name, m.FetchReply(2, [m.Handed(KEY, 1, plain)])),
        (m.FETCH.name, m.FetchReply(1, chunk_ids=[CHUNK_ID], days=[20_454])),
        (m.FETCH.name, m.FetchReply(1, registers=[m.HandedRegister(KEY, b"now", ballot, older, plain)])),
        (m.SUMMARIZE.name, m.Summarize([(PLACE, bytes(range(8)))])),
        (m.SUMMARIZE.name, m.SummarizeReply([(bytes(range(16)), 3), (b"", 0)])),
        (m.HOLDS.name, m.Holds(bytes(range(20)))),
        (m.HOLDS.name, m.HoldsReply([True, False])),
        (m.LEAVE.name, m.Leave(True)),
        (m.LEAVE.name, m.LeaveReply(True)),
        (m.REACHABLE_AT.name, m.ReachableAt("192.0.2.7", 8468)),
        (m.REACHABLE_AT.name, m.ReachableAtReply(True)),
        (m.WATCH.name, m.Watch(PLACE, view, 20_000)),
        (m.WATCH.name, m.WatchReply(20_000, True)),
        (m.PUSH.name, m.Push(view, [plain])),
        (m.PUSH.name, m.Push(view, [], True)),
        (m.PUSH.name, m.PushReply(True, False)),
    ]


def show_message(method: str, part: str, encoded: bytes) -> dict[str, Any]:
    type_ = TYPES[method][part == "reply"]
    fields = shown(wire.decoded(wire.decoder_of(type_), encoded))
    return {"method": method, "part": part, "message": type_.__name__, "encoded": encoded.hex(), "fields": fields}


def _shown_messages() -> list[dict[str, Any]]:
    return [
        show_message(method, "request" if type(message) is TYPES[method][0] else "reply", wire.encode(message))
        for method, message in _messages()
    ]


def _manifests() -> dict[str, Any]:
    metas = (FileMeta(Kind.FOLDER, mode=0o755), FileMeta(Kind.LINK, 1, 0o777), FileMeta(Kind.FILE, salt=bytes(16)))
    return {
        "lists": [
            {"what": what, "encoded": a_list.encode().hex(), "fields": shown(a_list), "stored_chunk": stored.hex()}
            for what, (a_list, stored) in _two_levels().items()
        ],
        "metas": [{"encoded": meta.encode().hex(), "fields": shown(meta)} for meta in metas],
    }


def _erasure() -> dict[str, Any]:
    stored = b"\x00" + b"forty-two plain bytes, in five shards of any three"[:42]
    shards = code_chunk(stored, Code(3, 5))
    salts = [0, 1, 2, 3, 255]
    stripe = shards.stripe(salts)
    return {
        "stored_chunk": stored.hex(),
        "stripe": {"encoded": stripe.encode().hex(), "id": chunk_id_of(stripe.encode()).hex(), "fields": shown(stripe)},
        "shards": [shards.stored(index, salt).hex() for index, salt in enumerate(salts)],
    }


def build(files: dict[str, Any]) -> dict[str, Any]:
    """All of `docs/vectors.json`; `files` is its section that stays as it is."""
    return {
        "ids": _ids(),
        "frames": [show_frame(example) for example in _stock_frames() + _our_frames()],
        "odd_frames": _odd_frames(),
        "messages": _shown_messages(),
        "records": _records(),
        "manifests": _manifests(),
        "erasure": _erasure(),
        "files": files,
    }


def load() -> dict[str, Any]:
    vectors: dict[str, Any] = json.loads(PATH.read_text())
    return vectors


def rewrite() -> None:
    """Make the file anew from the code, on purpose."""
    text = json.dumps(build(load()["files"]), indent=1)
    PATH.write_text(text + "\n")
