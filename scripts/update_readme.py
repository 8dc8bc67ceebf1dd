"""Put the real output of `gradience demo` into README.md, or check that it is still what the demo prints.

python scripts/update_readme.py           write
python scripts/update_readme.py --check   exit 1 when the README shows something else
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from blocks import replace_block

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


def demo_output() -> str:
    """What `gradience demo` prints into a pipe, run in the repository."""
    environment = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
    environment["PYTHONIOENCODING"] = "utf-8"
    done = subprocess.run(
        [sys.executable, "-m", "gradience", "demo"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"gradience demo ended with {done.returncode}\n{done.stderr}")
    return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 when the README is out of date"
    )
    check = parser.parse_args().check
    before = README.read_text(encoding="utf-8")
    after = replace_block(before, "demo", f"```text\n{demo_output().strip()}\n```")
    if before == after:
        return 0
    print(f"{'out of date' if check else 'wrote'}: {README.name}")
    if not check:
        README.write_text(after, encoding="utf-8")
        return 0
    print("run: make docs", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
