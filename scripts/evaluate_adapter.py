"""Evaluate LoRA adapters of MiniLM-L6 on the held-out movie-review sentences, on one loaded base.

    python scripts/evaluate_adapter.py ADAPTER [ADAPTER ...] --output DIR

Every adapter answers the same sentences in the same batches. One file of records per adapter is written to
DIR, and the table that is printed is counted from these records; KL and flips are against the first adapter.
Needs the extra `bench` and, the first time, the network (86 MB from the package index).
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from gradience.errors import GradienceError
from gradience.evaluate import Classification, diverge, evaluate_rows
from gradience.evaluate.engines.transformers import TransformersEngine
from gradience.files.records import ClassificationRecord, Evaluation, count
from gradience.models.settings import ModelSettings
from gradience.tasks import reviews


def names_of(adapters: Sequence[Path]) -> list[str]:
    """A name for each folder: its own, with a number where two are called the same."""
    names: list[str] = []
    for adapter in adapters:
        name = adapter.resolve().name
        taken = sum(other == name or other.startswith(f"{name}~") for other in names)
        names.append(f"{name}~{taken + 1}" if taken else name)
    return names


def label(evaluation: Evaluation[ClassificationRecord]) -> str:
    """What the first column says."""
    return f"{evaluation.run.adapter}{'' if evaluation.run.lora else ', head only'}"


def table(evaluations: Sequence[Evaluation[ClassificationRecord]]) -> str:
    """One line for each adapter: right answers, and what changed against the first."""
    lines = [f"{'adapter':32} {'right':>12} {'accuracy':>9} {'KL x 1000':>15} {'flips':>6} {'lost/won':>9}"]
    for evaluation in evaluations:
        score, change = count(evaluation.records), diverge(evaluations[0], evaluation)
        lines.append(
            f"{label(evaluation):32} {score.correct:>5} of {score.n:<3} {score.accuracy:>8.2%}"
            f" {1000 * change.kl_per_example:>8.2f} ± {1000 * change.kl_per_example_standard_error:<4.2f}"
            f" {change.flips:>6}"
            f" {change.only_a_correct:>5}/{change.only_b_correct}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("adapters", nargs="+", type=Path, metavar="ADAPTER")
    parser.add_argument("--output", type=Path, required=True, help="folder for the records")
    parser.add_argument("--role", choices=["dev", "confirm"], default="dev")
    parser.add_argument("--head-only", action="store_true", help="each adapter once more with its LoRA off")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"  # everything comes from the package index
    torch.set_num_threads(arguments.threads)
    try:
        examples = reviews.load().examples.of(arguments.role)
        engine = TransformersEngine.load(ModelSettings(name="embedded:minilm", dtype="float32"), labels=2)
        arguments.output.mkdir(parents=True, exist_ok=True)
        evaluations: list[Evaluation[ClassificationRecord]] = []
        for name, adapter in zip(names_of(arguments.adapters), arguments.adapters, strict=True):
            engine.add(name, adapter)
            for lora in (True, False) if arguments.head_only else (True,):
                suffix = "" if lora else ".head-only"
                paths = {name: arguments.output / f"{name}{suffix}.{arguments.role}.records.jsonl"}
                procedure = Classification(lora=lora)
                answers = evaluate_rows(engine, procedure, [name], examples, batch_size=64, paths=paths)
                evaluations.append(answers[name])
    except GradienceError as error:
        print(f"error: {error}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    print(table(evaluations))
    return 0


if __name__ == "__main__":
    sys.exit(main())
