"""Healing as Bench asks for it: the probe teaches, on its own training prompts, and no label is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradience.adapters.formats import open_adapter
from gradience.artifacts.run import Stopwatch
from gradience.artifacts.whole import write_whole
from gradience.bench.arms.arm import Healed, Source
from gradience.bench.config.load import BenchConfig
from gradience.calibrate.heal.inputs import FEWEST, HealInputs, HealRequest
from gradience.calibrate.heal.write import write_healed
from gradience.calibrate.inputs import Inputs, Request
from gradience.calibrate.rows import Kind, read_rows
from gradience.errors import UsageError
from gradience.models.load import load_tokenizer
from gradience.models.settings import ModelSettings
from gradience.plan.modules import Ranks
from gradience.progress import Progress
from gradience.tasks.base import ChoiceTask, ClassificationTask, GenerationTask, Task

BEFORE, PROMPTS = "before", "prompts.jsonl"
"""What a stage holds while it heals: the adapter that is healed, and the rows."""


@dataclass(frozen=True, slots=True)
class Healing:
    """How all adapters of a run are healed."""

    rows: tuple[str, ...]
    """Lines of JSON, as `gradience heal --prompts` takes them."""
    model: ModelSettings
    labels: int | None
    """None: a language model."""
    steps: int
    lr: float
    batch_size: int
    max_length: int | None
    completion_tokens: int
    device: str

    @classmethod
    def of(cls, config: BenchConfig, task: Task, trained: int) -> Healing:
        """What the config says. trained: steps that were planned for the probe."""
        healing = config.compression.healing
        assert healing is not None
        labels = len(task.label_names) if isinstance(task, ClassificationTask) else None
        examples = task.examples.of("train", config.train.train_samples)
        writes = task.max_new_tokens if isinstance(task, GenerationTask) else 1
        return cls(
            rows=tuple(rows_of(task, examples[: healing.rows])),
            model=config.model,
            labels=labels,
            steps=healing.steps_of(trained),
            lr=healing.lr,
            batch_size=config.train.per_device_train_batch_size,
            max_length=None if labels is None else config.train.max_length,
            completion_tokens=config.task.generation.max_new_tokens or writes,
            device=config.runtime.device,
        )

    def decides(self) -> dict[str, Any]:
        """What decides the result, beside base and seed."""
        names = ("rows", "labels", "steps", "lr", "batch_size", "max_length", "completion_tokens")
        return {name: getattr(self, name) for name in names}


def rows_of(task: Task, examples: Sequence[Any]) -> Iterator[str]:
    """The examples as lines of JSON, without their labels.

    A prompt stands alone, and the probe writes what is scored; where choices are compared there is nothing to write,
    and the tokens of the right one are what both are compared on.
    """
    for example in examples:
        if isinstance(task, ClassificationTask):
            row = {"text": example.text}
            if example.text_pair is not None:
                row["text_pair"] = example.text_pair
        elif isinstance(task, ChoiceTask):
            row = {"prompt": example.prompt, "completion": example.response}
        else:
            row = {"prompt": example.prompt}
        yield json.dumps(row, ensure_ascii=False)


def heal_variant(
    arm: Healed, source: Source, ranks: Ranks, target: Path, healing: Healing, progress: Progress
) -> None:
    """Write the adapter with which `arm` begins, healed, to the folder `target`.

    Raises UsageError (`too-few-rows`), and what loading the base and encoding rows raise.
    """
    before, prompts = target.with_name(BEFORE), target.with_name(PROMPTS)
    arm.begin(source, ranks, before)
    write_whole(prompts, [f"{row}\n".encode() for row in healing.rows])
    inputs = _inputs(before, prompts, source, healing)
    write_healed(inputs, target, Stopwatch(), progress, force=True)
    shutil.rmtree(before)
    prompts.unlink()


def _inputs(before: Path, prompts: Path, source: Source, healing: Healing) -> HealInputs:
    """As `read_heal_inputs` reads them, but for its refusal of what is no smaller than its teacher."""
    kind: Kind = "causal_lm" if healing.labels is None else "sequence_classification"
    rows = read_rows(prompts, kind, load_tokenizer(healing.model))
    if len(rows.all) < FEWEST:
        raise UsageError(
            f"{len(rows.all)} different training prompts, and healing needs at least {FEWEST}",
            code="too-few-rows",
            hint="train on more examples, or remove heal from compression.arms",
        )
    request = Request(
        adapter=before,
        prompts=prompts,
        completion_tokens=healing.completion_tokens,
        seed=source.seed,
        batch_size=healing.batch_size,
        max_length=healing.max_length,
        device=healing.device,
    )
    with open_adapter(before) as student, open_adapter(source.probe) as teacher:
        return HealInputs(
            HealRequest(student=request, teacher=source.probe, steps=healing.steps, lr=healing.lr),
            Inputs(
                request,
                before,
                kind,
                healing.model,
                healing.labels,
                rows,
                {pair.module: pair.rank for pair in student.pairs},
            ),
            source.probe,
            student.sha256(),
            teacher.sha256(),
            sum(pair.params for pair in student.pairs),
            sum(pair.params for pair in teacher.pairs),
        )
