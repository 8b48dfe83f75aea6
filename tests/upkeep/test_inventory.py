"""The inventory follows the store by what it tells, without reading it again."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from p2pkv.core import atomic
from p2pkv.core.pages import split_marker
from p2pkv.core.reconciliation import items_in
from p2pkv.core.records import BATCH_ID_BYTES, Flag, Version, content_hash
from p2pkv.ids import Place
from p2pkv.limits import CHANGES_FEW_MAX
from p2pkv.messages import RECORDS
from p2pkv.storage.interface import DropVersion, PutRegister, PutVersion, Write
from p2pkv.storage.memory import MemoryStore
from p2pkv.swarm.changes import Changes
from p2pkv.swarm.inventory import StoreInventory

PLACES = [Place(bytes([0xAA, n // 2]) + bytes([n]) * 18) for n in range(4)]  # two to a cell
AUTHORS = [bytes([n]) * 32 for n in (1, 2)]

versions = st.builds(
    Version,
    name=st.sampled_from([b"a", b"b", b"c"]),
    clock=st.integers(1, 5),
    author=st.sampled_from(AUTHORS),
    flags=st.sampled_from([0, 0, Flag.OWN, Flag.TOMBSTONE]),
    expires_ms=st.just(0),
    size_bytes=st.just(0),
    body=st.just(b""),
)
waiting = st.builds(atomic.pending, versions, st.sampled_from([bytes([n]) * BATCH_ID_BYTES for n in (1, 2)]))
puts = st.builds(PutVersion, st.sampled_from(PLACES), st.just(b"key"), versions | waiting)
drops = st.builds(
    lambda put: DropVersion(put.place, put.version.name, put.version.owner, content_hash(put.version)), puts
)
splits = st.builds(PutVersion, st.sampled_from(PLACES), st.just(b"key"), st.just(split_marker(b"")))
registers = st.builds(PutRegister, st.sampled_from(PLACES), st.just(b"a"), st.binary(max_size=3))
commits = st.lists(puts | puts | puts | drops | splits | registers, min_size=1, max_size=5)


async def all_items(store: MemoryStore) -> set[bytes]:
    return set((await store.stretch(b"", None, 1000)).items)


async def with_inventory(store: MemoryStore, use: Any) -> None:
    inventory = StoreInventory(store)
    store.watcher = inventory
    task = asyncio.create_task(inventory.run())
    while not inventory.records.ready:
        await asyncio.sleep(0)
    try:
        await use(inventory)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


@given(st.lists(commits, max_size=8), st.lists(commits, max_size=8), st.data())
def test_it_has_just_what_the_store_has(
    before: list[list[Write]], after: list[list[Write]], data: st.DataObject
) -> None:
    async def play() -> None:
        store = MemoryStore(lambda: 0.0)
        for writes in before:
            await store.commit(writes)

        async def follow(inventory: StoreInventory) -> None:
            for writes in after:
                await store.commit(writes)
                if data.draw(st.booleans()):
                    await inventory.fresh(RECORDS, [b""])
            there = await all_items(store)
            assert {item for item in there if not inventory.records.has(item)} == set() or inventory.records.changed
            whole = await inventory.fresh(RECORDS, [b""], at_once=True)
            assert set(items_in(whole.items(b""))) == there

        await with_inventory(store, follow)

    run(play())


def test_many_that_have_just_come_do_not_count_yet_but_are_known_to_be_here() -> None:
    async def play() -> None:
        store = MemoryStore(lambda: 0.0)

        async def follow(inventory: StoreInventory) -> None:
            names = [b"%d" % number for number in range(CHANGES_FEW_MAX + 1)]
            await store.commit([PutVersion(PLACES[0], b"key", Version(n, 1, AUTHORS[0], 0, 0, 0, b"")) for n in names])
            assert len(await inventory.fresh(RECORDS, [b""])) == 0
            items = await all_items(store)
            assert all(inventory.came(RECORDS, item) for item in items)
            assert all(inventory.records.has(item) for item in items)
            assert len(await inventory.fresh(RECORDS, [b""], at_once=True)) == len(names)

        await with_inventory(store, follow)

    run(play())


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()) | st.none(), max_size=30))
def test_the_last_word_on_an_item_counts(steps: list[tuple[int, bool] | None]) -> None:
    """None stands for the end of a window."""
    changes, last = Changes(), dict[bytes, bool]()
    for step in steps:
        if step is None:
            changes.turn()
            continue
        item = bytes([0, step[0] % 2, step[0]]) + bytes(7)
        changes.note(item, here=step[1])
        last[item] = step[1]
        assert changes.has(item) == step[1]
    changes.hurry()
    found = {item: here for cell in changes.cells() for item, here in changes.take(cell).items()}
    assert found == last
    assert not changes
