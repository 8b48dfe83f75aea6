"""Names, links, and what may be made on a disk."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pkv.errors import InvalidError
from p2pkv.files import names
from p2pkv.files.names import Link
from p2pkv.limits import KEY_BYTES_MAX, LINK_CHARS_MAX, NAME_BYTES_MAX

parts = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="/"), min_size=1).filter(
    lambda part: part not in (".", "..")
)
full_names = st.lists(parts, min_size=1, max_size=5).map("/".join)


@given(full_names, st.none() | st.binary(min_size=32, max_size=32))
def test_a_link_comes_back_equal(name: str, key: bytes | None) -> None:
    text = str(Link(name, key))
    assert text.isascii() and not any(char.isspace() for char in text)
    assert names.parse(text) == Link(name, key)


@given(full_names)
def test_a_name_is_a_record_in_its_folder(name: str) -> None:
    place = names.split(name)
    assert place.full == name
    assert len(place.key) <= KEY_BYTES_MAX
    assert place.key == b"\x00p2pkv/folder/" + name.encode().rpartition(b"/")[0]


@given(st.text())
def test_any_text_is_a_link_or_invalid(text: str) -> None:
    for candidate in (text, "p2pkv:" + text):
        try:
            names.split(names.parse(candidate).name)
        except InvalidError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "/a",
        "a//b",
        "a/../b",
        "./a",
        "a\x7f",
        "a\u2028b",
        "\udcff",
        "x" * NAME_BYTES_MAX,
        "x/" * 600 + "x",
        "ä" * 600 + "/x",
        "p2pkv:",
        "p2pkv:a%2f..%2fb",
        "p2pkv:%ff",
        "p2pkv:a#short",
        "p2pkv:a#" + "!" * 43,
        "p2pkv:" + "a" * LINK_CHARS_MAX,
    ],
)
def test_bad_names_and_links_are_refused(text: str) -> None:
    with pytest.raises(InvalidError):
        names.parse(text)


def test_the_longest_names_fit() -> None:
    assert names.parse("x" * (NAME_BYTES_MAX - 1)).name
    assert len(names.split("x" * 1010 + "/y").key) == KEY_BYTES_MAX


@pytest.mark.parametrize("part", ["CON", "nul.txt", "com1", "LPT¹.log", "a:b", "trailing.", "space ", "a\\b", "what?"])
def test_windows_names_are_refused_on_windows_alone(part: str) -> None:
    assert names.check_local(part, windows=False) == part
    with pytest.raises(InvalidError, match="Windows"):
        names.check_local(part, windows=True)
    assert names.check_local("console.txt", windows=True)


@pytest.mark.parametrize(
    ("place", "target", "inside"),
    [
        ("a", "b", True),
        ("a/b", "../c", True),
        ("a/b/c", "../../d/e", True),
        ("a/b/c", "../../d/../e", False),  # d may be a link
        ("a", ".", True),
        ("a", "..", False),
        ("a/b", "../../c", False),
        ("a", "b/../../c", False),
        ("a", "/etc/passwd", False),
        ("a", "", False),
        ("a", "C:\\x", False),
    ],
)
def test_links_out_of_the_tree_are_known(place: str, target: str, inside: bool) -> None:
    assert names.link_stays_inside(place, target) is inside
