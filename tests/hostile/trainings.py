"""Trainings and evaluations of tiny models as writers: PyTorch is loaded when the first of them is prepared."""

from __future__ import annotations

from pathlib import Path

from hostile.writers import Writer, as_verb

BASE = "base"


def before_training(folder: Path) -> None:
    import tiny_bench

    tiny_bench.llama(folder / BASE)


def train(folder: Path) -> None:
    """Three steps with a checkpoint after each."""
    from tiny_training import recipe, run

    from gradience.models.settings import ModelSettings

    base = ModelSettings(name=str(folder / BASE), type="causal_lm")
    run(base, folder / "out", recipe=recipe(max_steps=3, save_steps=1))


TRAININGS = (
    Writer(
        "training",
        before_training,
        as_verb(train),
        as_verb(train),
        ("out/adapter", "out/training.json"),
        result=("out/adapter", "out/training.json"),
    ),
)
