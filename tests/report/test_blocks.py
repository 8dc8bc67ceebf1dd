"""Every kind of block in every renderer: golden texts, widths, and names from strangers."""

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from golden import assert_golden
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from test_names import HOSTILE, LONG, steering

from gradience.reports.base import blocks, html, markdown, terminal
from gradience.reports.base.blocks import (
    Code,
    Column,
    Facts,
    Heading,
    Mark,
    Note,
    Notes,
    Paragraph,
    Span,
    Style,
    Table,
    items,
)
from gradience.reports.base.names import MAX_NAME
from gradience.words import printable

GOLDEN = Path(__file__).parent / "golden"
SENTENCE = "Weight energy is a crude guide to quality: each rank is a hypothesis until it was evaluated."
PATH = "model.layers.{}.self_attn.attention.output.dense.q_proj"


def each_block(name="adapter", words=SENTENCE):
    """One block of every kind, in which `name` and `words` stand wherever a stranger's text can."""
    spanned = ("see ", Span(name, "name"), f" and {words}")
    return {
        "title": Heading(("Audit of ", Span(name, "name")), level=1),
        "heading": Heading("How much of its rank does it use?", aside=words),
        "paragraph": Paragraph(spanned),
        "notes": Notes([*(Note(mark, spanned) for mark in get_args(Mark)), Note("error", words, [words, spanned])]),
        "items": items([words, Span(words, "dim")]),
        "facts": Facts([("model", Span(name, "name")), ("a longer label", words)]),
        "table": Table(
            [
                Column("module"),
                Column("rank", ">"),
                Column("parameters", ">", drop=2),
                Column("", drop=1),
                Column("reason", wrap=True),
            ],
            [
                [Span(name, "name"), Span("64", "strong"), "167,772,160", Span(name, "warn"), words],
                [Span(f"{name}.b", "name"), "8"],
            ],
        ),
        "drawing": Table(
            [Column("layer"), Column("0 1 2", drawing=True), Column("max", ">")],
            [[Span(name, "name"), (Span("▃▃", "heat3"), Span("·", "dim")), "5 of 8"]],
        ),
        "code": Code([("rank = ", Span("8", "strong")), f"# {words}", f"  {name}"], "python"),
    }  # fmt: skip


COLOR = re.compile(r"\x1b\[[0-9;]*m")


def test_there_is_one_of_every_kind():
    assert {type(block) for block in each_block().values()} == set(get_args(blocks.Block))


@pytest.mark.parametrize("width", [60, 80, 160, None], ids=str)
def test_golden_text(width):
    names = [PATH.format(i) for i in range(2)]
    document = [block for name in names for block in each_block(name).values()]
    assert_golden(GOLDEN / f"blocks-{width or 'file'}.txt", terminal.render(document, width=width))


def test_golden_documents():
    document = list(each_block("layers.0.q_proj").values())
    assert_golden(GOLDEN / "blocks.md", markdown.render(document))
    assert_golden(GOLDEN / "blocks.html", html.render(document) + "\n")


# ---------------------------------------------------------------- the terminal


WORDS = st.lists(
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z", "M"]), max_size=12), max_size=40
)


@given(WORDS, st.integers(60, 160))
def test_sentences_wrap_between_words_and_lose_nothing(words, width):
    lines = terminal.render([Paragraph(" ".join(words))], width=width).splitlines()
    assert all(cell_len(line) <= min(width, 100) for line in lines)
    assert " ".join(lines).split() == printable(" ".join(words)).split()


@pytest.mark.parametrize("kind", each_block())
def test_no_line_is_wider_than_the_terminal(kind):
    shown = each_block("a.module.of.some.length")[kind]
    document = [Heading("A section"), Paragraph("First."), shown, Paragraph("Last.")]
    for width in range(60, 161, 10):
        lines = terminal.render(document, width=width).splitlines()
        assert max(map(cell_len, lines)) <= width or kind == "code"
        assert not any(line.endswith(" ") for line in lines)


def test_color_adds_nothing_but_color():
    document = list(each_block().values())
    colored = terminal.render(document, color=True)
    assert COLOR.sub("", colored) == terminal.render(document)
    for role in get_args(Style):
        colored = COLOR.search(terminal.render([Paragraph(Span("text", role))], color=True))
        assert bool(colored) == (role not in ("", "quote"))


def test_nothing_depends_on_the_environment(monkeypatch):
    document = list(each_block().values())
    before = [terminal.render(document, color=color) for color in (False, True)]
    for name, value in {"NO_COLOR": "1", "TERM": "dumb", "COLORTERM": "truecolor", "COLUMNS": "3"}.items():
        monkeypatch.setenv(name, value)
    assert [terminal.render(document, color=color) for color in (False, True)] == before


@given(
    st.lists(
        st.tuples(st.text("ab.", min_size=1, max_size=90), st.integers(0, 10**9)), min_size=1, max_size=6
    )
)
def test_figures_stay_whole_and_names_stay_apart(rows):
    table = Table(
        [Column("module"), Column("figure", ">"), Column("why", wrap=True)],
        [[Span(name, "name"), str(figure), SENTENCE] for name, figure in rows],
    )
    lines = terminal.render([table], width=60).splitlines()[1:]
    starts = [line.split()[:2] for line in lines if not line.startswith(" ")]
    assert [figure for _, figure in starts] == [str(figure) for _, figure in rows]
    assert len({shown for shown, _ in starts}) == len({name for name, _ in rows})


def test_columns_that_do_not_fit_are_left_out_in_their_order_and_named():
    titles = [Column("a" * 30), Column("b" * 20, drop=2), Column("c" * 20, drop=1), Column("d" * 5)]
    table = Table(titles, [["1", "2", "3", "4"]])
    texts = [terminal.render([table], width=width) for width in (100, 62, 60)]
    assert "cccc" in texts[0]
    assert texts[1].splitlines()[-1] == f"not shown at this width: {'c' * 20}"
    assert "not shown" not in terminal.render([table])
    assert all(text.split().count("4") == 1 for text in texts)


def test_labels_and_figures_that_are_too_long_are_whole():
    label = "a label of many words " * 6
    facts = terminal.render([Facts([(label, SENTENCE)])], width=60)
    assert "…" not in facts
    assert sorted(facts.split()) == sorted(f"{label} {SENTENCE}".split())


def test_a_file_has_whole_names_and_paths():
    """What is copied from a pipe must be the path."""
    path = "/runs/" + "x" * 120
    for kind in ("title", "paragraph", "notes", "facts", "table"):
        assert path in terminal.render([each_block(path)[kind]]), kind
    assert "…" in terminal.render([each_block(PATH.format(0))["table"]], width=60)


def test_drawing_never_loads_the_console_of_rich():
    code = (
        "import sys; from gradience.reports.base import terminal;"
        "from gradience.reports.base.blocks import Note, Notes, Paragraph;"
        "document = [Paragraph('a sentence ≥ ' * 20), Notes([Note('good', 'a note ' * 30)])];"
        "[terminal.render(document, color=color) for color in (False, True)];"
        "sys.exit('rich.console' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------- names from strangers


def test_a_name_is_no_markup_in_markdown():
    plain = {kind: markdown.render([block]) for kind, block in each_block("plain", "plain").items()}
    for label, name in HOSTILE.items():
        for kind, block in each_block(name, name).items():
            text = markdown.render([block])
            assert not steering(text, "\n"), label
            if kind == "code":  # within a fence nothing is markup, so long as nothing closes it
                fence = text.partition("python")[0]
                assert set(fence) == {"`"}, label
                assert text.count(fence) == 2, label
                continue
            outside = re.sub(r"`[\w.\-/ …]+`", "", text)
            assert not re.search(r"[<>]|\]\(|!\[|https?://|www\.|~~|\$|`", outside), label
            assert structure(text) == structure(plain[kind]), label


def structure(text):
    """Of each line of Markdown what it begins with, and how many cells it has."""
    starts = re.compile(r"^\s*(?:#+ |- |\d+[.)] |[|])?")
    return [(starts.match(line)[0], line.count("|")) for line in text.splitlines()]


def test_a_paragraph_of_markdown_begins_nothing_else():
    for words in ("- item", "+ item", "1. item", "2) item", "---", "===", "# title", "    code"):
        assert not re.match(r"\s*(?:[-+#=]|\d+[.)]|    )", markdown.render([Paragraph(words)])), words
    assert markdown.render([Code(["a ````` b"])]).startswith("``````\n")  # a fence is longer than any within
    assert markdown.render([Paragraph((Span(" yes ", "strong"), "or no"))]) == "**yes** or no\n"


@pytest.mark.parametrize("draw", [terminal.render, markdown.render, html.render])
def test_a_name_is_cut_in_its_middle(draw):
    text = draw([Paragraph(Span(LONG, "name"))])
    assert text.count("x") == MAX_NAME - 1
