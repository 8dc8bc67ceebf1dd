"""Numbers for people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradience.reports.base.numbers import (
    count,
    digits_for,
    number_range,
    percent,
    plural,
    sig,
    size,
    trimmed,
)


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (1.8734, 3, "1.87"),
        (1.8, 3, "1.80"),
        (0.020311, 3, "0.0203"),
        (9.996, 3, "10.0"),
        (99.96, 3, "100"),
        (1234.5, 3, "1230"),
        (41.34, 2, "41"),
        (0.00018, 1, "2e-4"),
        (0.00123, 2, "0.0012"),
        (123456.0, 3, "1.23e5"),
        (1.9e4, 3, "19000"),
        (3e-31, 3, "3.00e-31"),
        (1e19, 3, "1.00e19"),
        (0.0, 3, "0"),
        (None, 3, "–"),
        (-1.5, 3, "-1.50"),
    ],
)
def test_sig(value, digits, shown):
    assert sig(value, digits) == shown


@given(st.floats(1e-12, 1e12), st.integers(1, 4))
def test_sig_is_right_to_the_digits_it_shows(value, digits):
    assert float(sig(value, digits)) == pytest.approx(value, rel=0.51 * 10 ** (1 - digits))


@pytest.mark.parametrize(
    ("error", "digits"), [(0.0, 3), (3e-13, 3), (7e-5, 3), (9e-4, 3), (2e-3, 2), (1.5e-2, 1), (0.5, 1)]
)
def test_digits_that_an_error_leaves(error, digits):
    assert digits_for(error) == digits


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"),
        (9216, "9,216"),
        (999_999, "999,999"),
        (1_000_000, "1.0 M"),
        (167_772_160, "167.8 M"),
        (10**10, "10.0 B"),
        (7_241_732_096, "7.2 B"),
        (66_955_010, "67.0 M"),
    ],
)
def test_count(number, shown):
    assert count(number) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0 B"),
        (812, "812 B"),
        (999, "999 B"),
        (298_520, "298.5 kB"),
        (999_960, "1.0 MB"),
        (335_544_320, "335.5 MB"),
    ],
)
def test_size(number, shown):
    assert size(number) == shown


@pytest.mark.parametrize(
    ("fraction", "shown"),
    [
        (0.0, "0 %"),
        (-4.4e-16, "0 %"),
        (0.875, "87.5 %"),
        (0.99949, "99.9 %"),
        (0.9996, "over 99.9 %"),
        (1 - 1e-6, "over 99.9 %"),
        (1 - 1e-15, "100 %"),
        (1.2, "120 %"),
        (1.0, "100 %"),
        (0.0284, "2.8 %"),
        (0.00012, "0.012 %"),
        (None, "–"),
    ],
)
def test_percent(fraction, shown):
    assert percent(fraction) == shown


@pytest.mark.parametrize(
    ("values", "shown"), [([8], "8"), ([8, 8], "8"), ([64, 4, 8], "4–64"), ([0.25, 2.0], "0.25–2"), ([], "–")]
)
def test_range(values, shown):
    assert number_range(values) == shown


def test_trimmed_drops_empty_decimals():
    assert [trimmed(value) for value in (16.0, 23.7, 40.5, 12.34567, 1023.5, 65536.0, None)] == [
        "16",
        "23.7",
        "40.5",
        "12.35",
        "1023.5",
        "65536",
        "–",
    ]


def test_plural():
    assert [plural(number, "module") for number in (0, 1, 24)] == ["0 modules", "1 module", "24 modules"]
