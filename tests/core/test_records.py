"""Versions: merge laws, shape checks, signing bytes."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from p2pkv import wire
from p2pkv.core import replication
from p2pkv.core.clock import HybridClock, clock_of, time_of
from p2pkv.core.records import (
    SIGNING_CONTEXT,
    Flag,
    Version,
    check_shape,
    content_hash,
    encode,
    merge,
    rank,
    signed_bytes,
    version_token,
)
from p2pkv.errors import RemoteError
from p2pkv.limits import BODY_BYTES_MAX, CLOCK_DRIFT_S_MAX

AUTHORS = [bytes([n]) * 32 for n in range(3)]

versions = st.builds(
    Version,
    name=st.sampled_from([b"a", b"b", b"c"]),
    clock=st.integers(0, 5),
    author=st.sampled_from(AUTHORS),
    flags=st.sampled_from([0, Flag.TOMBSTONE, Flag.OWN, Flag.ONCE]),
    expires_ms=st.just(0),
    size_bytes=st.integers(0, 3),
    body=st.just(b""),
)


def version(**changes: object) -> Version:
    base = Version(b"name", 1, AUTHORS[1], 0, 0, 1, b"v", b"", b"s" * 64)
    return msgspec.structs.replace(base, **changes)


@given(st.lists(versions, max_size=6))
def test_merge_gives_the_same_state_in_every_order(history: list[Version]) -> None:
    def state(order: tuple[Version, ...]) -> dict[tuple[bytes, bytes], Version]:
        held: dict[tuple[bytes, bytes], Version] = {}
        for item in order:
            held[item.identity] = merge(held.get(item.identity), item)
        return held

    expected = state(tuple(history))
    assert all(state(order) == expected for order in itertools.islice(itertools.permutations(history), 50))
    assert state(tuple(history) * 2) == expected, "a repeated put changes nothing"


@given(versions, versions)
def test_rank_tells_every_two_versions_of_a_record_apart(a: Version, b: Version) -> None:
    if a.identity == b.identity and a != b:
        assert rank(a) != rank(b)
        assert version_token(a) != version_token(b)


@given(versions)
def test_a_version_survives_the_codec_and_unknown_fields_of_the_future(item: Version) -> None:
    encoded = msgspec.msgpack.encode(item)
    assert msgspec.msgpack.decode(encoded, type=Version) == item
    with_more = msgspec.msgpack.encode([*msgspec.msgpack.decode(encoded), "a field of a later version"])
    assert msgspec.msgpack.decode(with_more, type=Version) == item


@given(
    versions,
    st.binary(max_size=1024),
    st.sampled_from([0, 64, 145, 255, 256, 512]),
    st.sampled_from([0, Flag.PENDING]),
    st.binary(min_size=1, max_size=300),
)
def test_what_is_signed_and_hashed_are_the_fields_in_order(
    item: Version, body: bytes, signature_bytes: int, pending: int, key: bytes
) -> None:
    signature = bytes(range(256)) * 2
    item = msgspec.structs.replace(
        item, body=body, flags=item.flags | pending, signature=signature[:signature_bytes], meta=key[:9]
    )
    fields = [item.name, item.clock, item.author, item.flags, item.expires_ms, item.size_bytes, item.body, item.meta]
    plain = [key, *fields[:3], item.flags & ~Flag.PENDING, *fields[4:]]
    hashed = msgspec.msgpack.encode([*fields, item.batch] if pending else fields)
    for encoded in (b"", encode(item)):
        assert signed_bytes(key, item, encoded) == SIGNING_CONTEXT + msgspec.msgpack.encode(plain)
        assert content_hash(item, encoded) == blake3(hashed).digest(length=16)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65_535, 65_536])
def test_an_array_put_together_by_hand_is_msgpack(count: int) -> None:
    assert wire.array_head(count) + b"\xc2" * count == msgspec.msgpack.encode([False] * count)


@pytest.mark.parametrize("size_bytes", [0, 255, 256, 65_535, 65_536])
def test_the_size_of_a_byte_string_is_known_before_it_is_packed(size_bytes: int) -> None:
    assert wire.binary_bytes(size_bytes) == len(msgspec.msgpack.encode(bytes(size_bytes)))


def test_the_signature_covers_the_key_and_every_field_but_itself() -> None:
    base = version()
    changed = [
        version(name=b"x"),
        version(clock=2),
        version(author=AUTHORS[2]),
        version(flags=int(Flag.OWN)),
        version(expires_ms=1),
        version(size_bytes=9),
        version(body=b"w"),
        version(meta=b"m"),
    ]
    spelt = {signed_bytes(b"key", item) for item in [base, *changed]}
    assert len(spelt) == 1 + len(changed)
    assert signed_bytes(b"other", base) not in spelt
    assert signed_bytes(b"key", version(signature=b"t" * 64)) == signed_bytes(b"key", base)


@pytest.mark.parametrize(
    "broken",
    [
        version(name=b""),
        version(name=b"n" * 2000),
        version(author=b"short"),
        version(clock=0),
        version(body=b"v" * (BODY_BYTES_MAX + 1)),
        version(meta=b"m" * 2000),
        version(clock=-1),
        version(clock=1 << 63),
        version(expires_ms=-1),
        version(size_bytes=-1),
        version(flags=-1),
        version(flags=int(Flag.TOMBSTONE)),
        version(flags=int(Flag.STOCK | Flag.OWN), name=b"", author=b""),
        version(flags=Flag.STOCK, name=b"", author=b"", body=b"\xc0"),
        version(flags=Flag.STOCK, name=b"", author=b"", body=b""),
        version(flags=Flag.STOCK, name=b"", author=b"", body=b"\x91\x01"),
        version(flags=Flag.STOCK, name=b"", author=b"", body=b"\xc5\x20\x00" + bytes(0x2000)),
    ],
)
def test_a_version_out_of_bounds_is_the_senders_fault(broken: Version) -> None:
    with pytest.raises(RemoteError):
        check_shape(broken)


def test_a_good_version_passes() -> None:
    check_shape(version())


@given(st.lists(st.integers(0, 10**9), min_size=2, max_size=20))
def test_the_clock_grows_whatever_the_wall_clock_does(times: list[int]) -> None:
    clock = HybridClock()
    ticks = [clock.tick(time) for time in times]
    assert all(a < b for a, b in itertools.pairwise(ticks))


def test_the_clock_follows_others_only_so_far() -> None:
    clock = HybridClock()
    clock.observe(clock_of(1000 + CLOCK_DRIFT_S_MAX - 1), 1000)
    assert time_of(clock.tick(1000)) >= 1000 + CLOCK_DRIFT_S_MAX - 1
    before = clock.last
    clock.observe(clock_of(10**6), 1000)
    assert clock.last == before


@given(st.lists(st.lists(versions, max_size=8), min_size=1, max_size=4), st.booleans(), st.booleans())
def test_merged_runs_lose_nothing_and_settle_to_the_merge(
    replicas: list[list[Version]], reverse: bool, ask_whole_ones_once: bool
) -> None:
    """Reading a page by runs of three from replicas in any state ends with the merge of all their records."""
    states = []
    for history in replicas:
        held: dict[tuple[bytes, bytes], Version] = {}
        for item in history:
            held[item.identity] = merge(held.get(item.identity), item)
        states.append(held)
    expected: dict[tuple[bytes, bytes], Version] = {}
    for held in states:
        for item in held.values():
            expected[item.identity] = merge(expected.get(item.identity), item)

    seen: list[Version] = []
    wholes: dict[int, replication.Run] = {}
    after = None
    for _ in range(100):
        runs = []
        for index, held in enumerate(states):
            ordered = sorted(held.values(), key=lambda v: replication.position(v, "time"), reverse=reverse)
            behind = [v for v in ordered if replication.within(v, "time", after, None, reverse=reverse)]
            if ask_whole_ones_once and after is None and len(behind) <= 3:
                wholes[index] = replication.Run(behind, more=False, whole=True)
            runs.append(wholes.get(index) or replication.Run(behind[:3], len(behind) > 3))
        merged = replication.merge_runs(runs, "time", reverse=reverse, after=after)
        assert wholes or not merged.decided
        names = {name for name, _ in merged.disputed}
        holdings = [[v for v in held.values() if v.name in names] for held in states]
        settled = [s.version for s in replication.settle(holdings) if s.version.identity in set(merged.disputed)]
        told = [[v for v in run.versions if v.identity in merged.decided] for run in runs]
        settled += [s.version for s in replication.settle(told)]
        inside = [v for v in settled if replication.within(v, "time", after, merged.end, reverse=reverse)]
        seen += sorted([*merged.agreed, *inside], key=lambda v: replication.position(v, "time"), reverse=reverse)
        if merged.end is None:
            break
        after = merged.end
    assert seen == sorted(expected.values(), key=lambda v: replication.position(v, "time"), reverse=reverse)
    assert [content_hash(v) for v in seen] == [content_hash(expected[v.identity]) for v in seen]


def test_nobody_is_asked_for_what_a_replica_that_showed_its_whole_page_lacks() -> None:
    full = [version(clock=clock_of(1000 + second), name=b"%d" % second) for second in range(4)]
    empty, some = (replication.Run(held, more=False, whole=True) for held in ([], full[:1]))
    merged = replication.merge_runs([replication.Run(full, more=True)] * 3 + [empty, some], "time", reverse=False)
    assert not merged.agreed and not merged.disputed
    assert merged.decided == {v.identity for v in full}
    assert not replication.merge_runs([empty, some], "time", reverse=False).disputed
    behind = [replication.Run(full[1:], more=False)] * 3 + [some]
    merged = replication.merge_runs(behind, "time", reverse=False, after=replication.position(full[0], "time"))
    assert not merged.disputed and merged.decided == {v.identity for v in full[1:]}


@given(st.integers(1, 64))
def test_every_read_quorum_meets_every_write_quorum(replicas: int) -> None:
    write, read = replication.write_quorum(replicas), replication.read_quorum(replicas)
    assert write + read > replicas
    assert write + write > replicas
    assert replication.needed("1", replicas) == 1
    assert replication.needed("all", replicas) == replicas
