"""Two inventories become one, at a cost that follows what differs."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pkv.core.reconciliation import (
    CELL_BYTES,
    CHILDREN,
    ITEM_BYTES,
    ITEMS,
    Inventory,
    Part,
    Walk,
    check_prefix,
    item_of,
    items_in,
)
from p2pkv.errors import RemoteError

FEW_CELLS = st.sets(
    st.builds(
        lambda cell, mark: cell + mark.to_bytes(8, "big"),
        st.sampled_from([b"aa", b"ab", b"z1"]),
        st.integers(0, 1 << 63),
    ),
    max_size=200,
)


def inventory_of(items: set[bytes]) -> Inventory:
    cells: dict[bytes, set[bytes]] = defaultdict(set)
    for item in items:
        cells[item[:CELL_BYTES]].add(item)
    inventory = Inventory()
    for cell, held in cells.items():
        inventory.set_cell(cell, held)
    return inventory


def lacking(own: Inventory, other: Inventory, prefixes: tuple[bytes, ...] = (b"",)) -> tuple[set[bytes], int]:
    """What a walk finds, and the bytes of its questions and answers."""
    walk, found, size_bytes = Walk(own, prefixes), set[bytes](), 0
    while questions := walk.questions():
        parts = [other.answer(*question) for question in questions]
        found |= set(walk.take(questions, parts))
        size_bytes += sum(len(prefix) + len(digest) + 4 for prefix, digest in questions)
        size_bytes += sum(len(part.data) + 4 for part in parts)
    return found, size_bytes


@given(FEW_CELLS, FEW_CELLS)
def test_a_walk_finds_what_is_lacking(own: set[bytes], other: set[bytes]) -> None:
    assert lacking(inventory_of(own), inventory_of(other))[0] == other - own


@given(FEW_CELLS, FEW_CELLS)
def test_a_walk_finds_what_the_other_lacks(own: set[bytes], other: set[bytes]) -> None:
    walk, there = Walk(inventory_of(own), [b""]), inventory_of(other)
    while questions := walk.questions():
        walk.take(questions, [there.answer(*question) for question in questions])
    assert sorted(walk.surplus) == sorted(own - other)


@given(FEW_CELLS, FEW_CELLS)
def test_an_inventory_that_changed_is_the_same_as_a_new_one(before: set[bytes], after: set[bytes]) -> None:
    changed, fresh = inventory_of(before), inventory_of(after)
    changed.digest(b"")
    for cell in {item[:CELL_BYTES] for item in before | after}:
        changed.set_cell(cell, {item for item in after if item.startswith(cell)})
    assert changed.digest(b"") == fresh.digest(b"")
    assert len(changed) == len(after)
    assert set(items_in(changed.items(b""))) == after
    assert all(changed.has(item) for item in after)
    assert not any(changed.has(item) for item in before - after)


def test_equal_inventories_cost_one_digest() -> None:
    items = {item_of(random.Random(1).randbytes(20), bytes([n])) for n in range(200)}
    assert lacking(inventory_of(items), inventory_of(items)) == (set(), 16)


def test_one_in_a_hundred_of_many_records_costs_little() -> None:
    draw = random.Random(7)
    count = 100_000
    items = [item_of(draw.randbytes(20), b"") for _ in range(count)]
    missing = set(draw.sample(items, count // 100))
    found, size_bytes = lacking(inventory_of(set(items) - missing), inventory_of(set(items)))
    assert found == missing
    record_bytes = 200  # key, name, body of 32 bytes, author, signature
    transferred_bytes = size_bytes + len(missing) * (record_bytes + ITEM_BYTES)
    assert transferred_bytes < 0.03 * count * record_bytes, f"{size_bytes} bytes to compare"


def test_a_walk_stays_below_its_prefixes() -> None:
    items = {item_of(random.Random(n).randbytes(20), b"") for n in range(2000)}
    found, _ = lacking(Inventory(), inventory_of(items), (b"3", b"a1"))
    assert found == {item for item in items if item.hex().startswith(("3", "a1"))}


@pytest.mark.parametrize(
    "part", [Part(ITEMS, b"x" * 11), Part(ITEMS, bytes(10)), Part(CHILDREN, b"\0"), Part(CHILDREN, b"\0\1" + b"d" * 7)]
)
def test_answers_that_cannot_be_are_the_peers_fault(part: Part) -> None:
    walk = Walk(Inventory(), [b"f"])
    with pytest.raises(RemoteError):
        walk.take(walk.questions(), [part])


def test_prefixes_are_hexadecimal_and_short() -> None:
    check_prefix(b"0123456789abcdef0123")
    for prefix in (b"0" * 21, b"A", b" "):
        with pytest.raises(RemoteError):
            check_prefix(prefix)


@given(st.lists(st.dictionaries(st.integers(0, 40), st.booleans(), max_size=12), max_size=6))
def test_changes_of_a_cell_come_to_the_same_as_saying_all_of_it(steps: list[dict[int, bool]]) -> None:
    cell, changed, said, held = b"\xaa\xbb", Inventory(), Inventory(), set[bytes]()
    for step in steps:
        changes = {cell + number.to_bytes(8, "big"): here for number, here in step.items()}
        before = set(held)
        held |= {item for item, here in changes.items() if here}
        held -= {item for item, here in changes.items() if not here}
        assert changed.change_cell(cell, changes) == (held != before)
        said.set_cell(cell, held)
        assert changed.items(b"") == said.items(b"")
        assert changed.digest(b"") == said.digest(b"")
        assert len(changed) == len(held)
