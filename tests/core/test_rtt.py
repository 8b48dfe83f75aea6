"""The estimate follows the path, ignores one outlier, and keeps within its bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pkv.core.rtt import RttEstimator
from p2pkv.limits import (
    LOOKUP_PATIENCE_MIN_S,
    RPC_RTO_INITIAL_S,
    RPC_RTO_MAX_S,
    RPC_RTO_MIN_S,
    RTT_SAMPLES_FEW,
    RTT_SAMPLES_MANY,
)


def test_before_any_sample_it_is_cautious() -> None:
    rtt = RttEstimator()
    assert rtt.srtt_s is None
    assert rtt.rto_s == rtt.patience_s == RPC_RTO_INITIAL_S


def test_the_first_sample_counts_whole_and_its_half_as_deviation() -> None:
    rtt = RttEstimator()
    rtt.observe(0.1)
    assert rtt.srtt_s == pytest.approx(0.1)
    assert rtt.rto_s == pytest.approx(0.1 + 4 * 0.05)


def test_a_steady_path_brings_the_timeout_near_to_the_round_trip() -> None:
    rtt = RttEstimator()
    for _ in range(50):
        rtt.observe(0.1)
    assert rtt.rto_s == pytest.approx(0.1, rel=0.01)


def test_backing_off_leaves_patience_alone_and_ends_with_the_next_sample() -> None:
    rtt = RttEstimator()
    rtt.observe(0.1)
    rtt.back_off(0.6)
    assert (rtt.rto_s, rtt.patience_s) == (0.6, pytest.approx(0.2))
    rtt.back_off(0.2)
    assert rtt.rto_s == 0.6
    rtt.observe(0.1)
    assert rtt.rto_s < 0.3


@given(st.lists(st.one_of(st.floats(0, 100), st.none()), max_size=50))
def test_whatever_comes_the_timeout_keeps_its_bounds(samples: list[float | None]) -> None:
    rtt = RttEstimator()
    for sample in samples:
        if sample is None:
            rtt.back_off(2 * rtt.rto_s)
        else:
            rtt.observe(sample)
        assert RPC_RTO_MIN_S <= rtt.rto_s <= RPC_RTO_MAX_S
        assert LOOKUP_PATIENCE_MIN_S <= rtt.patience_s <= rtt.rto_s


def test_few_samples_are_not_believed_against_the_swarm() -> None:
    rtt = RttEstimator()
    trusted = []
    for _ in range(RTT_SAMPLES_FEW):
        trusted.append(rtt.trusted)
        rtt.observe(0.5)
    assert trusted == [False] * RTT_SAMPLES_FEW
    assert rtt.trusted


def crowded(*, least_s: float = 0.4, samples: int = RTT_SAMPLES_FEW) -> RttEstimator:
    """Known from a crowded moment, in which one answer came quicker than the others."""
    rtt = RttEstimator()
    rtt.observe(least_s)
    for _ in range(samples - 1):
        rtt.observe(0.4)
    return rtt


def usual() -> RttEstimator:
    typical = RttEstimator()
    for _ in range(100):
        typical.observe(0.002)
    return typical


def test_what_a_crowd_taught_is_held_against_what_the_swarm_takes_now() -> None:
    rtt = crowded(least_s=0.003)
    assert rtt.patience_s > 0.4
    assert rtt.patience_among_s(usual()) < 0.05
    assert rtt.rto_among_s(usual()) < 0.1


def test_who_is_truly_far_is_given_its_time() -> None:
    rtt = crowded()
    assert rtt.patience_among_s(usual()) == rtt.patience_s
    assert rtt.rto_among_s(usual()) >= 0.4


def test_an_estimate_of_many_samples_stands_alone() -> None:
    rtt = crowded(least_s=0.003, samples=RTT_SAMPLES_MANY)
    assert (rtt.patience_among_s(usual()), rtt.rto_among_s(usual())) == (rtt.patience_s, rtt.rto_s)
