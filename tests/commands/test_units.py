"""Sizes, durations and addresses are read as people write them, and written as they are read."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pkv.errors import InvalidError
from p2pkv.units import (
    format_address,
    format_duration,
    format_size,
    parse_address,
    parse_duration,
    parse_size,
    parse_time,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("500", 500),
        ("500B", 500),
        ("64k", 65_536),
        ("64KiB", 65_536),
        ("64KB", 64_000),
        ("500M", 500 << 20),
        ("10GiB", 10 << 30),
        ("1.5 GiB", 3 << 29),
        (" 2T ", 2 << 40),
    ],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "x", "-1", "1X", "1.M", ".5M", "1 2", "10GiBs", "9EiB"])
def test_what_is_no_size_is_refused_with_a_mend(text: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse_size(text)
    assert caught.value.mend


@given(st.integers(0, 1023), st.sampled_from("KMGTP"))
def test_a_whole_number_of_a_unit_is_that_many(count: int, unit: str) -> None:
    size_bytes = parse_size(f"{count}{unit}iB")
    assert size_bytes == count << 10 * ("KMGTP".index(unit) + 1)


@given(st.integers(0, (1 << 60) - 1))
def test_a_written_size_is_read_as_nearly_the_same(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == pytest.approx(size_bytes, rel=0.06)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("1.5s", 1.5), ("10m", 600), ("2h30m", 9000), ("1d", 86_400), ("1w1d", 691_200)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "-1s", "1x", "30m2h", "1.5h", "s", "1 h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidError):
        parse_duration(text)


@given(st.integers(0, 10**8))
def test_a_written_duration_is_read_as_nearly_the_same(seconds: int) -> None:
    read = parse_duration(format_duration(seconds))
    assert seconds * 0.95 <= read <= seconds


@given(
    st.one_of(st.ip_addresses().map(str), st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True)),
    st.integers(0, 65_535),
)
def test_addresses_are_read_as_written(host: str, port: int) -> None:
    assert parse_address(format_address(host, port)) == (host, port)


@pytest.mark.parametrize(
    "text", ["", "h", ":1", "h:", "h:65536", "h:-1", "h:1x", "::1:80", "[::1]", "a b:1", "[h]:1:2"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidError):
        parse_address(text)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_size, parse_duration, parse_address):
        try:
            parse(text)
        except InvalidError as error:
            assert error.mend


@pytest.mark.parametrize(
    ("text", "time_s"),
    [("1970-01-02T00:00:00+00:00", 86_400), ("1970-01-01T01:00:00Z", 3600), ("10m", 1_000_000 - 600), ("0", 1_000_000)],
)
def test_times(text: str, time_s: float) -> None:
    assert parse_time(text, 1_000_000) == time_s


def test_a_date_without_a_zone_is_local() -> None:
    assert parse_time("2026-11-24", 0) == datetime(2026, 11, 24).astimezone().timestamp()


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "-5m"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(InvalidError):
        parse_time(text, 0)
