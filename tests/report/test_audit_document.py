"""Markdown and HTML say what the screen says."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from golden import assert_golden
from test_audit_text import CASES, EACH, mistral, refused

from gradience.audit.adapter import audit_adapter
from gradience.cli.demo import example_adapter
from gradience.reports.audit import HYPOTHESIS, NO_QUALITY, trust_notes
from gradience.reports.base import html
from gradience.reports.base.names import markdown_text
from gradience.reports.base.notebook import to_notebook
from gradience.reports.base.numbers import trimmed
from gradience.reports.base.report import Report

GOLDEN = Path(__file__).parent / "golden"


@EACH
def test_golden_markdown(make):
    name = next(name for name, case in CASES.items() if case is make)
    assert_golden(GOLDEN / f"{name}.md", make().to_markdown())


def test_golden_markdown_of_the_bundled_adapter(monkeypatch):
    monkeypatch.chdir(example_adapter().parents[2])
    report = audit_adapter("gradience/examples/minilm-reviews-r8")
    assert_golden(GOLDEN / "minilm-reviews-r8.md", report.to_markdown())


@EACH
def test_markdown_tables_are_whole(make):
    tables = re.findall(r"(?:^\|.*\n)+", make().to_markdown(), flags=re.MULTILINE)
    assert tables
    for table in tables:
        assert len({line.count(" |") for line in table.splitlines()}) == 1
        assert re.fullmatch(r"\|( ---:? \|)+", table.splitlines()[1])


@EACH
def test_markdown_says_every_note_and_the_caveat(make):
    text = make().to_markdown()
    assert all(markdown_text(note.text) in text for note in trust_notes(make()))
    assert (HYPOTHESIS if make().suggestions else NO_QUALITY) in text


class Reader(HTMLParser):
    """Cells by row, and whether every tag is closed in its order."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.rows, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        if tag == "br":
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


@EACH
def test_html_is_well_formed_and_holds_the_plan(make):
    reader = Reader()
    reader.feed(html.render(make().blocks()))
    assert reader.open == []
    plan = make().suggestions
    for name, uniform in (("uniform_median", plan.median), ("uniform_p90", plan.p90)) if plan else ():
        assert [name, trimmed(uniform.unrounded), str(uniform.rank)] in [cells[:3] for cells in reader.rows]
    assert (HYPOTHESIS if make().suggestions else NO_QUALITY) in reader.text


@EACH
def test_html_loads_nothing_and_runs_nothing(make):
    assert not re.search(
        r"<(script|style|img|link|iframe)|src=|href=|on\w+=|url\(", html.render(make().blocks())
    )


def test_html_is_small():
    assert len(html.render(mistral().blocks())) < 10_000


def test_the_report_shows_itself_in_a_notebook():
    code = (
        "import gradience, sys;"
        f"report = gradience.audit_adapter({str(example_adapter())!r});"
        "assert 'gradience.reports.base.html' not in sys.modules;"
        "sys.stdout.buffer.write(report._repr_html_().encode())"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout.decode()
    assert shown == to_notebook(audit_adapter(example_adapter()))


@pytest.mark.parametrize("face", [Report.to_markdown, lambda report: html.render(report.blocks())])
def test_no_rank_is_suggested_where_none_may_be(face):
    text = face(refused())
    assert "uniform" not in text
    assert "hypothesis" not in text
