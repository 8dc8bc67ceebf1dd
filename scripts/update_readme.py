"""Put real output of the command into the pages that show it, or check that it is still what is printed.

python scripts/update_readme.py           write
python scripts/update_readme.py --check   exit 1 when a page shows something else
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from blocks import only_checking, replace_block

from gradience.artifacts.bench import Bench
from gradience.report.bench import bench_text

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = "gradience/examples/minilm-reviews-r8"


class Shown(NamedTuple):
    """A block of a page, and the command whose output it shows.

    kept: a result from which it is drawn again, where the command takes too long to run here.
    before: commands that must run first.   until: a heading from which on the output is left out.
    scratch: run in an empty folder with the example adapter in it, also as `my_adapter`; else in the repository.
    """

    page: str
    block: str
    command: str
    before: Sequence[str] = ()
    until: str = ""
    scratch: bool = True
    kept: str = ""


SMALLER = "compress my_adapter --rank 4 --output smaller"
DEMO = "bench run --config minilm_reviews_demo --output runs/demo"
DEMO_RESULTS = "benchmarks/results/minilm_reviews_demo"
PAGES = (
    Shown("README.md", "bench", DEMO, until="Policy", kept=f"{DEMO_RESULTS}/bench.json"),
    Shown("README.md", "demo", "demo", until="What next?", scratch=False),
    Shown("README.md", "compress", f"compress {EXAMPLE} --rank 4 --output smaller", until="Where?"),
    Shown("docs/reading_an_audit.md", "audit", f"audit {EXAMPLE}", scratch=False),
    Shown("docs/compressing.md", "plan", "compress my_adapter --rank 4 --dry-run"),
    Shown("docs/comparing.md", "compare", "compare my_adapter smaller", before=(SMALLER,)),
)


def text_of(shown: Shown) -> str:
    """The Markdown of a block."""
    if shown.kept:
        printed = until(bench_text(Bench.read(ROOT / shown.kept), width=100), shown.until)
        return f"```text\n$ gradience {shown.command}\n\n{printed.strip()}\n```"
    if not shown.scratch:
        return f"```text\n{until(output_of(shown.command, ROOT), shown.until).strip()}\n```"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for place in ("my_adapter", EXAMPLE):
            shutil.copytree(ROOT / EXAMPLE, folder / place)
        for command in shown.before:
            output_of(command, folder)
        printed = until(output_of(shown.command, folder), shown.until)
    return f"```text\n$ gradience {shown.command}\n\n{printed.strip()}\n```"


def until(printed: str, heading: str) -> str:
    """Without what stands below the heading; all of it where there is none."""
    return printed.partition(f"\n{heading}")[0].rstrip() + "\n…" if heading else printed


def output_of(command: str, folder: Path) -> str:
    """What `gradience COMMAND` prints into a pipe, run in `folder`."""
    environment = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
    environment["PYTHONIOENCODING"] = "utf-8"
    done = subprocess.run(
        [sys.executable, "-m", "gradience", *command.split()],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"gradience {command} ended with {done.returncode}\n{done.stderr}")
    return done.stdout


def portable(page: str) -> str:
    """The page without the digests of what was written: another processor may round the last bit otherwise."""
    return re.sub(r"(?<=sha256 )[0-9a-f]{12}(?= from)|(?<=smaller  sha256 )[0-9a-f]{12}", "…", page)


def main() -> int:
    check = only_checking(__doc__)
    with ThreadPoolExecutor() as pool:
        texts = list(pool.map(text_of, PAGES))
    outdated = False
    for page in dict.fromkeys(shown.page for shown in PAGES):
        before = after = (ROOT / page).read_text(encoding="utf-8")
        for shown, text in zip(PAGES, texts, strict=True):
            if shown.page == page:
                after = replace_block(after, shown.block, text)
        if portable(before) == portable(after):
            continue
        print(f"{'out of date' if check else 'wrote'}: {page}")
        if check:
            outdated = True
        else:
            (ROOT / page).write_text(after, encoding="utf-8")
    if outdated:
        print("run: make docs", file=sys.stderr)
    return int(outdated)


if __name__ == "__main__":
    sys.exit(main())
