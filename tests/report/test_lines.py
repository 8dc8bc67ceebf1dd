"""Lines, columns and wrapping."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from gradience.report.lines import (
    STYLES,
    Span,
    columns,
    columns_width,
    fit,
    line,
    line_cells,
    paragraph,
    render,
    wrap,
)

VISIBLE = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z", "M"]), max_size=60)


def test_columns_align_and_leave_no_blanks_at_the_end():
    rows = [["name", "r", "k"], ["q_proj", Span("64", "strong"), "3"], ["模型", "8"]]
    assert render(columns(rows, "<>>", gap=1), color=False) == "  name    r k\n  q_proj 64 3\n  模型    8\n"


@given(VISIBLE, st.integers(2, 40))
def test_fit_never_exceeds_its_width_and_keeps_the_end(text, width):
    shown = fit(text, width)
    assert cell_len(shown) <= width
    assert shown == text or (shown.startswith("…") and text.endswith(shown[1:]))


@given(st.lists(VISIBLE, max_size=12).map(" ".join), st.integers(2, 40))
def test_wrap_loses_nothing_and_fits(text, width):
    pieces = wrap(text, width)
    assert all(cell_len(piece) <= width for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_paragraph_hangs_behind_its_mark():
    lines = paragraph("one two three four", 12, first=line("  ", Span("!", "warn"), " "), indent=4)
    assert render(lines, color=False) == "  ! one two\n    three\n    four\n"


@given(st.lists(st.lists(VISIBLE, min_size=3, max_size=3), min_size=1, max_size=4))
def test_columns_width_is_what_columns_need(rows):
    widest = max(
        line_cells(out) for out in columns([[row[0], row[1], "x"] for row in rows], "<<<", indent=3, gap=3)
    )
    assert widest == columns_width([[row[0], row[1], "x"] for row in rows], gap=3)


@pytest.mark.parametrize("style", [style for style in STYLES if style])
def test_every_style_shows_in_colour_and_leaves_the_text_alone(style):
    coloured = render([line(Span("text", style))], color=True)
    assert "\x1b[" in coloured
    assert (
        re.sub(r"\x1b\[[0-9;]*m", "", coloured)
        == "text\n"
        == render([line(Span("text", style))], color=False)
    )


def test_the_renderer_itself_escapes_what_somebody_forgot():
    assert render([line("a\x1b[2Jb\nc")], color=False) == "a\\x1b[2Jb\\x0ac\n"
    assert "\x1b[2J" not in render([line("a\x1b[2Jb")], color=True)


def test_markup_is_text():
    assert render([line("[bold]x[/bold] [/] :skull:")], color=True) == "[bold]x[/bold] [/] :skull:\n"


def test_colour_does_not_depend_on_the_environment(monkeypatch):
    before = render([line(Span("text", "good"))], color=True)
    for name, value in {"NO_COLOR": "1", "TERM": "dumb", "COLORTERM": "truecolor", "COLUMNS": "3"}.items():
        monkeypatch.setenv(name, value)
    assert render([line(Span("text", "good"))], color=True) == before
