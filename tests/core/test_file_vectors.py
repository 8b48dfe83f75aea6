"""The byte layouts of files against fixed vectors: whoever changes one breaks every stored file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p2pkv.core.chunking import RAW, SEALED_RAW, decode_chunk, encode_chunk
from p2pkv.core.manifest import ChunkList, ChunkRef, FileMeta, Kind, decode_list, decode_meta
from p2pkv.core.sealing import Seal, content_hasher
from p2pkv.files import names
from p2pkv.ids import ChunkID, chunk_id_of

VECTORS = json.loads((Path(__file__).parents[2] / "docs" / "vectors.json").read_text())["files"]
KEY = bytes.fromhex(VECTORS["key"])
SEAL = Seal(KEY, bytes.fromhex(VECTORS["salt"]))


@pytest.mark.parametrize("vector", VECTORS["chunks"], ids=lambda vector: vector["what"])
def test_chunks(vector: dict[str, str | int | bool]) -> None:
    plain, stored = bytes.fromhex(str(vector["plain"])), bytes.fromhex(str(vector["stored"]))
    seal, offset = (SEAL if vector["sealed"] else None), int(vector["offset"])
    assert decode_chunk(stored, len(plain), seal=seal, offset=offset) == plain
    assert chunk_id_of(stored).hex() == vector["id"]
    if stored[0] in (RAW, SEALED_RAW):  # what zstd writes may change with its version; what it reads does not
        assert encode_chunk(plain, seal=seal, offset=offset) == stored


def test_whole_hashes() -> None:
    hashes = VECTORS["hash_of_hello"]
    assert content_hasher(None).update(b"hello").hexdigest() == hashes["plain"]
    assert content_hasher(SEAL).update(b"hello").hexdigest() == hashes["sealed"]


def test_list_and_meta() -> None:
    listed, meta = VECTORS["list"], VECTORS["meta"]
    refs = [ChunkRef(ChunkID(bytes.fromhex(chunk_id)), size) for chunk_id, size in listed["entries"]]
    assert ChunkList(listed["level"], refs, listed["size"]) == decode_list(bytes.fromhex(listed["encoded"]))
    assert decode_list(bytes.fromhex(listed["encoded"])).encode().hex() == listed["encoded"]
    digest = bytes.fromhex(meta["hash"])
    expected = FileMeta(Kind(meta["kind"]), meta["mtime_ns"], meta["mode"], digest, meta["replicas"], meta["chunks"])
    assert decode_meta(bytes.fromhex(meta["encoded"])) == expected
    assert expected.encode().hex() == meta["encoded"]


def test_names() -> None:
    assert names.folder_key(VECTORS["folder_key"]["path"]).hex() == VECTORS["folder_key"]["key"]
    link = VECTORS["link"]
    assert str(names.Link(link["name"], KEY)) == link["link"]
    assert names.parse(link["link"]) == names.Link(link["name"], KEY)
