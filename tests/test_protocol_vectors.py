"""`docs/vectors.json` is what the code reads and writes, byte by byte; `docs/protocol.md` names all that the code has.

To write the vectors anew, on purpose: `P2PKV_TESTS_REWRITE=1 pytest tests/test_protocol_vectors.py`. A change of an
existing vector is a change of the wire.
"""

from __future__ import annotations

import json
import os
import re
from itertools import permutations
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from p2pkv import limits, messages, wire
from p2pkv.core.batches import ROOT_CONTEXT
from p2pkv.core.chunking import SEALED_ZSTD, decode_list_chunk
from p2pkv.core.consensus import AcceptorState
from p2pkv.core.erasure import Stripe, assemble, decode_stripe
from p2pkv.core.manifest import ChunkList, ChunkRef, FileMeta, decode_list, decode_meta
from p2pkv.core.pages import path_of, place_of_page, place_of_register
from p2pkv.core.records import (
    SIGNING_CONTEXT,
    Cursor,
    Flag,
    Version,
    check_shape,
    content_hash,
    decode_cursor,
    merge,
    rank,
)
from p2pkv.core.replication import digest_of
from p2pkv.errors import ERROR_CODES, RemoteError
from p2pkv.ids import SHARD, STRIPE, ChunkID, PublicKey, chunk_id_of, node_id_of, place_of_chunk, place_of_key
from p2pkv.limits import CHUNK_BYTES_MAX
from p2pkv.swarm.identity import Identity, verify
from p2pkv.swarm.rpc import STOCK_ARGS
from p2pkv.swarm.signing import genuine
from tests import protocol_vectors

if os.environ.get("P2PKV_TESTS_REWRITE"):
    protocol_vectors.rewrite()
VECTORS = protocol_vectors.load()
IDS, RECORDS = VECTORS["ids"], VECTORS["records"]
VERSIONS = {vector["what"]: vector for vector in RECORDS["versions"]}
DECODE_VERSION = wire.decoder_of(Version)


def _version(encoded: str) -> Version:
    version: Version = wire.decoded(DECODE_VERSION, bytes.fromhex(encoded))
    return version


def test_the_code_makes_these_very_vectors() -> None:
    made = json.loads(json.dumps(protocol_vectors.build(VECTORS["files"])))
    assert made == VECTORS


# --- frames ---


@pytest.mark.parametrize("vector", VECTORS["frames"], ids=lambda vector: vector["what"])
def test_frames_are_read_and_written(vector: dict[str, Any]) -> None:
    datagram = bytes.fromhex(vector["datagram"])
    example = protocol_vectors.Example(vector["what"], vector["method"], datagram)
    assert protocol_vectors.show_frame(example) == vector
    frame = wire.parse_frame(datagram)
    trailer = wire.trailer(frame.extension) if frame.extension else b""
    assert bytes([frame.kind]) + frame.message_id + _body_again(frame, vector["method"]) + trailer == datagram


def _body_again(frame: wire.Frame, method: str) -> bytes:
    if frame.kind == wire.ERROR:
        error = wire.parse_fault(frame.body)
        return wire.encode((error.code, error.detail))
    asked, answered = protocol_vectors.TYPES[method]
    if frame.kind == wire.REPLY:
        return wire.encode(wire.decoded(wire.decoder_of(answered), frame.body))
    request = wire.parse_request(frame.body)
    return wire.request_body(request.method, wire.decoded(wire.decoder_of(asked), request.args))


def test_every_method_has_a_frame_or_a_message_both_ways() -> None:
    framed = {(vector["method"], "reply" if vector["type"] else "request") for vector in VECTORS["frames"]}
    spoken = {(vector["method"], vector["part"]) for vector in VECTORS["messages"]}
    needed = {(method, part) for method in protocol_vectors.TYPES for part in ("request", "reply")}
    assert needed <= framed | spoken


def test_a_later_extension_is_understood_as_far_as_we_know_it() -> None:
    later = VECTORS["odd_frames"]["later"]
    example = protocol_vectors.Example(later["what"], later["method"], bytes.fromhex(later["datagram"]))
    assert protocol_vectors.show_frame(example) == later
    assert later["extension"]["version"] == 2


@pytest.mark.parametrize("datagram", VECTORS["odd_frames"]["not_a_frame"].values())
def test_what_is_no_frame(datagram: str) -> None:
    with pytest.raises(RemoteError, match="malformed"):
        wire.parse_frame(bytes.fromhex(datagram))


@pytest.mark.parametrize("datagram", VECTORS["odd_frames"]["body_malformed"].values())
def test_what_is_a_frame_with_a_malformed_body(datagram: str) -> None:
    frame = wire.parse_frame(bytes.fromhex(datagram))
    assert frame.extension is None
    with pytest.raises(RemoteError, match="malformed"):
        wire.parse_request(frame.body)


def test_the_padded_request_entitles_to_a_full_answer() -> None:
    (padded,) = (vector for vector in VECTORS["frames"] if vector["what"].startswith("padded"))
    spare = len(bytes.fromhex(padded["datagram"])) - wire.PADDED_REQUEST_BYTES
    assert 0 <= spare <= 1  # a long padding has a head of one byte more


def test_the_proof_holds() -> None:
    (proven,) = (vector for vector in VECTORS["frames"] if "with proof" in vector["what"])
    extension = {name: proven["extension"][name] for name in ("node_id", "public_key", "proof")}
    key, text = bytes.fromhex(extension["public_key"]), bytes.fromhex(IDS["proof_text"])
    assert node_id_of(PublicKey(key)).hex() == extension["node_id"] == IDS["peers"][1]["node_id"]
    assert verify(key, text, bytes.fromhex(extension["proof"]))
    assert bytes.fromhex(proven["message_id"]) in text


# --- ids ---


def test_ids() -> None:
    for peer in IDS["peers"]:
        identity = Identity(bytes.fromhex(peer["seed"]))
        assert (identity.public_key.hex(), identity.node_id.hex()) == (peer["public_key"], peer["node_id"])
    assert place_of_key(bytes.fromhex(IDS["key"]["key"])).hex() == IDS["key"]["place"]
    for page in IDS["pages"]:
        assert place_of_page(bytes.fromhex(IDS["key"]["key"]), page["page"].encode()).hex() == page["place"]
    assert path_of(bytes.fromhex(IDS["path"]["name"])).decode() == IDS["path"]["path"]
    register = place_of_register(bytes.fromhex(IDS["key"]["key"]), bytes.fromhex(IDS["register"]["name"]))
    assert register.hex() == IDS["register"]["place"]
    chunk_id = chunk_id_of(bytes.fromhex(IDS["chunk"]["stored"]))
    assert (chunk_id.hex(), place_of_chunk(chunk_id).hex()) == (IDS["chunk"]["id"], IDS["chunk"]["place"])


def test_the_view_is_the_same_from_both_sides() -> None:
    for peer, other in permutations(IDS["peers"]):
        view = protocol_vectors.view_of(bytes.fromhex(peer["seed"]), [bytes.fromhex(other["node_id"])], 8)
        assert view.hex() == IDS["view"]["view"]


# --- messages and records ---


@pytest.mark.parametrize("vector", VECTORS["messages"], ids=lambda vector: vector["message"])
def test_messages_are_read_and_written(vector: dict[str, Any]) -> None:
    encoded = bytes.fromhex(vector["encoded"])
    assert protocol_vectors.show_message(vector["method"], vector["part"], encoded) == vector
    type_ = protocol_vectors.TYPES[vector["method"]][vector["part"] == "reply"]
    assert wire.encode(wire.decoded(wire.decoder_of(type_), encoded)) == encoded
    longer = wire.encode([*msgspec.msgpack.decode(encoded), "a field of a later version"])
    assert wire.decoded(wire.decoder_of(type_), longer) == wire.decoded(wire.decoder_of(type_), encoded)


@pytest.mark.parametrize("what", VERSIONS)
def test_versions_are_read_and_written(what: str) -> None:
    vector = VERSIONS[what]
    version = _version(vector["encoded"])
    check_shape(version)
    assert protocol_vectors.show_version(what, version) == vector
    assert wire.encode(version).hex() == vector["encoded"]
    assert genuine(bytes.fromhex(vector["key"]), version)
    assert decode_cursor(vector["cursor"]) == Cursor(version.clock, version.name, version.owner)


@pytest.mark.parametrize("order", list(permutations(RECORDS["rank_ascending"]))[::97])
def test_the_highest_rank_wins_in_whatever_order_versions_come(order: tuple[str, ...]) -> None:
    standing = None
    for what in order:
        standing = merge(standing, _version(VERSIONS[what]["encoded"]))
    assert standing is not None and wire.encode(standing).hex() == VERSIONS[RECORDS["rank_ascending"][-1]]["encoded"]
    ranks = [rank(_version(VERSIONS[what]["encoded"])) for what in RECORDS["rank_ascending"]]
    assert ranks == sorted(set(ranks))


def test_digests_of_runs() -> None:
    for vector in RECORDS["digests"]:
        assert digest_of(_version(encoded) for encoded in vector["versions"]).hex() == vector["digest"]


def test_cursor_and_register() -> None:
    for name, type_ in (("cursor", Cursor), ("register", AcceptorState)):
        value = wire.decoded(wire.decoder_of(type_), bytes.fromhex(RECORDS[name]["encoded"]))
        assert protocol_vectors.shown(value) == RECORDS[name]["fields"]
        assert wire.encode(value).hex() == RECORDS[name]["encoded"]


# --- manifests ---


def test_chunk_lists_level_upon_level() -> None:
    lowest, root = VECTORS["manifests"]["lists"]
    for vector in (lowest, root):
        a_list = decode_list(bytes.fromhex(vector["encoded"]))
        assert protocol_vectors.shown(a_list) == vector["fields"]
        assert a_list.encode().hex() == vector["encoded"]
    (entry,) = decode_list(bytes.fromhex(root["encoded"])).entries
    stored = bytes.fromhex(lowest["stored_chunk"])
    assert chunk_id_of(stored) == entry.id
    below = decode_list(decode_list_chunk(stored), level=0, size_bytes=entry.size_bytes)
    assert all(ref.size_bytes <= CHUNK_BYTES_MAX for ref in below.entries)


def test_file_metas() -> None:
    for vector in VECTORS["manifests"]["metas"]:
        meta = decode_meta(bytes.fromhex(vector["encoded"]))
        assert protocol_vectors.shown(meta) == vector["fields"]
        assert meta.encode().hex() == vector["encoded"]


@pytest.mark.parametrize("some", [(0, 1, 2), (0, 3, 4), (2, 3, 4)])
def test_a_stripe_and_some_of_its_shards_are_the_chunk(some: tuple[int, ...]) -> None:
    vector = VECTORS["erasure"]
    encoded, shards = bytes.fromhex(vector["stripe"]["encoded"]), list(map(bytes.fromhex, vector["shards"]))
    stripe = decode_stripe(encoded)
    assert protocol_vectors.shown(stripe) == vector["stripe"]["fields"]
    assert chunk_id_of(encoded).hex() == vector["stripe"]["id"]
    assert [chunk_id_of(shard) for shard in shards] == stripe.shards
    assert bytes(assemble(stripe, {index: shards[index] for index in some})).hex() == vector["stored_chunk"]


def test_a_version_told_apart_by_its_content_alone() -> None:
    version = _version(VERSIONS["plain"]["encoded"])
    assert content_hash(msgspec.structs.replace(version, signature=bytes(64))) == content_hash(version)


def test_chunk_ids_of_the_files_section() -> None:
    for chunk in VECTORS["files"]["chunks"]:
        assert ChunkID(bytes.fromhex(chunk["id"])) == chunk_id_of(bytes.fromhex(chunk["stored"]))


# --- the document ---

DOCUMENT = (protocol_vectors.PATH.parent / "protocol.md").read_text()


def _tables() -> list[list[list[str]]]:
    """Every table, as rows of cells without their backquotes; the head row first."""
    blocks = re.findall(r"(?:^\|.*\n)+", DOCUMENT, re.MULTILINE)
    return [
        [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in block.splitlines()]
        for block in blocks
    ]


def _fields_told(name: str) -> list[str]:
    found = re.search(rf"^### {name}\n(?:.*\n)*?((?:\|.*\n)+)", DOCUMENT, re.MULTILINE)
    assert found, f"no section about {name}"
    return [line.split("|")[1].strip() for line in found[1].splitlines()[2:]]


def _values_told(*head: str) -> dict[str, str]:
    """First and second column of all tables whose head begins so."""
    tables = [rows for rows in _tables() if rows[0][: len(head)] == list(head)]
    return {row[0]: row[1] for rows in tables for row in rows[2:]}


def _structs() -> dict[str, tuple[str, ...]]:
    spoken = [v for v in vars(messages).values() if isinstance(v, type) and issubclass(v, messages.Message)]
    others: list[type[Struct]] = [wire.Extension, wire.Fault, wire.PingArgs, wire.FindArgs, wire.StoreArgs]
    stored: list[type[Struct]] = [Version, Cursor, ChunkList, ChunkRef, FileMeta, Stripe]
    fields = {struct.__name__: struct.__struct_fields__ for struct in [*spoken, *others, *stored]}
    return {name: told for name, told in fields.items() if told} | {"NodeTuple": wire.NodeTuple._fields}


@pytest.mark.parametrize(("name", "fields"), _structs().items(), ids=lambda part: part if isinstance(part, str) else "")
def test_the_document_tells_every_field_in_order(name: str, fields: tuple[str, ...]) -> None:
    assert _fields_told(name) == list(fields)


def test_the_document_tells_every_method_with_its_messages() -> None:
    ours = [rows for rows in _tables() if rows[0] == ["method", "request", "reply"]]
    told = {row[0]: (row[1], row[2]) for rows in ours for row in rows[2:]}
    methods = protocol_vectors.METHODS
    assert told == {name: (method.request.__name__, method.reply.__name__) for name, method in methods.items()}
    assert set(_values_told("method", "request args")) == set(STOCK_ARGS)
    assert set(protocol_vectors.TYPES) == set(STOCK_ARGS) | set(methods)


def test_the_document_tells_every_error() -> None:
    told = " ".join(_values_told("code", "the asker learns"))
    assert set(re.findall(r"[a-z-]+", told)) == ERROR_CODES


def test_the_document_tells_every_flag_and_code() -> None:
    flags = {name: value for name, value in vars(Flag).items() if name.isupper()}
    extension = {"PROVE": wire.PROVE, "EPHEMERAL": wire.EPHEMERAL, "BULK": wire.BULK}
    numbers = {name: value for name, value in vars(messages).items() if name.isupper() and isinstance(value, int)}
    results = {name: value for name, value in numbers.items() if not hasattr(wire, name)}
    assert _values_told("flag", "value") == {name: str(value) for name, value in (flags | extension).items()}
    assert _values_told("code", "value") == {name: str(value) for name, value in results.items()}


def test_the_document_tells_the_limits_as_they_are() -> None:
    told = _values_told("limit", "value")
    assert told == {name: str(getattr(limits, name)) for name in told}
    named = {name for name in re.findall(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b", DOCUMENT) if hasattr(limits, name)}
    assert named == set(told)


def test_the_document_tells_the_constants_as_they_are() -> None:
    assert f"{wire.PADDED_REQUEST_BYTES} bytes" in " ".join(DOCUMENT.split())
    for context in (wire.PROOF_CONTEXT, SIGNING_CONTEXT, ROOT_CONTEXT):
        assert f'"{context[:-1].decode()}" | 0x00' in DOCUMENT
    heads = _values_told("first byte", "is")
    kinds = {f"0x{kind:02X}" for kind in (wire.REQUEST, wire.REPLY, wire.ERROR, wire.SEALED)}
    assert kinds <= set(heads) and f"0x{wire.BULK_MIN:02X} and above" in heads
    assert _values_told("codec", "payload").keys() == {str(codec) for codec in [*range(SEALED_ZSTD + 1), STRIPE, SHARD]}
