"""`python -m gradience.bench.run_bench --config C.yaml --output DIR`: the published name of `gradience bench run`."""

from __future__ import annotations

import sys


def main() -> None:
    """`gradience bench run` with the arguments of this process."""
    from gradience.cli.app import main as command_line

    sys.argv[1:1] = ["bench", "run"]
    command_line()


if __name__ == "__main__":
    main()
