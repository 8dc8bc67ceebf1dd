"""The colours of plots, the same in every renderer: apart from each other for people who do not see some colours, and
legible on white and on a dark page."""

from __future__ import annotations

from gradience.report.plots.plot import Tone

SERIES = ("#3b78c4", "#d9822b", "#2f9e77", "#b3589a", "#7352d1", "#8f5f33", "#45a2cc", "#ae9258")
"""Of series without a tone, by their place in the plot; the ninth begins anew. Any two are 14 or more apart in CIELAB,
also for who has no red or no green receptor (Machado, Oliveira and Fernandes, 2009)."""

TONES: dict[Tone, str] = {
    "accent": SERIES[0],
    "good": "#2f9e77",
    "warn": "#c98a1b",
    "bad": "#cf4b4b",
    "dim": "#8c8c8c",
}

SHADES = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
"""From low to high, even steps (viridis, Smith and van der Walt, 2015; CC0): heat maps, and series by their shade."""

SHADE_LOW, SHADE_TOP = 0.3, 0.85
"""Lines use the scale between these: its dark end is not seen on a dark page, its light end not on white."""


def series_color(tone: Tone, shade: float | None, place: int) -> str:
    """Return the colour of a series: of its tone, of its shade, or of its place in the plot."""
    if tone:
        return TONES[tone]
    return (
        SERIES[place % len(SERIES)]
        if shade is None
        else shade_color(SHADE_LOW + (SHADE_TOP - SHADE_LOW) * shade)
    )


def shade_color(shade: float) -> str:
    """Return the colour at `shade` (0 … 1) of the scale, between its steps.

    >>> shade_color(0.0), shade_color(1.0)
    ('#440154', '#fde725')
    """
    place = min(max(shade, 0.0), 1.0) * (len(SHADES) - 1)
    step = min(int(place), len(SHADES) - 2)
    low, high = (bytes.fromhex(color[1:]) for color in SHADES[step : step + 2])
    mixed = bytes(round(a + (b - a) * (place - step)) for a, b in zip(low, high, strict=True))
    return f"#{mixed.hex()}"
