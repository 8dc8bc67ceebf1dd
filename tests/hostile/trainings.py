"""Trainings and evaluations of tiny models as writers: PyTorch is loaded when the first of them is prepared."""

from pathlib import Path

from hostile.writers import Writer, as_verb, command

BASE = "base"


def before_training(folder: Path) -> None:
    import tiny_bench

    tiny_bench.llama(folder / BASE)


def train(folder: Path) -> None:
    """Three steps with a checkpoint after each."""
    from tiny_training import recipe
    from tiny_training import run as run_training

    from gradience.models.settings import ModelSettings

    base = ModelSettings(name=str(folder / BASE), type="causal_lm")
    run_training(base, folder / "out", recipe=recipe(max_steps=3, save_steps=1))


def before_bench(folder: Path) -> None:
    from bench_process import write_inputs

    train = {"lr": 3e-3, "max_steps": 2, "per_device_train_batch_size": 4}
    write_inputs(folder / "inputs", train=train, compression={"retrain": [], "controls": []})


TRAININGS = (
    Writer(
        "training",
        before_training,
        as_verb(train),
        ("out/adapter", "out/training.json"),
        result=("out/adapter", "out/training.json"),
    ),
    Writer(
        "bench run",
        before_bench,
        command("bench run --config @/inputs/config.yaml --output @/out"),
        ("out/bench.json",),
    ),
)
