"""The site that `make site` built, opened from disk in a real browser: its search finds pages."""

import shutil
import subprocess
from pathlib import Path

import pytest

SITE = Path(__file__).resolve().parents[2] / "site"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
           "--disable-component-update", "--virtual-time-budget=10000", "--dump-dom"]  # fmt: skip

pytestmark = [
    pytest.mark.conformance,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt install chromium)"),
    pytest.mark.skipif(not SITE.is_dir(), reason="needs the site: make site"),
]


@pytest.mark.parametrize(
    ("words", "page"),
    [("hotswap", "runtimes.html"), ("SpectralTracker", "reference/python.html"), ("xyzzyplugh", None)],
)
def test_search_works_from_disk(words, page, tmp_path):
    address = f"{(SITE / 'search.html').as_uri()}?q={words}"
    done = subprocess.run(
        [CHROMIUM, *OPTIONS, f"--user-data-dir={tmp_path}", address],
        capture_output=True,
        text=True,
        check=True,
    )
    results = done.stdout.partition('id="search-results"')[2]
    assert ("did not match any documents" in results) == (page is None)
    assert page is None or f'href="{page}' in results
