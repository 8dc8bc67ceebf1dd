"""Everyday commands of this checkout against those of another one, such as the last release: nothing got slower?

python benchmarks/against_checkout.py ../gradience-before [--runs 9]

A bundled adapter of 16 modules, where starting decides, twenty copies of it, and a 7B-shaped
adapter, where the numbers do.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from processes import compare, machine
from synthetic import MISTRAL_7B, module_shapes, write_adapter

HERE = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    other = options.other.resolve()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as scratch:
        small = str(HERE / "gradience" / "examples" / "minilm-reviews-r8")
        large = str(write_adapter(Path(scratch) / "adapter", module_shapes(MISTRAL_7B, 32), 64))
        fleet = Path(scratch) / "fleet"
        for number in range(20):
            shutil.copytree(small, fleet / f"adapter{number}")
        print(f"{machine()}\n\n| command | cpu s there | cpu s here | ratio |\n|---|---|---|---|")
        for words in (
            ["--help"],
            ["audit", small],
            ["audit", small, "--json"],
            ["audit", small, "--layers"],
            ["compress", small, "--rank", "4"],
            ["fleet", str(fleet), "--workers", "1", "--json"],
            ["audit", large, "--json"],
            ["compress", large, "--rank", "16"],
        ):
            both = {}
            for name, root in (("there", other), ("here", HERE)):
                command = ["env", f"PYTHONPATH={root}", sys.executable, "-P", "-m", "gradience", *words]
                if words[0] == "compress":  # into a new folder: not every version replaces what it wrote
                    fresh = ["sh", "-c", 'rm -rf "$0" && exec "$@" --output "$0"', f"{scratch}/{name}"]
                    command = [*fresh, *command]
                both[name] = command
            there, here = compare(both, options.runs).values()
            size = " (7B shapes)" if large in words else ""
            shown = " ".join(word for word in words if not word.startswith("/"))
            print(
                f"| `gradience {shown}`{size} | {there.cpu:.3f} | {here.cpu:.3f} | {here.cpu / there.cpu:.2f} |"
            )


if __name__ == "__main__":
    main()
