"""Put real output of the command into the pages that show it, or check that it is still what is printed.

python scripts/update_readme.py           write
python scripts/update_readme.py --check   exit 1 when a page shows something else
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from blocks import replace_block

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = "gradience/examples/minilm-reviews-r8"
PAGES = {
    ROOT / "README.md": ("demo", ["demo"]),
    ROOT / "docs" / "reading_an_audit.md": ("audit", ["audit", EXAMPLE]),
}
"""Page -> name of its block, and the arguments whose output it shows."""


def output_of(arguments: list[str]) -> str:
    """What `gradience ARGUMENTS` prints into a pipe, run in the repository."""
    environment = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
    environment["PYTHONIOENCODING"] = "utf-8"
    done = subprocess.run(
        [sys.executable, "-m", "gradience", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"gradience {' '.join(arguments)} ended with {done.returncode}\n{done.stderr}")
    return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 when a page is out of date"
    )
    check = parser.parse_args().check
    outdated = False
    for page, (block, arguments) in PAGES.items():
        before = page.read_text(encoding="utf-8")
        after = replace_block(before, block, f"```text\n{output_of(arguments).strip()}\n```")
        if before == after:
            continue
        print(f"{'out of date' if check else 'wrote'}: {page.relative_to(ROOT)}")
        if check:
            outdated = True
        else:
            page.write_text(after, encoding="utf-8")
    if outdated:
        print("run: make docs", file=sys.stderr)
    return int(outdated)


if __name__ == "__main__":
    sys.exit(main())
