"""`python -m gradience.bench.aggregate DIR… --output DIR`: the published name of `gradience bench aggregate`."""

from __future__ import annotations

import sys


def main() -> None:
    """`gradience bench aggregate` with the arguments of this process."""
    from gradience.cli.app import main as command_line

    sys.argv[1:1] = ["bench", "aggregate"]
    command_line()


if __name__ == "__main__":
    main()
