"""A stage killed at every moment of the book-keeping around it: what was finished is never done again.

python kill_stages.py ROOT     prints the number of moments, and after how many of them the work itself was finished
"""

import sys
from pathlib import Path

from killing import KILLED, WRITING, in_child, moments_of, watched

from gradience.bench.run.stages import Stages, changed_files
from gradience.files.whole import only_one
from gradience.reports.stage import MANIFEST, StageManifest


def work(root: Path) -> None:
    """As a training does it: what is there is not made again."""

    def make(folder: Path) -> None:
        if not (folder / "weights").exists():
            (folder / "weights").write_bytes(b"long work")
            with (root / "log").open("a") as log:
                log.write("done\n")

    with only_one(root):
        Stages(root, watch=lambda stage: lambda: None, say=lambda text: None).done("train", {"a": 1}, make)


def main(root: Path) -> None:
    files = watched("bench/run/stages.py", "reports/stage.py", *WRITING)
    moments, finished = moments_of(lambda: work(root / "whole"), files), 0
    for moment in range(1, moments + 1):
        folder = root / str(moment)
        assert in_child(lambda: work(folder), files, moment) == KILLED, moment  # noqa: B023
        done = (folder / "log").exists()
        finished += done
        work(folder)
        assert (folder / "log").read_text() == "done\n", moment
        stage = folder / "train"
        assert sorted(path.name for path in stage.iterdir()) == [MANIFEST, "weights"], moment
        assert changed_files(stage, StageManifest.read(stage / MANIFEST)) == [], moment
    sys.stdout.write(f"{moments} {finished}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
