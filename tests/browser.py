"""Pages of `gradience report` in a real browser: Debian's chromium, driven by Playwright.

The page's policy forbids to evaluate strings, so expressions are evaluated through the developer tools protocol.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PATIENCE = 180_000
"""Milliseconds after which a page hangs."""


def need_browser() -> None:
    pytest.importorskip("playwright")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")


class Page:
    """An open page, with all messages of its console and all its requests."""

    def __init__(self, page) -> None:
        self.page = page
        self.said: list[str] = []
        self.asked: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        self.tools = page.context.new_cdp_session(page)

    def open(self, path: Path) -> None:
        """Open the file, until every plot is drawn."""
        self.page.goto(path.resolve().as_uri())
        self.page.wait_for_selector("html[data-drawn]", state="attached")

    def value(self, expression: str):
        """Return the value of a JavaScript expression in the page."""
        answer = self.tools.send(
            "Runtime.evaluate", {"expression": expression, "awaitPromise": True, "returnByValue": True}
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")


@contextmanager
def browser() -> Iterator[Any]:
    """A browser without a page."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield chromium
        finally:
            chromium.close()


@contextmanager
def browsing(chromium: Any, width: int = 1280, *, dark: bool = False, **more: Any) -> Iterator[Page]:
    """A fresh page of this width, in a context of its own. more: arguments of Playwright's `new_page`."""
    scheme = "dark" if dark else "light"
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, **more)
    try:
        yield Page(page)
    finally:
        page.close()


DRAWN = "[...document.querySelectorAll('[data-plot]')].filter(at => at.querySelector('.main-svg')).length"


def assert_sound(page: Page, plots: int) -> None:
    """Check that the page logged and fetched nothing, drew every plot, and is not wider than the screen."""
    assert page.said == []
    assert [url for url in page.asked if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in page.asked if url.startswith("file:")]) == 1
    assert page.value(DRAWN) == plots
    assert page.value("document.documentElement.scrollWidth <= window.innerWidth")
