"""The probe's own training prompts, without their labels: what Bench calibrates and distills on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradience.adapters.formats import open_adapter
from gradience.bench.config.load import BenchConfig
from gradience.calibrate.inputs import Inputs
from gradience.calibrate.rows import Kind, read_rows
from gradience.calibrate.settings import CalibrateSettings
from gradience.files.whole import write_whole
from gradience.models.load import load_tokenizer
from gradience.models.settings import ModelSettings
from gradience.tasks.base import ChoiceTask, ClassificationTask, GenerationTask, Task

PROMPTS = "prompts.jsonl"
"""The rows, in the folder of a stage while it is made."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """Rows, and how the model is run on them."""

    rows: tuple[str, ...]
    """Lines of JSON, as `gradience calibrate --prompts` takes them."""
    model: ModelSettings
    labels: int | None
    """None: a language model."""
    batch_size: int
    max_length: int | None
    completion_tokens: int
    device: str

    @classmethod
    def of(cls, config: BenchConfig, task: Task, count: int) -> Prompts:
        """The first `count` examples that the probe is trained on."""
        labels = len(task.label_names) if isinstance(task, ClassificationTask) else None
        writes = task.max_new_tokens if isinstance(task, GenerationTask) else 1
        return cls(
            rows=tuple(rows_of(task, task.examples.of("train", config.train.train_samples)[:count])),
            model=config.model,
            labels=labels,
            batch_size=config.train.per_device_train_batch_size,
            max_length=None if labels is None else config.train.max_length,
            completion_tokens=config.task.generation.max_new_tokens or writes,
            device=config.runtime.device,
        )

    @property
    def text(self) -> str:
        """The rows as a file."""
        return "".join(f"{row}\n" for row in self.rows)

    def decides(self) -> dict[str, Any]:
        """What decides what comes of them, beside base, adapter and seed."""
        names = ("rows", "labels", "batch_size", "max_length", "completion_tokens")
        return {name: getattr(self, name) for name in names}

    def inputs(self, adapter: Path, folder: Path, seed: int) -> Inputs:
        """The rows in a file in `folder`, read as `read_inputs` reads them, for the adapter in PEFT's folder `adapter`.

        Raises UsageError (`too-few-rows`), and what opening the adapter raises.
        """
        file = write_whole(folder / PROMPTS, [self.text.encode()])
        kind: Kind = "causal_lm" if self.labels is None else "sequence_classification"
        request = CalibrateSettings(
            adapter=adapter,
            prompts=file,
            completion_tokens=self.completion_tokens,
            seed=seed,
            batch_size=self.batch_size,
            max_length=self.max_length,
            device=self.device,
        )
        rows = read_rows(file, kind, load_tokenizer(self.model))
        with open_adapter(adapter) as opened:
            ranks = {pair.module: pair.rank for pair in opened.pairs}
        return Inputs(request, adapter, kind, self.model, self.labels, rows, ranks)


def rows_of(task: Task, examples: Sequence[Any]) -> Iterator[str]:
    """The examples as lines of JSON, without their labels.

    A prompt stands alone, and the probe writes what is scored; where choices are compared there is nothing to write,
    and the tokens of the right one are what is scored.
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
