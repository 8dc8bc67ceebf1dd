"""A search for the smallest adapter, left alone in ROOT/whole and killed in ROOT/killed.

python kill_shrink.py FOLDER ROOT KILLS     FOLDER: what `adapters_to_compare.classifiers` has written
"""

from __future__ import annotations

import sys
from pathlib import Path

import peft  # noqa: F401  (loaded once, before anything is forked)
import transformers
from killing import KILLED, drawn, in_child, moments_of, watched

from gradience import shrink_adapter
from gradience.evaluate.engines.transformers import TransformersEngine  # noqa: F401

transformers.BertForSequenceClassification, transformers.PreTrainedTokenizerFast  # noqa: B018  (imports on first use)

FILES = (
    "evaluate/kept.py",
    "evaluate/records.py",
    "shrink/verb.py",
    "shrink/walk.py",
    "shrink/plan.py",
    "files/whole.py",
)


def shrink(folder: Path, output: Path) -> None:
    shrink_adapter(
        folder / "reference", output, base_model=folder / "base", data=folder / "rows.csv", margin="90",
        ranks=[1], batch_size=30, device="cpu",
    )  # fmt: skip


def main(folder: Path, root: Path, kills: int) -> None:
    files = watched(*FILES)
    moments = moments_of(lambda: shrink(folder, root / "whole"), files)
    for moment in drawn(moments, kills, seed=0):
        assert in_child(lambda: shrink(folder, root / "killed"), files, moment) == KILLED
    assert in_child(lambda: shrink(folder, root / "killed")) == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
