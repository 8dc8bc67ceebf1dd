"""Markdown and HTML say what the screen says."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

from golden import assert_golden
from test_audit_text import CASES, EACH

from gradience.audit.adapter import audit_adapter
from gradience.cli.demo import example_adapter
from gradience.reports.base.notebook import to_notebook

GOLDEN = Path(__file__).parent / "golden"


@EACH
def test_golden_markdown(make):
    name = next(name for name, case in CASES.items() if case is make)
    assert_golden(GOLDEN / f"{name}.md", make().to_markdown())


def test_golden_markdown_of_the_bundled_adapter(monkeypatch):
    monkeypatch.chdir(example_adapter().parents[2])
    report = audit_adapter("gradience/examples/minilm-reviews-r8")
    assert_golden(GOLDEN / "minilm-reviews-r8.md", report.to_markdown())


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


def test_the_report_shows_itself_in_a_notebook():
    code = (
        "import gradience, sys;"
        f"report = gradience.audit_adapter({str(example_adapter())!r});"
        "assert 'gradience.reports.base.html' not in sys.modules;"
        "sys.stdout.buffer.write(report._repr_html_().encode())"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout.decode()
    assert shown == to_notebook(audit_adapter(example_adapter()))
