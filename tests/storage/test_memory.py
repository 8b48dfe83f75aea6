"""The memory engine: conformance, and what simulations count on."""

from __future__ import annotations

import inspect
import random
import time

from hypothesis import given
from hypothesis import strategies as st

from p2pkv.storage.interface import RangeQuery, Store
from p2pkv.storage.memory import MemoryStore
from p2pkv.storage.sorted_keys import SortedKeys
from tests.storage.conformance import StoreConformance
from tests.storage.samples import NOW_S, PLACE, Clock, put, series, version


class TestMemoryStore(StoreConformance):
    def make_store(self, clock: Clock, quota_bytes: int | None = None) -> Store:
        return MemoryStore(clock, quota_bytes)


def test_a_method_finishes_without_suspending() -> None:
    store = MemoryStore(lambda: NOW_S)
    for coroutine in (store.commit([put(version())]), store.read(RangeQuery(PLACE)), store.page(PLACE)):
        assert inspect.iscoroutine(coroutine)
        try:
            coroutine.send(None)
        except StopIteration:
            continue
        raise AssertionError("suspended")


async def test_a_hundred_thousand_records_in_one_page_in_any_order() -> None:
    store = MemoryStore(lambda: NOW_S)
    versions = series(100_000)
    shuffled = random.Random(1).sample(versions, len(versions))
    await store.read(RangeQuery(PLACE))
    began = time.perf_counter()
    for v in shuffled:
        await store.commit([put(v)])
    assert time.perf_counter() - began < 20  # a quadratic one takes minutes
    result = await store.read(RangeQuery(PLACE, limit=1_000_000, bytes_max=1 << 40))
    assert result.versions == versions


@given(st.lists(st.integers(0, 60), max_size=200), st.integers(-1, 61))
def test_sorted_keys_like_a_sorted_list(numbers: list[int], at: int) -> None:
    keys, model = SortedKeys(), set[int]()
    for n in numbers:
        if n in model:
            keys.remove((n,))
            model.remove(n)
        else:
            keys.add((n,))
            model.add(n)
    ordered = sorted((n,) for n in model)
    assert list(keys.ascending((at,))) == [k for k in ordered if k >= (at,)]
    assert list(keys.ascending((at,), beyond=True)) == [k for k in ordered if k > (at,)]
    assert list(keys.descending((at,))) == [k for k in ordered if k <= (at,)][::-1]
    assert list(keys.descending((at,), beyond=True)) == [k for k in ordered if k < (at,)][::-1]
    assert keys.count_through((at,)) == sum(k <= (at,) for k in ordered)
    assert len(keys) == len(model)


def test_sorted_keys_over_many_chunks() -> None:
    rng = random.Random(2)
    numbers = rng.sample(range(100_000), 20_000)
    keys = SortedKeys((n,) for n in numbers[:5000])
    for n in numbers[5000:]:
        keys.add((n,))
    for n in numbers[:9000]:
        keys.remove((n,))
    rest = sorted((n,) for n in numbers[9000:])
    assert list(keys.ascending()) == rest
    assert list(keys.descending()) == rest[::-1]
    for n in rng.sample(range(100_000), 200):
        assert next(keys.ascending((n,)), None) == next((k for k in rest if k >= (n,)), None)
        assert next(keys.descending((n,)), None) == next((k for k in reversed(rest) if k <= (n,)), None)
        assert keys.count_through((n,)) == sum(k <= (n,) for k in rest)
