"""A compression killed, refused room or interrupted: there is no output or a complete one, and the next run works.

python kill_compress.py ROOT     prints how many kills left no output, the old one, and the new one
"""

import io
import resource
import shutil
import signal
import sys
from collections import Counter
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path

from factor_samples import random_factors, write
from killing import KILLED, WRITING, each_moment, in_child, moments_of, watched

from gradience.cli.app import run

FILES = watched(
    "compress/adapter.py", "compress/weights.py", "compress/carry.py", "adapters/tensors.py", *WRITING
)
KILLS = 20
"""Spread over all moments; and the last ten, of which some come after the new folder is in its place."""


def content(folder: Path) -> dict[str, bytes]:
    """Everything that does not hold a time or a path."""
    paths = folder.iterdir() if folder.exists() else ()
    return {path.name: path.read_bytes() for path in paths if not path.name.startswith("compression_")}


def compress(adapter: Path, out: Path, *more: str) -> int:
    return run(["compress", str(adapter), "--rank", "2", "--output", str(out), "--quiet", *more])


def refused(adapter: Path, out: Path, limit: int, *more: str) -> None:
    """In the header, in the weights, in the report: exit code 5 and a sentence."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with redirect_stderr(io.StringIO()) as said:
        assert compress(adapter, out, *more) == 5
    assert "File too large" in said.getvalue()
    assert "Traceback" not in said.getvalue()


def interrupted(adapter: Path, out: Path, moment: int) -> int:
    """Ctrl-C is no crash. (A shell that starts a job in the background lets it ignore Ctrl-C.)"""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    each_moment(FILES, lambda number: number == moment and signal.raise_signal(signal.SIGINT))
    return compress(adapter, out)


def main(root: Path) -> None:
    adapter = write(root / "in", random_factors(0, *[(6, 20, 30)] * 4))
    (adapter / "README.md").write_text("# card")
    assert compress(adapter, root / "whole" / "out") == 0
    new, out = content(root / "whole" / "out"), root / "here" / "out"
    ends: Counter[str] = Counter()
    for more in ((), ("--force",)):  # where nothing is, and over an older adapter

        def prepare(more: tuple[str, ...] = more) -> dict[str, bytes]:
            shutil.rmtree(out.parent, ignore_errors=True)
            out.parent.mkdir()
            return content(write(out, random_factors(1, (3, 5, 5)))) if more else {}

        old, work = prepare(), partial(compress, adapter, out, *more)
        moments = moments_of(work, FILES)
        for moment in {*range(1, moments, moments // KILLS), *range(moments - 9, moments + 1)}:
            prepare()
            assert in_child(work, FILES, moment) == KILLED, moment
            left = content(out)
            assert left in (old, new), moment
            ends["new" if left == new else "old" if old else "none"] += 1
            assert compress(adapter, out, "--force") == 0
            assert content(out) == new, moment
            assert [path.name for path in out.parent.iterdir()] == [out.name], moment
        for limit in (0, 100, 1500, 2500):
            prepare()
            assert in_child(partial(refused, adapter, out, limit, *more)) == 0, limit
            assert content(out) == old
            assert len([*out.parent.iterdir()]) == len(more)
        if not more:
            prepare()
            assert in_child(partial(interrupted, adapter, out, moments // 2)) == 130
            assert list(out.parent.iterdir()) == []
    sys.stdout.write(f"{ends['none']} {ends['old']} {ends['new']}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
