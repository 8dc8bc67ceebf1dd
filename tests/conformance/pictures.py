"""Pictures of pages, for whoever changes how they look: `make pictures`.

Every kind of page at three widths, light and dark, in a folder; with `--docs` those that stand in docs/images instead.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from browser import browser, browsing
from page_samples import PAGES

from gradience.reports.page.render import to_page

ROOT = Path(__file__).parents[2]
WIDTHS = (390, 1280, 2560)


class Shown(NamedTuple):
    """A picture in docs/images: of a page, at a width, in an appearance, from the top to a height."""

    page: str
    width: int
    height: int
    dark: bool = False
    at: str = ""
    """The anchor that it begins at."""


DOCS = {
    "report_audit": Shown("example adapter", 1280, 1500),
    "report_evaluation": Shown("EvaluationReport", 1280, 1100, dark=True),
    "report_phone": Shown("example adapter", 390, 844, dark=True, at="plot-heatmap"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "pictures")
    parser.add_argument("--docs", action="store_true", help="those of docs/images")
    parser.add_argument("--only", default="", help="pages whose name holds this")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, browser() as chromium:
        if asked.docs:
            for picture, shown in DOCS.items():
                take(chromium, shown, Path(name), ROOT / "docs" / "images" / f"{picture}.png")
            return
        asked.folder.mkdir(parents=True, exist_ok=True)
        for page in PAGES:
            if asked.only in page:
                for width in WIDTHS:
                    for dark in (False, True):
                        file = asked.folder / f"{page} {width} {'dark' if dark else 'light'}.png".replace(
                            " ", "_"
                        )
                        take(chromium, Shown(page, width, 0, dark), Path(name), file)


def take(chromium: object, shown: Shown, folder: Path, picture: Path) -> None:
    """Write one picture: of the whole page where it has no height."""
    file = folder / f"{shown.page}.html"
    if not file.exists():
        file.write_text(to_page(PAGES[shown.page]()), encoding="utf-8")
    with browsing(chromium, shown.width, dark=shown.dark) as page:
        page.open(file)
        if shown.height:
            page.page.set_viewport_size({"width": shown.width, "height": shown.height})
            if shown.at:
                page.value(f"document.getElementById('{shown.at}').scrollIntoView()")
            page.page.wait_for_timeout(300)
        page.page.screenshot(path=picture, full_page=not shown.height)
    sys.stdout.write(f"{picture}\n")


if __name__ == "__main__":
    main()
