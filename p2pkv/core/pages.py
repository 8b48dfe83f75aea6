"""Pages of a key: how they are called, where they lie, and the fact that one of them is split.

Theory of operation. A key begins as one page, the root, at SHA-1(key). A page is called by a prefix of the path of the
record names in it; a path is the BLAKE3 hash of the name, as hex digits. The owner is no part of it, so all records of
one name share a page. A page that outgrows its bound splits into its 16 children, one digit longer. That a page is
split is a fact that only grows: a marker, one and the same version for everybody, that lies in the page like a record
and is merged, mended and handed over like one. It never goes.

What makes reads complete while pages split (docs/design.md has the proof):
- Nothing is stored in a child before a majority of the parent's replicas have the marker (`PageTree.split` holds only
  such pages), so whoever reads a quorum of the parent learns of the children.
- A record leaves a split page only after a majority of its child's replicas have it, so whoever reads the parent first
  and the child behind it meets the record in one of them.
- A page that a read quorum calls split and empty stays empty for good: too few of its replicas take records any more.

A stock peer's value has no name and no path, and stays in the root. Owns no network, no storage, no clock.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from typing import Final

from blake3 import blake3

from p2pkv.core.growth import Growth
from p2pkv.core.records import SPLIT_NAME, Flag, Version
from p2pkv.errors import RemoteError
from p2pkv.ids import ID_BYTES, Place, place_of_key
from p2pkv.limits import (
    PAGE_DEPTH_MAX,
    PAGE_PLACES_KEPT_MAX,
    PAGE_SPLITS_KNOWN_MAX,
    PAGE_TREES_KEPT_MAX,
    PAGE_TREES_KEPT_S,
)

PageName = bytes
"""Hex digits in ASCII, at most PAGE_DEPTH_MAX of them; empty for the root."""

ROOT: Final[PageName] = b""
DIGITS: Final = b"0123456789abcdef"
_PLACE_CONTEXT: Final = "p2pkv 2026 place of a page of a key"
_REGISTER_CONTEXT: Final = "p2pkv 2026 place of the register of a record"


def path_of(name: bytes) -> bytes:
    """The hex digits by which a record name finds its page; none for a stock peer's value, which stays in the root."""
    return blake3(name).hexdigest(length=PAGE_DEPTH_MAX // 2).encode() if name else b""


@lru_cache(PAGE_PLACES_KEPT_MAX)
def place_of_page(key: bytes, page: PageName) -> Place:
    """Where a page lies: the root where stock peers look, a child where no key's root can be."""
    if not page:
        return place_of_key(key)
    text = len(page).to_bytes(1, "big") + page + key
    return Place(blake3(text, derive_key_context=_PLACE_CONTEXT).digest(length=ID_BYTES))


def place_of_register(key: bytes, name: bytes) -> Place:
    """Where the consensus register of a record lies, from its first day on and whatever pages split: fixed by key and
    name, so that the acceptors of a record never change by a split."""
    text = len(key).to_bytes(2, "big") + key + name
    return Place(blake3(text, derive_key_context=_REGISTER_CONTEXT).digest(length=ID_BYTES))


def children_of(page: PageName) -> list[PageName]:
    return [page + DIGITS[digit : digit + 1] for digit in range(16)]


def title(page: PageName) -> str:
    """A page as users read it."""
    return f"page {page.decode()}" if page else "the root page"


def split_marker(page: PageName) -> Version:
    """The version that says that a page is split: the same whoever makes it, at the head of the page's time order."""
    return Version(
        name=SPLIT_NAME,
        clock=0,
        author=b"",
        flags=Flag.TOMBSTONE | Flag.SPLIT,
        expires_ms=0,
        size_bytes=0,
        body=b"",
        meta=page,
    )


def check_page(page: PageName) -> None:
    """Raise RemoteError where a page named by a peer cannot be one, or cannot split."""
    if len(page) >= PAGE_DEPTH_MAX or page.strip(DIGITS):
        raise RemoteError("malformed", "a page that is none")


def page_of(version: Version, depth: int) -> PageName:
    """The page that a version is meant for. Raises RemoteError where its path is not so deep."""
    if version.flags & Flag.SPLIT:
        check_page(version.meta)
        return version.meta
    path = path_of(version.name) if depth else b""
    if depth > len(path):
        raise RemoteError("malformed", "a page deeper than any")
    return path[:depth]


def page_at(key: bytes, place: Place, name: bytes) -> PageName | None:
    """Which page of the key a place is, by the name of a record found there; None where it is none."""
    path = path_of(name)
    for depth in range(len(path) + 1):
        if place_of_page(key, path[:depth]) == place:
            return path[:depth]
    return None


class PageTree:
    """What is known of the pages of one key.

    `split`: a majority of the page's replicas know that it is split, so writers go on to its children. `noticed`: some
    replica says so, which is enough for readers. `closed`: split and empty of named records for good. `growth`: what
    this peer brought to the key since it knows the tree.
    """

    __slots__ = ("closed", "growth", "noticed", "split", "until_s")

    def __init__(self, until_s: float) -> None:
        self.split: set[PageName] = set()
        self.noticed: set[PageName] = set()
        self.closed: set[PageName] = set()
        self.growth = Growth()
        self.until_s = until_s

    def establish(self, page: PageName) -> None:
        self.split.add(page)
        self.noticed.add(page)

    def close(self, page: PageName) -> None:
        """A read quorum called it split and empty."""
        self.noticed.add(page)
        self.closed.add(page)

    def leaves(self) -> list[PageName]:
        """The pages that readers know of and that are not split."""
        return [page for page in self.below(ROOT) if page not in self.noticed]

    def below(self, page: PageName) -> list[PageName]:
        """The page and all pages under it that readers know of, parents first."""
        found = [page]
        for parent in found:
            if parent in self.noticed:
                found += children_of(parent)
        return found

    def leaf_of(self, path: bytes) -> PageName:
        """The page that records with this path belong to now."""
        depth = 0
        while depth < len(path) and path[:depth] in self.split:
            depth += 1
        return path[:depth]


class PageTrees:
    """The trees of the keys that a peer worked with lately: bounded in number, size and age.

    They are forgotten after a while so that a split is made known anew to a page's replicas, which change.
    """

    def __init__(self) -> None:
        self._trees: OrderedDict[bytes, PageTree] = OrderedDict()

    def of(self, key: bytes, now_s: float) -> PageTree:
        tree = self._trees.get(key)
        if tree is None or now_s > tree.until_s or len(tree.noticed) > PAGE_SPLITS_KNOWN_MAX:
            tree = self._trees[key] = PageTree(now_s + PAGE_TREES_KEPT_S)
        self._trees.move_to_end(key)
        if len(self._trees) > PAGE_TREES_KEPT_MAX:
            self._trees.popitem(last=False)
        return tree
