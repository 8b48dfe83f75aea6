"""When pages split before they are full: for many names, not for many records."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2pkv.core.growth import Growth

BOUND = 100


def names(count: int) -> list[bytes]:
    return [b"name %d" % number for number in range(count)]


@given(st.lists(st.integers(1, 400), max_size=8))
def test_each_depth_is_due_once_the_names_are_too_many_for_it(counts: list[int]) -> None:
    growth, told, brought = Growth(), list[int](), 0
    for count in counts:
        growth.bring(names(brought + count)[brought:])
        brought += count
        while (depth := growth.due(BOUND)) is not None:
            told.append(depth)
        levels = ((0, 0.5 * BOUND), (1, 10 * BOUND))
        assert [depth for depth, most in levels if brought > 1.1 * most] <= told
        assert told <= [depth for depth, most in levels if brought > 0.9 * most]


@given(st.integers(1, BOUND // 3))
def test_records_that_are_replaced_do_not_count(count: int) -> None:
    growth = Growth()
    for _ in range(50):
        growth.bring(names(count))
        assert growth.due(BOUND) is None


def test_a_real_page_and_a_key_of_many_are_counted_well_enough() -> None:
    growth, bound = Growth(), 4096
    growth.bring(names(1900))
    assert growth.due(bound) is None
    growth.bring(names(2200))
    assert growth.due(bound) == 0
    growth.bring(names(38_000))
    assert growth.due(bound) is None
    growth.bring(names(44_000))
    assert growth.due(bound) == 1
    growth.bring(names(200_000))
    assert growth.due(bound) is None


@given(st.integers(0, 20 * BOUND), st.integers(0, 20 * BOUND))
def test_names_that_are_sure_to_come_count_as_those_that_came(brought: int, coming: int) -> None:
    growth, told = Growth(), list[int]()
    growth.bring(names(brought))
    while (depth := growth.due(BOUND, coming)) is not None:
        told.append(depth)
    most = brought + coming
    assert [depth for depth, least in ((0, 0.5 * BOUND), (1, 10 * BOUND)) if most > 1.1 * least] <= told
    assert told <= [depth for depth, least in ((0, 0.5 * BOUND), (1, 10 * BOUND)) if most > 0.9 * least]
