"""A training in ROOT/whole, and the same in ROOT/killed, killed at drawn moments and at some of writing checkpoints.

python kill_training.py BASE ROOT     prints how often it was killed
"""

import sys
from pathlib import Path

from killing import KILLED, WRITING, drawn, in_child, moments_of, watched
from tiny_training import recipe, run

from gradience.models.settings import ModelSettings

KILLS = 3


def main(base: str, root: Path) -> None:
    def train(folder: str) -> None:
        run(
            ModelSettings(name=base, type="causal_lm"),
            root / folder,
            recipe=recipe(max_steps=12, save_steps=1),
        )

    everything, writing = watched(), watched("training/resume.py", *WRITING)
    moments = moments_of(lambda: train("whole"), everything)
    writes = moments_of(lambda: train("counted"), writing)
    for moment in drawn(moments, 2 * KILLS, seed=5)[:KILLS]:
        assert in_child(lambda: train("killed"), everything, moment) == KILLED, moment
    for moment in drawn(writes, 2 * KILLS, seed=6)[:KILLS]:
        assert in_child(lambda: train("killed"), writing, moment) == KILLED, moment
    assert in_child(lambda: train("killed")) == 0
    assert not list(root.rglob("*.tmp"))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
