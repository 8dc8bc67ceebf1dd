"""A Bench run in ROOT/whole, unless it is there, and the same in ROOT/killed, killed at drawn moments and resumed.

python kill_bench.py CONFIG ROOT SEED KILLS
"""

import json
import sys
from pathlib import Path

from killing import KILLED, drawn, in_child, moments_of, watched

import gradience.bench.run.bench  # noqa: F401  (loaded once, before anything is forked)
from gradience.cli.app import run
from gradience.reports.stage import StageManifest


def check_artifacts(output: Path) -> None:
    """Whatever is there under its final name is whole."""
    for path in output.rglob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))
    for path in output.rglob("manifest.json"):
        manifest = StageManifest.read(path)
        for name, file in manifest.files.items():
            assert (path.parent / name).stat().st_size == file.bytes, path


def main(config: Path, root: Path, seed: int, kills: int) -> None:
    def bench(output: Path) -> None:
        assert run(["bench", "run", "--config", str(config), "--output", str(output)]) in (0, 1)

    files, counted = watched(), root / "moments"
    if not counted.exists():
        counted.write_text(str(moments_of(lambda: bench(root / "whole"), files)))
    moments = int(counted.read_text())
    for moment in drawn(moments, kills, seed):
        assert in_child(lambda: bench(root / "killed"), files, moment) == KILLED, moment
        if (root / "killed").exists():
            check_artifacts(root / "killed")
    assert in_child(lambda: bench(root / "killed")) == 0
    check_artifacts(root / "killed")
    assert not list(root.rglob("*.tmp"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
