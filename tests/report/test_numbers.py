"""Numbers for people."""

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

SHOWN = [
    (sig, [(1.8734, "1.87"), (1.8, "1.80"), (0.020311, "0.0203"), (9.996, "10.0"), (99.96, "100"), (1234.5, "1230"),
           (123456.0, "1.23e5"), (1.9e4, "19000"), (3e-31, "3.00e-31"), (1e19, "1.00e19"), (0.0, "0"), (None, "–"),
           (-1.5, "-1.50")]),
    (digits_for, [(0.0, 3), (3e-13, 3), (7e-5, 3), (9e-4, 3), (2e-3, 2), (1.5e-2, 1), (0.5, 1)]),
    (count, [(0, "0"), (9216, "9,216"), (999_999, "999,999"), (1_000_000, "1.0 M"), (167_772_160, "167.8 M"),
             (10**10, "10.0 B"), (7_241_732_096, "7.2 B"), (66_955_010, "67.0 M")]),
    (size, [(0, "0 B"), (812, "812 B"), (999, "999 B"), (298_520, "298.5 kB"), (999_960, "1.0 MB"),
            (335_544_320, "335.5 MB")]),
    (percent, [(0.0, "0 %"), (-4.4e-16, "0 %"), (0.875, "87.5 %"), (0.99949, "99.9 %"), (0.9996, "over 99.9 %"),
               (1 - 1e-6, "over 99.9 %"), (1 - 1e-15, "100 %"), (1.2, "120 %"), (1.0, "100 %"), (0.0284, "2.8 %"),
               (0.00012, "0.012 %"), (None, "–")]),
    (number_range, [((8,), "8"), ((8, 8), "8"), ((64, 4, 8), "4–64"), ((0.25, 2.0), "0.25–2"), ((), "–")]),
    (trimmed, [(16.0, "16"), (23.7, "23.7"), (40.5, "40.5"), (12.34567, "12.35"), (1023.5, "1023.5"),
               (65536.0, "65536"), (None, "–")]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("form", "value", "shown"), [(form, *case) for form, cases in SHOWN for case in cases]
)
def test_a_number_is_shown(form, value, shown):
    assert form(value) == shown


@given(st.floats(1e-12, 1e12), st.integers(1, 4))
def test_sig_is_right_to_the_digits_it_shows(value, digits):
    assert float(sig(value, digits)) == pytest.approx(value, rel=0.51 * 10 ** (1 - digits))


def test_plural():
    assert [plural(number, "module") for number in (0, 1, 24)] == ["0 modules", "1 module", "24 modules"]
