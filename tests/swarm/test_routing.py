"""The routing table: exact nearest, right bounds, capacities by distance, replacements, the bound per address."""

from __future__ import annotations

import random
import time

from hypothesis import given
from hypothesis import strategies as st
from kademlia.node import Node

from p2pkv.limits import CONTACTS_PER_ADDRESS_MAX, REPLACEMENTS_PER_BUCKET_MAX
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.routing import EXTENSIONS, ID_BITS, PeerTable

ids = st.binary(min_size=20, max_size=20)


def table_of(own: bytes, k: int = 8) -> PeerTable:
    return PeerTable(None, k, Node(own), lambda: 0.0)


def contact(node_id: bytes, host: str = "127.0.0.1", port: int = 1) -> Contact:
    return Contact(node_id, host, port)


def check(table: PeerTable) -> None:
    """Whatever happened, the table is whole: buckets partition the id space and agree with the flat view."""
    assert table.buckets[0].range[0] == 0
    assert table.buckets[-1].range[1] == 1 << ID_BITS
    for one, other in zip(table.buckets, table.buckets[1:], strict=False):
        assert one.range[1] == other.range[0]
    for bucket in table.buckets:
        assert len(bucket) <= bucket.ksize
        assert all(bucket.has_in_range(node) for node in bucket.get_nodes())
        assert not set(bucket.nodes) & set(bucket.replacement_nodes)
    held = {node.id for bucket in table.buckets for node in bucket.get_nodes()}
    assert held == {node.id for node in table.contacts()}
    assert sum(bucket.has_in_range(table.node) for bucket in table.buckets) == 1


@given(ids, st.lists(ids, max_size=200, unique=True), ids, st.integers(1, 30), st.data())
def test_whatever_is_added_and_removed_the_nearest_are_exact(
    own: bytes, added: list[bytes], target: bytes, k: int, data: st.DataObject
) -> None:
    table = table_of(own, k=2)
    for number, node_id in enumerate(added):
        table.add_contact(contact(node_id, port=number))
        if number % 5 == 4:
            table.remove_contact(contact(data.draw(st.sampled_from(added))))
    check(table)
    point = Node(target)
    expected = sorted(table.contacts(), key=point.distance_to)[:k]
    assert table.find_neighbors(point, k) == expected
    if expected:
        others = [node for node in sorted(table.contacts(), key=point.distance_to) if node is not expected[0]]
        assert table.find_neighbors(point, k, exclude=expected[0]) == others[:k]


def test_the_asker_is_left_out_with_all_ids_of_its_address() -> None:
    table = table_of(bytes(20))
    for number in range(1, 30):
        table.add_contact(contact(bytes([number]) * 20, port=7 if number < 20 else number))
    found = table.find_neighbors(Node(bytes([1]) * 20), 5, exclude=Node(b"x" * 20, "127.0.0.1", 7))
    assert [node.port for node in found] == [21, 20, 23, 22, 25]


def test_far_buckets_hold_more_so_that_small_swarms_are_known_whole() -> None:
    rng = random.Random(1)
    for _ in range(10):
        table = table_of(rng.randbytes(20))
        for number in range(250):
            table.add_contact(contact(rng.randbytes(20), port=number))
        assert len(table) == 250
        check(table)


def test_the_table_of_a_large_swarm_stays_small() -> None:
    rng = random.Random(1)
    table = table_of(rng.randbytes(20))
    for number in range(20_000):
        table.add_contact(contact(rng.randbytes(20), port=number))
    assert len(table) <= 8 * (sum(EXTENSIONS) + 16)
    check(table)
    assert all(len(bucket.replacement_nodes) <= REPLACEMENTS_PER_BUCKET_MAX for bucket in table.buckets)


def test_a_replacement_takes_the_place_of_one_that_left() -> None:
    table = table_of(bytes(20), k=1)
    room = EXTENSIONS[0]
    far = [contact(b"\xff" + bytes([number]) + bytes(18), port=number) for number in range(room + 4)]
    added = [table.add_contact(node) for node in far]
    assert added == [True] * room + [False] * 4
    table.remove_contact(far[3])
    assert table.get(far[room + 3].id) is far[room + 3]
    assert table.get(far[3].id) is None
    table.forget_replacement(far[room + 2])
    table.remove_contact(far[4])
    assert table.get(far[room + 1].id) is far[room + 1]
    check(table)


def test_one_address_gets_a_bounded_share_but_not_on_loopback() -> None:
    rng = random.Random(2)
    for host, expected in (("10.0.0.1", CONTACTS_PER_ADDRESS_MAX), ("127.0.0.1", 100)):
        table = table_of(bytes(20))
        for number in range(100):
            table.add_contact(contact(rng.randbytes(20), host, number))
        assert len(table) == expected


def test_who_is_heard_is_the_most_recently_seen() -> None:
    table = table_of(bytes(20))
    nodes = [contact(bytes([200 + number]) * 20, port=number) for number in range(3)]
    for node in nodes:
        table.add_contact(node)
    table.touch(nodes[0], 5.0)
    assert list(table.buckets[0].nodes.values()) == [nodes[1], nodes[2], nodes[0]]


def test_finding_neighbours_of_200_contacts_takes_less_than_a_lookup_can_notice() -> None:
    rng = random.Random(3)
    table = table_of(rng.randbytes(20))
    for number in range(200):
        table.add_contact(contact(rng.randbytes(20), port=number))
    targets = [rng.randbytes(20) for _ in range(500)]
    times_s = []
    for target in targets:
        began_s = time.perf_counter()
        table.nearest(target, 8)
        times_s.append(time.perf_counter() - began_s)
    assert sorted(times_s)[250] < 500e-6, "some 25 us; the bound leaves room for a busy machine"
