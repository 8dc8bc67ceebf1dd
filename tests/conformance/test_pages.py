"""Every kind of report as a page in a real browser: drawn, silent, accessible, on a phone and on a wide screen."""

import re
import sys
import time
from pathlib import Path

import pytest
from browser import assert_sound, browser, browsing, need_browser
from long_run import write_run
from page_samples import PAGES, RESULTS
from test_html_page import hostile_page
from test_names import WORST

from gradience.reports.page.render import to_page
from gradience.sources import read_sources

pytestmark = pytest.mark.conformance

AXE = Path(__file__).parents[2] / ".venv" / "axe-core" / "package" / "axe.min.js"
SERIOUS = (
    "axe.run().then(r => r.violations.filter(v => ['serious', 'critical'].includes(v.impact)).map(v => v.id))"
)


@pytest.fixture(scope="module")
def chromium():
    need_browser()
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The file of each page, written when it is first asked for."""
    folder = tmp_path_factory.mktemp("pages")

    def file_of(name):
        file = folder / f"{name}.html"
        if not file.exists():
            file.write_text(to_page(PAGES[name]()), encoding="utf-8")
        return file

    return file_of


def plots_in(file):
    return len(re.findall(r'<figure id="plot-', file.read_text(encoding="utf-8")))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280, 2560])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_drawn_and_silent(name, width, dark, chromium, pages):
    file = pages(name)
    with browsing(chromium, width, dark=dark) as page:
        page.open(file)
        assert_sound(page, plots_in(file))
        page.page.click("#theme")
        assert page.value("document.documentElement.dataset.theme") == ("light" if dark else "dark")
        assert page.said == []


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_serious(name, chromium, pages):
    if not AXE.is_file():
        pytest.skip("axe-core is not there: make conformance brings it where npm is installed")
    for dark in (False, True):
        with browsing(chromium, dark=dark) as page:
            page.open(pages(name))
            page.value(AXE.read_text(encoding="utf-8") + ";0")
            assert page.value(SERIOUS) == []


@pytest.mark.parametrize("name", [WORST, "x" * 10_000], ids=["worst", "long"])
def test_a_hostile_name_is_text(name, chromium, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(hostile_page(name), encoding="utf-8")
    with browsing(chromium, 390) as page:
        page.open(file)
        assert page.said == []
        assert page.value("document.querySelectorAll('img, iframe, [onerror], [onfocus]').length") == 0
        assert page.value("document.documentElement.scrollWidth <= window.innerWidth")


def test_everything_is_reached_by_keyboard(chromium, pages):
    """First the way past the menu, then every link, button, plot that scrolls and table."""
    with browsing(chromium) as page:
        page.open(pages("AuditReport"))
        page.page.keyboard.press("Tab")
        assert page.value("document.activeElement.className") == "skip"
        page.page.keyboard.press("Tab")
        assert page.value("document.activeElement.id") == "theme"
        page.page.keyboard.press("Space")
        assert page.value("document.documentElement.dataset.theme") == "dark"
        for _ in range(60):
            page.page.keyboard.press("Tab")
            if page.value("document.activeElement.className") == "scroll":
                break
        assert page.value("document.activeElement.getBoundingClientRect().height") > 50


def test_a_deep_link_goes_to_its_plot(chromium, pages):
    with browsing(chromium) as page:
        page.open(pages("AuditReport"))
        for anchor in ("plot-energy", "section-3"):
            page.value(f"location.hash = '{anchor}'")
            page.page.wait_for_timeout(200)
            top = page.value(f"document.getElementById('{anchor}').getBoundingClientRect().top")
            assert 0 <= top < 300


def test_a_folded_section_draws_its_plots_when_it_is_opened(chromium, tmp_path):
    """A page of several seeds opens with the verdicts only; unfolded, it was 76,655 pixels high."""
    file = tmp_path / "page.html"
    file.write_text(to_page(read_sources([RESULTS / "minilm_reviews"])), encoding="utf-8")
    with browsing(chromium) as page:
        page.open(file)
        assert page.value("document.documentElement.scrollHeight") < 12_000
        first = "document.querySelector('details.section:not([open]) [data-plot]')"
        page.value(f"{first}.closest('details').id = 'opened'; document.getElementById('opened').open = true")
        page.page.wait_for_timeout(500)
        width = "document.querySelector('#opened [data-plot] .main-svg').getBoundingClientRect().width"
        assert page.value(width) > 400
        assert page.value("document.documentElement.scrollWidth <= window.innerWidth")


def test_an_axis_begins_where_it_says(chromium, pages):
    """plotly 4.1 forgets one end of a range where a margin grows."""
    with browsing(chromium) as page:
        page.open(pages("run"))
        assert page.value("document.querySelector('#plot-rank [data-plot]')._fullLayout.yaxis.range[0]") == 0


def test_it_prints_on_white_paper(chromium, pages):
    with browsing(chromium, dark=True) as page:
        page.open(pages("AuditReport"))
        assert page.page.pdf().startswith(b"%PDF")
        assert page.said == []


def test_a_million_lines_of_telemetry_are_a_small_page(chromium, tmp_path):
    """How soon it opens is printed; benchmarks/page_of_a_run.py measures it."""
    run, file = tmp_path / "run.jsonl", tmp_path / "page.html"
    write_run(run, 1_000_000)
    file.write_text(to_page(read_sources([run])), encoding="utf-8")
    assert file.stat().st_size < 3_000_000
    with browsing(chromium) as page:
        began = time.perf_counter()
        page.open(file)
        sys.stdout.write(f"drawn {time.perf_counter() - began:.1f} s after it was opened\n")
        assert_sound(page, plots_in(file))
