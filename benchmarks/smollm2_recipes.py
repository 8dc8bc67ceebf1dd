"""SmolLM2-135M on arithmetic: recipe x seed, with generated answers and teacher-forced exact match on the same rows.

    OMP_NUM_THREADS=2 python benchmarks/smollm2_recipes.py --output DIR [--gsm8k FOLDER] [--results FILE]

Trains two ranks at two learning rates and two seeds, LoRA on every linear layer, alpha = 2r, in bfloat16 with factors
in float32, and counts right answers on 600 dev questions twice: answers that are generated greedily, and answers
whose every token and the end token is the most likely one when the right tokens stand before it. `--gsm8k` names a
folder with GSM8K's train.jsonl and test.jsonl: then a few steps and 32 questions go through the whole path as well,
where a model of this size scores next to nothing. An interrupted run goes on. Needs the extra `demo`.
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

from gradience import tasks
from gradience.artifacts.records import count
from gradience.evaluate import TransformersEngine, evaluate_generation, evaluate_scores
from gradience.models.settings import ModelSettings
from gradience.tasks.base import GenerationTask
from gradience.training.settings import TrainSettings
from gradience.training.trainer import train

MODEL = ModelSettings(name="embedded:smollm2", type="causal_lm", dtype="bfloat16")
RATES, RANKS, SEEDS = (1e-3, 5e-4), (32, 16), (42, 123)
ARITHMETIC = {"max_steps": 150, "warmup_steps": 10, "max_length": 64, "save_steps": 50}
GSM8K = TrainSettings(lr=5e-4, max_steps=10, per_device_train_batch_size=4, max_length=384)
QUESTIONS, GSM8K_QUESTIONS = 600, 32


def evaluate(
    engine: TransformersEngine,
    name: str | None,
    task: GenerationTask,
    items: Sequence[Any],
    folder: Path,
    new_tokens: int,
) -> dict[str, Any]:
    """Counts over both kinds of records, and on how many rows the two agree."""
    folder.mkdir(parents=True, exist_ok=True)
    label = name or "base"
    generated = evaluate_generation(
        engine,
        name,
        items,
        filters=task.filters,
        same=task.same,
        max_new_tokens=new_tokens,
        stop=task.stop,
        batch_size=64,
        path=folder / f"{label}.generation.records.jsonl",
    )
    paths = {name: folder / f"{label}.scores.records.jsonl"}
    scored = evaluate_scores(engine, [name], items, paths=paths)[name]
    made, told = count(generated.records), count(scored.records)
    both = [(a.correct, b.correct) for a, b in zip(generated.records, scored.records, strict=True)]
    return {
        "n": made.n,
        "generated": made.correct,
        "teacher_forced": told.correct,
        "only_generated": both.count((True, False)),
        "only_teacher_forced": both.count((False, True)),
        "cut_off": made.cut_off,
        "no_answer": made.no_answer,
        "by_filter": {
            key: sum(
                found is not None and task.same(found, row.answer)
                for row in generated.records
                for found in (row.answers[key],)
            )
            for key in task.filters
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for adapters and records")
    parser.add_argument("--gsm8k", type=Path, help="folder with GSM8K's train.jsonl and test.jsonl")
    parser.add_argument("--results", type=Path, help="write the counts here as JSON")
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    output: Path = arguments.output
    arithmetic = tasks.load("arithmetic", {})
    runs = [
        ("arithmetic", arithmetic, rank, TrainSettings(lr=rate, **ARITHMETIC), seed)
        for rate, rank, seed in product(arguments.rates, arguments.ranks, arguments.seeds)
    ]
    if arguments.gsm8k:
        files = {f"{split}_file": str(arguments.gsm8k / f"{split}.jsonl") for split in ("train", "test")}
        runs.append(("gsm8k", tasks.load("gsm8k_causal_lm", files), 16, GSM8K, arguments.seeds[0]))
    rows = []
    engine = TransformersEngine.load(MODEL)
    for kind, task, rank, recipe, seed in runs:
        name = f"{kind}-r{rank}-lr{recipe.lr:g}-seed{seed}"
        lora = {"r": rank, "lora_alpha": 2 * rank, "target_modules": "all-linear"}
        report = train(task, model=MODEL, lora=lora, recipe=recipe, seed=seed, output=output / name)
        print(f"{name}: loss {report.loss}, {report.seconds:.0f} s", file=sys.stderr, flush=True)
        assert isinstance(task, GenerationTask)
        new_tokens = 256 if kind == "gsm8k" else task.max_new_tokens
        items = task.examples.of("dev", GSM8K_QUESTIONS if kind == "gsm8k" else QUESTIONS)
        engine.add(name, output / name / "adapter")
        found = evaluate(engine, name, task, items, output / "records", new_tokens)
        engine.remove(name)
        row = {
            "task": kind,
            "r": rank,
            "lr": recipe.lr,
            "seed": seed,
            "steps": report.steps,
            "loss": report.loss,
            **found,
        }
        rows.append(row | {"seconds": round(report.seconds, 1), "left_out": report.examples.left_out})
        print(rows[-1], file=sys.stderr, flush=True)
    rows.insert(
        0,
        {"task": "arithmetic", "base": True}
        | evaluate(
            engine,
            None,
            arithmetic,
            arithmetic.examples.of("dev", QUESTIONS),
            output / "records",
            arithmetic.max_new_tokens,
        ),
    )
    if arguments.results:
        arguments.results.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
