"""Colours of series are apart for who sees them all, and for who has no red, green or blue receptor."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from gradience.report.plots.palette import SERIES, TONES

NO_RED = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
NO_GREEN = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
NO_BLUE = [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
SEEN = {
    "all": np.eye(3),
    "no red": np.array(NO_RED),
    "no green": np.array(NO_GREEN),
    "no blue": np.array(NO_BLUE),
}
"""Linear sRGB as it is seen: Machado, Oliveira and Fernandes, 2009, severity 1."""
PAGES = ("#f7f8fa", "#1b2027")
"""The cards that plots stand on, light and dark."""


def linear(color):
    parts = np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(light):
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(
        light, 0, 1
    )
    cube = np.where((t := xyz / [0.9505, 1, 1.089]) > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * cube[1] - 16, 500 * (cube[0] - cube[1]), 200 * (cube[1] - cube[2])])


@pytest.mark.parametrize("sight", SEEN)
def test_series_are_apart(sight):
    seen = [lab(SEEN[sight] @ linear(color)) for color in SERIES]
    least = min(np.linalg.norm(one - other) for one, other in combinations(seen, 2))
    assert least > (9 if sight == "no blue" else 14)


@pytest.mark.parametrize("page", PAGES)
def test_lines_are_seen_on_light_and_on_dark_cards(page):
    for color in {*SERIES, *TONES.values()}:
        dark, light = sorted(linear(each) @ [0.2126, 0.7152, 0.0722] for each in (color, page))
        assert (light + 0.05) / (dark + 0.05) > 2.6, color
