"""How long the page of a long run takes to open: `python benchmarks/page_of_a_run.py [--lines 1000000]`.

A run.jsonl of so many lines, in the form that the callback writes, becomes a page of `gradience report`. Debian's
chromium opens it, and the clock runs from the address to the last drawn plot. The page of a run of a thousand lines is
opened the same way: the ratio says what the length costs, whatever the machine does besides. Medians of `--times`.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from browser import browser, browsing
from long_run import write_run

from gradience.reports.page.render import to_page
from gradience.sources import read_sources

SHORT = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--times", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, browser() as chromium:
        seconds = {}
        for lines in (SHORT, asked.lines):
            run = Path(name, f"{lines}.jsonl")
            write_run(run, lines)
            began = time.perf_counter()
            text = to_page(read_sources([run]))
            making = time.perf_counter() - began
            page = Path(name, f"{lines}.html")
            page.write_text(text, encoding="utf-8")
            seconds[lines] = statistics.median(opened(chromium, page) for _ in range(asked.times))
            print(
                f"{lines:,} lines: page of {len(text.encode()) / 1e6:.2f} MB, made in {making:.1f} s,"
                f" drawn {seconds[lines]:.2f} s after it was opened"
            )
        print(f"ratio of opening: {seconds[asked.lines] / seconds[SHORT]:.2f}")


def opened(chromium: object, page: Path) -> float:
    with browsing(chromium) as tab:
        began = time.perf_counter()
        tab.open(page)
        return time.perf_counter() - began


if __name__ == "__main__":
    main()
