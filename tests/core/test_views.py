"""What a read must hear where peers differ about a page's replicas: enough to meet whatever any of them counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2pkv.core.replication import read_quorum, write_quorum
from p2pkv.core.views import Views

K = 8
PLACE = bytes(20)
PEERS = [number.to_bytes(20, "big") for number in range(1, 21)]  # by their distance from the place


def view(*, without: set[bytes]) -> list[bytes]:
    """The k nearest for somebody who takes these for dead."""
    return [peer for peer in PEERS if peer not in without][:K]


def enough(views: Views, order: list[bytes]) -> set[bytes]:
    """Those who are heard in this order until the views are met."""
    heard: set[bytes] = set()
    for peer in order:
        if views.unmet(heard):
            heard.add(peer)
    return heard


some = st.sets(st.sampled_from(PEERS), max_size=6)


@given(st.data())
def test_a_read_meets_what_was_acknowledged_under_any_view_that_it_was_told_of(data: st.DataObject) -> None:
    views = Views(PLACE, K, view(without=data.draw(some)))
    writers = [view(without=data.draw(some)) for _ in range(3)]
    for known in writers:
        views.add(known)
    heard = enough(views, data.draw(st.permutations(PEERS)))
    for known in writers:
        acknowledged = data.draw(st.sets(st.sampled_from(known), min_size=write_quorum(K), max_size=write_quorum(K)))
        assert acknowledged & heard


@given(st.data())
def test_a_read_that_hears_none_of_the_dead_needs_no_view_of_others(data: st.DataObject) -> None:
    dead = data.draw(st.sets(st.sampled_from(PEERS[:K]), max_size=K - read_quorum(K)))
    views = Views(PLACE, K, view(without=set()))
    heard = enough(views, [peer for peer in data.draw(st.permutations(PEERS)) if peer not in dead])
    written_to = view(without=dead)
    acknowledged = data.draw(st.sets(st.sampled_from(written_to), min_size=write_quorum(K), max_size=write_quorum(K)))
    assert acknowledged & heard


@given(st.lists(some, max_size=4), st.sets(st.sampled_from(PEERS)))
def test_a_cover_is_a_quorum_of_every_view_and_no_larger_than_it_must_be(
    taken: list[set[bytes]], heard: set[bytes]
) -> None:
    views = Views(PLACE, K, view(without=set()))
    for dead in taken:
        views.add(view(without=dead))
    cover = views.cover(sorted(heard))
    assert bool(cover) == (not views.unmet(heard))
    if cover:
        assert set(cover) <= heard
        assert not views.unmet(set(cover))
        assert len(cover) == len(set(cover))


def test_those_whom_all_views_share_are_enough() -> None:
    views = Views(PLACE, K, view(without=set()))
    assert views.add(view(without=set(PEERS[:4])))
    assert not views.add(view(without=set(PEERS[:4])))
    assert views.cover(PEERS[4:8]) == PEERS[4:8]
    assert views.unmet(set(PEERS[:4])), "those who are dead for others are none of theirs"
    assert len(views.cover(PEERS)) == read_quorum(K)


def test_peers_that_each_know_another_newcomer_count_as_a_lookup_would_find_them() -> None:
    old = PEERS[4:12]
    views = Views(PLACE, K, old)
    for newcomer in PEERS[:4]:
        views.add([newcomer, *old[:7]])
    assert not views.unmet({*old[:4]}), "four are in the union, the newcomers the other four"
    assert views.unmet({*old[3:7]})
