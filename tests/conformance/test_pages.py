"""Every kind of report as a page in a real browser: drawn, silent, accessible, on a phone and on a wide screen."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from browser import assert_sound, browsing, need_browser
from test_faces import SAMPLES
from test_html_page import HOSTILE, hostile_page

from gradience.report.inputs import Source, read_sources
from gradience.report.page.render import to_page
from gradience.report.plots.kinds import plots_of

pytestmark = pytest.mark.conformance

AXE = Path(__file__).parents[2] / ".venv" / "axe-core" / "package" / "axe.min.js"
SERIOUS = (
    "axe.run().then(r => r.violations.filter(v => ['serious', 'critical'].includes(v.impact)).map(v => v.id))"
)


def written(folder, page):
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    return file


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280, 2560])
@pytest.mark.parametrize("name", SAMPLES)
def test_a_page_is_drawn_and_silent(name, width, dark, tmp_path):
    need_browser()
    sample = SAMPLES[name]()
    file = written(tmp_path, to_page([Source(f"{name}.json", sample)]))
    with browsing(width, dark=dark) as page:
        page.open(file)
        assert_sound(page, len(plots_of(sample)))
        page.page.click("#theme")
        assert page.value("document.documentElement.dataset.theme") == ("light" if dark else "dark")
        assert page.said == []


@pytest.mark.parametrize("name", SAMPLES)
def test_axe_finds_nothing_serious(name, tmp_path):
    need_browser()
    if not AXE.is_file():
        pytest.skip("axe-core is not there: make conformance brings it where npm is installed")
    file = written(tmp_path, to_page([Source(f"{name}.json", SAMPLES[name]())]))
    for dark in (False, True):
        with browsing(dark=dark) as page:
            page.open(file)
            page.value(AXE.read_text(encoding="utf-8") + ";0")
            assert page.value(SERIOUS) == []


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_name_is_text(name, tmp_path):
    need_browser()
    with browsing() as page:
        page.open(written(tmp_path, hostile_page(name)))
        assert page.said == []
        assert page.value("document.querySelectorAll('img, iframe, [onerror], [onfocus]').length") == 0


def test_it_prints_on_white_paper(tmp_path):
    need_browser()
    file = written(tmp_path, to_page([Source("audit.json", SAMPLES["AuditReport"]())]))
    with browsing(dark=True) as page:
        page.open(file)
        assert page.page.pdf().startswith(b"%PDF")
        assert page.said == []


def test_a_million_lines_of_telemetry_are_a_small_page_that_opens_at_once(tmp_path):
    need_browser()
    run = tmp_path / "run.jsonl"
    with run.open("w", encoding="utf-8") as file:
        for step in range(1_000_000):
            file.write(json.dumps({"step": step, "loss": 2.0 / (1 + step / 1e5)}) + "\n")
    page = to_page(read_sources([run]))
    assert len(page.encode()) < 3_000_000
    with browsing() as tab:
        began = time.perf_counter()
        tab.open(written(tmp_path, page))
        assert time.perf_counter() - began < 2
        assert tab.said == []
