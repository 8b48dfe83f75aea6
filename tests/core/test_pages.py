"""Pages: names, places, trees; and the rules of splitting and moving, played in any order on a model of replicas."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pkv.core.pages import (
    ROOT,
    PageTree,
    PageTrees,
    children_of,
    page_at,
    page_of,
    path_of,
    place_of_page,
    place_of_register,
    split_marker,
)
from p2pkv.core.records import Flag, Version, check_shape, merge, rank
from p2pkv.core.replication import read_quorum, write_quorum
from p2pkv.errors import RemoteError
from p2pkv.ids import place_of_key
from p2pkv.limits import PAGE_DEPTH_MAX, PAGE_SPLITS_KNOWN_MAX, PAGE_TREES_KEPT_MAX, PAGE_TREES_KEPT_S

names = st.binary(min_size=1, max_size=40)


def version(name: bytes, clock: int = 1, **changes: object) -> Version:
    return msgspec.structs.replace(Version(name, clock, bytes(32), 0, 0, 1, b"v"), **changes)


# --- names and places ---


@given(names, st.integers(0, PAGE_DEPTH_MAX))
def test_a_record_lies_in_each_page_whose_name_begins_its_path(name: bytes, depth: int) -> None:
    page = page_of(version(name), depth)
    assert path_of(name).startswith(page)
    assert len(page) == depth
    assert page_at(b"key", place_of_page(b"key", page), name) == page


def test_the_root_lies_where_stock_peers_look_and_nothing_else_does() -> None:
    key = b"key"
    assert place_of_page(key, ROOT) == place_of_key(key)
    places = {place_of_page(key, page) for page in [ROOT, *children_of(ROOT), *children_of(b"a")]}
    assert len(places) == 33
    assert place_of_page(b"key", b"ab") != place_of_page(b"bkey", b"a"), "no two keys share a page"
    assert place_of_register(b"ab", b"c") != place_of_register(b"a", b"bc")


def test_a_stock_value_has_no_path_and_stays_in_the_root() -> None:
    assert path_of(b"") == b""
    stock = version(b"", author=b"", flags=Flag.STOCK)
    assert page_of(stock, 0) == ROOT
    with pytest.raises(RemoteError):
        page_of(stock, 1)
    tree = PageTree(0)
    tree.establish(ROOT)
    assert tree.leaf_of(b"") == ROOT


def test_a_marker_is_one_and_the_same_and_nothing_passes_for_it() -> None:
    marker = split_marker(b"a")
    check_shape(marker)
    assert page_of(marker, 0) == b"a"
    for changes in ({"clock": 1}, {"author": bytes(32)}, {"body": b"x"}, {"name": b"n"}, {"flags": Flag.SPLIT}):
        with pytest.raises(RemoteError):
            check_shape(msgspec.structs.replace(marker, **changes))
    for page in (b"g", b"A", b"a" * PAGE_DEPTH_MAX):
        with pytest.raises(RemoteError):
            page_of(split_marker(page), 0)


@given(st.sets(st.text("0123", max_size=3)), names)
def test_a_leaf_is_the_first_page_on_the_path_that_is_not_split(split: set[str], name: bytes) -> None:
    tree = PageTree(0)
    for page in split:
        tree.establish(page.encode())
    leaf, path = tree.leaf_of(path_of(name)), path_of(name)
    assert path.startswith(leaf)
    assert leaf not in tree.split
    assert all(leaf[:depth] in tree.split for depth in range(len(leaf)))
    assert leaf in tree.below(ROOT)


def test_trees_are_bounded_in_number_size_and_age() -> None:
    trees = PageTrees()
    trees.of(b"k", 0).establish(ROOT)
    assert trees.of(b"k", PAGE_TREES_KEPT_S).split == {ROOT}
    assert trees.of(b"k", PAGE_TREES_KEPT_S + 1).split == set()
    trees.of(b"k", PAGE_TREES_KEPT_S + 1).noticed.update(b"%d" % n for n in range(PAGE_SPLITS_KNOWN_MAX + 1))
    assert trees.of(b"k", PAGE_TREES_KEPT_S + 2).noticed == set()
    trees.of(b"k", 1000).establish(ROOT)
    for number in range(PAGE_TREES_KEPT_MAX):
        trees.of(b"%d" % number, 1000)
    assert trees.of(b"k", 1000).split == set()


# --- splitting and moving in any order ---

N = 5
W, R = write_quorum(N), read_quorum(N)
Records = dict[tuple[bytes, bytes], Version]


class World:
    """Replicas that keep what the rules say, reached in part only, and writers with old pictures of the tree."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.replicas: list[dict[bytes, Records]] = [{} for _ in range(N)]
        self.trees = [PageTree(0) for _ in range(3)]
        self.acknowledged: Records = {}
        self.tried: dict[tuple[bytes, bytes], set[int]] = {}
        self.clock = 0

    def some(self, least: int = 1) -> list[int]:
        return self.random.sample(range(N), self.random.randint(least, N))

    def is_split(self, replica: int, page: bytes) -> bool:
        return split_marker(page).identity in self.replicas[replica].get(page, {})

    def store(self, page: bytes, item: Version, replicas: list[int]) -> tuple[int, bool]:
        """How many have it or a newer one, and whether any calls the page split."""
        stored, split = 0, False
        for replica in replicas:
            if self.is_split(replica, page) and not item.flags & Flag.SPLIT:
                split = True
                continue
            held = self.replicas[replica].setdefault(page, {})
            held[item.identity] = merge(held.get(item.identity), item)
            stored += 1
        return stored, split

    def bring(self, tree: PageTree, item: Version) -> bool:
        """What a writer does; whether a majority has the version."""
        while True:
            page = tree.leaf_of(path_of(item.name))
            stored, split = self.store(page, item, self.some())
            if stored >= W:
                return True
            if not split or not self.establish(tree, page):
                return False

    def establish(self, tree: PageTree, page: bytes) -> bool:
        if self.store(page, split_marker(page), self.some())[0] >= W:
            tree.establish(page)
        return page in tree.split

    def put(self) -> None:
        self.clock += 1
        item = version(b"n%d" % self.random.randrange(5), self.clock)
        self.tried.setdefault(item.identity, set()).add(item.clock)
        if self.bring(self.random.choice(self.trees), item):
            self.acknowledged[item.identity] = merge(self.acknowledged.get(item.identity), item)

    def split(self) -> None:
        pages = [page for held in self.replicas for page in held if len(page) < 3]
        if pages:
            self.establish(self.random.choice(self.trees), self.random.choice(pages))

    def move(self) -> None:
        """One replica moves one record of a split page on, and drops it where the child has it."""
        replica, tree = self.random.randrange(N), self.random.choice(self.trees)
        here = [page for page in self.replicas[replica] if self.is_split(replica, page)]
        page = self.random.choice(here) if here else None
        items = (
            [v for v in self.replicas[replica][page].values() if not v.flags & Flag.SPLIT] if page is not None else []
        )
        if page is None or not items or not self.establish(tree, page):
            return
        item = self.random.choice(items)
        below = tree.leaf_of(path_of(item.name))
        if below.startswith(page) and below != page and self.bring(tree, item):
            del self.replicas[replica][page][item.identity]

    def step(self) -> None:
        self.random.choice([self.put, self.split] + 8 * [self.move])()

    def read(self) -> Iterator[Version]:
        """A read: each page by a quorum of its own, a split one before its children, the world going on between."""
        found: dict[tuple[bytes, bytes], Version] = {}
        pages = [ROOT]
        for page in pages:
            split = False
            for replica in self.random.sample(range(N), R):
                split |= self.is_split(replica, page)
                for item in self.replicas[replica].get(page, {}).values():
                    found[item.identity] = merge(found.get(item.identity), item)
            if split:
                pages += children_of(page)
            for _ in range(self.random.randrange(3)):
                self.step()
        yield from (item for item in found.values() if not item.flags & Flag.SPLIT)


@settings(max_examples=300)
@given(st.integers(0, 1 << 32), st.integers(5, 300))
def test_splits_merges_and_moves_in_any_order_lose_and_double_nothing(seed: int, steps: int) -> None:
    world = World(seed)
    for _ in range(steps):
        world.step()
    before = dict(world.acknowledged)
    got = list(world.read())
    assert len({item.identity for item in got}) == len(got)
    seen = {item.identity: item for item in got}
    for identity, item in before.items():
        assert identity in seen, "an acknowledged record is lost"
        assert rank(seen[identity]) >= rank(item), "an acknowledged version is lost"
    assert all(item.clock in world.tried[item.identity] for item in got)


@given(st.integers(0, 1 << 32))
def test_in_the_end_every_record_lies_in_its_leaf_alone(seed: int) -> None:
    world = World(seed)
    for _ in range(60):
        world.step()
    for _ in range(4000):
        world.move()
    left = [
        item
        for replica in range(N)
        for page, held in world.replicas[replica].items()
        for item in held.values()
        if world.is_split(replica, page) and not item.flags & Flag.SPLIT
    ]
    assert len(left) <= 2, "only what random partners never let through"
