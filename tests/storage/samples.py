"""Versions, writes and queries to try stores with."""

from __future__ import annotations

from hypothesis import strategies as st

from p2pkv.core.atomic import pending
from p2pkv.core.clock import clock_of
from p2pkv.core.records import Flag, Version, content_hash
from p2pkv.ids import Place, place_of_key
from p2pkv.storage.interface import Cursor, DropVersion, PutRegister, PutVersion, RangeQuery, Write

NOW_S = 1_800_000_000.0
ANNA, BERT = b"a" * 32, b"b" * 32
PLACE = place_of_key(b"key")


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


def version(
    name: bytes = b"name", clock: int = 0, *, flags: int = 0, expires_s: float = 0, **fields: object
) -> Version:
    given = {"author": ANNA, "size_bytes": 5, "body": b"value", **fields}
    if flags & Flag.TOMBSTONE:
        given |= {"body": b"", "size_bytes": 0}
    return Version(name=name, clock=clock or clock_of(NOW_S), flags=flags, expires_ms=int(expires_s * 1000), **given)  # type: ignore[arg-type]


def put(version: Version, place: Place = PLACE, key: bytes = b"key") -> PutVersion:
    return PutVersion(place, key, version)


def drop(version: Version, place: Place = PLACE) -> DropVersion:
    return DropVersion(place, version.name, version.owner, content_hash(version))


def series(count: int, **fields: object) -> list[Version]:
    return [version(b"n%05d" % i, clock_of(NOW_S + i), **fields) for i in range(count)]


NAMES = [b"a", b"ab", b"b", b"\xff"]
PLACES = [place_of_key(b"1"), place_of_key(b"2")]
plain_versions = st.builds(
    Version,
    name=st.sampled_from(NAMES),
    clock=st.integers(1, 4),
    author=st.sampled_from([ANNA, BERT]),
    flags=st.sampled_from([0, 0, Flag.OWN, Flag.ONCE, Flag.TOMBSTONE]),
    expires_ms=st.sampled_from([0, 0, int(NOW_S * 1000), int(NOW_S * 1000) + 1]),
    size_bytes=st.just(1),
    body=st.sampled_from([b"", b"x", b"y" * 100]),
)
versions = st.one_of(
    plain_versions,
    plain_versions,
    st.builds(
        pending,
        plain_versions.filter(lambda version: not version.flags & Flag.ONCE),
        st.sampled_from([b"1" * 16, b"2" * 16]),
    ),
)
places = st.sampled_from(PLACES)
cursors = st.none() | st.builds(
    Cursor, st.integers(0, 5), st.sampled_from([b"", b"aa", *NAMES]), st.sampled_from([b"", ANNA])
)
writes: st.SearchStrategy[Write] = st.one_of(
    st.builds(PutVersion, places, st.just(b"key"), versions),
    st.builds(PutVersion, places, st.just(b"key"), versions),
    st.builds(lambda place, version: drop(version, place), places, versions),
    st.builds(PutRegister, places, st.sampled_from(NAMES), st.sampled_from([b"", b"1", b"22"])),
)
range_queries = st.builds(
    RangeQuery,
    place=places,
    order=st.sampled_from(["time", "name"]),
    after=cursors,
    until=cursors,
    reverse=st.booleans(),
    prefix=st.sampled_from([b"", b"", b"a", b"\xff"]),
    limit=st.integers(1, 6),
    bytes_max=st.sampled_from([1, 100, 1 << 20]),
    dead=st.booleans(),
    pending=st.sampled_from([False, False, True]),
)
