"""One audit in a real browser, where there is one; all reports in `make conformance`."""

from __future__ import annotations

from audit_sample import mistral_rows, report
from browser import assert_sound, browser, browsing, need_browser

from gradience.reports.page.render import to_page
from gradience.reports.plots.kinds import plots_of
from gradience.sources import Source


def test_an_audit_opens_from_disk(tmp_path):
    need_browser()
    audit = report(mistral_rows(layers=4, r=8))
    file = tmp_path / "audit.html"
    file.write_text(to_page([Source("audit.json", audit)]), encoding="utf-8")
    with browser() as chromium, browsing(chromium) as page:
        page.open(file)
        assert_sound(page, len(plots_of(audit)))
